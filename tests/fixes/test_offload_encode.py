"""offload-encode: encode with an offloaded model while it is on the device."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

NAME = "offload-encode"
WITH = "with offload_models(vae, device=accelerator.device, offload=args.offload):\n"

APPLIED = [
    case(
        "sampled",
        f"for batch in loader:\n    {WITH}        x = batch.to(vae.dtype)\n    y = vae.encode(x).latent_dist\n",
        f"for batch in loader:\n    {WITH}        x = batch.to(vae.dtype)\n        y = vae.encode(x).latent_dist\n",
    ),
    case(
        "put in a cache, with more below",
        f"{WITH}    x = x.to(\n        vae.dtype\n    )\ncache.append(vae.encode(x).latent_dist)  # big\nmore()\n",
        f"{WITH}    x = x.to(\n        vae.dtype\n    )\n    cache.append(vae.encode(x).latent_dist)  # big\nmore()\n",
    ),
]

REFUSED = [
    satisfied("inside", f"{WITH}    x = vae.encode(x.to(vae.dtype))\ny = x\n"),
    gone("nothing is encoded", f"{WITH}    x = x.to(vae.dtype)\ny = vae.decode(x)\n"),
    gone("with another model", f"{WITH}    x = x.to(vae.dtype)\ny = other.encode(x)\n"),
    gone("no offloading", "with torch.no_grad():\n    x = x.to(vae.dtype)\ny = vae.encode(x)\n"),
    conflict("on one line", "it stands on the line of what it is in", 1, f"{WITH[:-1]} pass\ny = vae.encode(x)\n"),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
