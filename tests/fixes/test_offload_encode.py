"""offload-encode: encode with an offloaded model while it is on the device."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "offload-encode"
WITH = "with offload_models(vae, device=accelerator.device, offload=args.offload):\n"

APPLIED = [
    case(
        "sampled",
        f"for batch in loader:\n    {WITH}        x = batch.to(vae.dtype)\n    y = vae.encode(x).latent_dist\n",
        f"for batch in loader:\n    {WITH}        x = batch.to(vae.dtype)\n        y = vae.encode(x).latent_dist\n",
    ),
    case(
        "two images",
        f"if 1:\n    {WITH}        x, z = x.half(), 1\n\n    y = vae.encode(x)\n    z = vae.encode(x)\n    z += y\n",
        f"if 1:\n    {WITH}        x, z = x.half(), 1\n\n        y = vae.encode(x)\n        z = vae.encode(x)\n"
        "    z += y\n",
    ),
    case(
        "put in a cache, with more below",
        f"{WITH}    x = x.to(\n        vae.dtype\n    )\ncache.append(vae.encode(x).latent_dist)  # big\nmore()\n",
        f"{WITH}    x = x.to(\n        vae.dtype\n    )\n    cache.append(vae.encode(x).latent_dist)  # big\nmore()\n",
    ),
    case(
        "below another line",
        f"a = 1\n{WITH}    x = x.half()\ny = vae.encode(x)\nz = vae.encode(y)\nmore()\n",
        f"a = 1\n{WITH}    x = x.half()\n    y = vae.encode(x)\n    z = vae.encode(y)\nmore()\n",
    ),
]

REFUSED = [
    satisfied("inside", f"{WITH}    x = vae.encode(x.to(vae.dtype))\ny = x\n"),
    gone("nothing is encoded", f"{WITH}    x = x.to(vae.dtype)\ny = vae.decode(x)\n"),
    gone("with another model", f"{WITH}    x = x.to(vae.dtype)\ny = other.encode(x)\n"),
    gone("no offloading", "with torch.no_grad():\n    x = x.to(vae.dtype)\ny = vae.encode(x)\n"),
    gone("a loop below", f"{WITH}    x = vae.config\nfor batch in loader:\n    y = vae.encode(batch)\n"),
    gone("a choice below", f"{WITH}    x = vae.config\nif cached:\n    y = 1\nelse:\n    y = vae.encode(x)\n"),
    gone("a function below", f"{WITH}    x = vae.config\ndef encode(x):\n    return vae.encode(x)\n"),
    gone("one without a name", f"{WITH}    x = vae.config\nencode = lambda x: vae.encode(x)\n"),
    conflict(
        "two on a line",
        "several statements share line 3",
        1,
        f"{WITH}    x = 1\ny = vae.encode(x); z = vae.encode(y)\n",
    ),
    conflict("on one line", "it stands on the line of what it is in", 1, f"{WITH[:-1]} pass\ny = vae.encode(x)\n"),
    gone("more than a model", "with offload_models(vae, unet):\n    x = 1\ny = vae.encode(x)\n"),
    gone("more than it is entered", "with offload_models(vae), torch.no_grad():\n    x = 1\ny = vae.encode(x)\n"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
