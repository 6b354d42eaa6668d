"""validation-cast: validate the model in training without casting it."""

from __future__ import annotations

from typing import Any

from fixing import case, conflict, gone, satisfied, tables, unlike

NAME = "validation-cast"
CAST = "    pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)\n"
DEFINITION = "def log_validation(pipeline, accelerator, torch_dtype):\n"
OFFLOAD = "    pipeline.enable_model_cpu_offload()\n"
AUTOCAST = "    with torch.autocast(accelerator.device.type):\n        return pipeline()\n"
LAST = CAST.replace("_dtype)", "_dtype if last else None)")
MOVE = CAST.replace(", dtype=torch_dtype", "")
ALONE = "    pipeline = pipeline.to(dtype=torch_dtype)\n"
FLAGGED = "def log_validation(pipeline, accelerator, torch_dtype, last=False):\n"
ON, UNDER = "torch.autocast(accelerator.device.type)", "    with ctx:\n        return pipeline()\n"
CTX = f"    ctx = nullcontext() if last else {ON}\n"
MAC = "last or torch.backends.mps.is_available()"
FINAL = """\
unet = UNet.from_pretrained(args.model, subfolder="unet")
pipeline = Pipe.from_pretrained(args.model, unet=unet)
pipeline = Pipe.from_pretrained(args.model, torch_dtype=weight_dtype)
"""


def moves(id: str, before: str, after: str) -> Any:
    return case(id, f"{DEFINITION}    {before}\n{AUTOCAST}", f"{DEFINITION}    {after}\n{AUTOCAST}")


APPLIED = [
    moves(
        "as in the script",
        "pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)",
        "pipeline = pipeline.to(accelerator.device)",
    ),
    moves(
        "another dtype, a comment",
        "pipe = pipe.to(accelerator.device, dtype=weight_dtype)  # to",
        "pipe = pipe.to(accelerator.device)  # to",
    ),
    moves(
        "in place, a comma at the end",
        "pipeline.to( accelerator.device, dtype=torch_dtype, )",
        "pipeline.to( accelerator.device)",
    ),
    moves(
        "the dtype by its place",
        "pipeline = pipeline.to(accelerator.device, torch_dtype)",
        "pipeline = pipeline.to(accelerator.device)",
    ),
    moves(
        "the device by its name",
        "pipeline.to(dtype=torch_dtype, device=accelerator.device)",
        "pipeline.to(device=accelerator.device)",
    ),
    case(
        "the final validation is without autocast",
        """
        def log_validation(pipeline, accelerator, torch_dtype, is_final_validation=False):
            pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
            autocast_ctx = torch.autocast(accelerator.device.type) if not is_final_validation else nullcontext()
        """,
        """
        def log_validation(pipeline, accelerator, torch_dtype, is_final_validation=False):
            pipeline = pipeline.to(accelerator.device, dtype=torch_dtype if is_final_validation else None)
            autocast_ctx = torch.autocast(accelerator.device.type) if not is_final_validation else nullcontext()
        """,
    ),
    case(
        "in the branch of another if, a context of its own",
        """
        def log_validation_images(pipeline, accelerator, torch_dtype):
            if True:
                # to the device
                pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
            autocast_ctx = autocast(accelerator.device.type)
        """,
        """
        def log_validation_images(pipeline, accelerator, torch_dtype):
            if True:
                # to the device
                pipeline = pipeline.to(accelerator.device)
            autocast_ctx = autocast(accelerator.device.type)
        """,
    ),
    *(
        case(
            f"cast, and offloaded, {where}",
            f"{DEFINITION}{above}\n    # cast\n    pipeline = pipeline.to(dtype=torch_dtype)\n{below}"
            f"    # offload\n{OFFLOAD}{AUTOCAST}",
            f"{DEFINITION}{above}\n    # offload\n{OFFLOAD}{AUTOCAST}",
        )
        for where, above, below in (("second", "    a = 1\n", ""), ("third", "    a = 1\n    b = 2\n", "\n"))
    ),
    unlike(
        "other choices, other names",
        "def infer():\n    pass\n"
        f"{DEFINITION}    a = autocast('z') if not a else None\n    b = autocast('z') if zzz else None\n"
        "    pipeline.to(a, zzz=3, dtype=b, aaa=4)\n    with autocast('z'): pipeline()\n",
        "def infer():\n    pass\n"
        f"{DEFINITION}    a = autocast('z') if not a else None\n    b = autocast('z') if zzz else None\n"
        "    pipeline.to(a, zzz=3, aaa=4)\n    with autocast('z'): pipeline()\n",
    ),
    *(
        unlike(
            f"the final validation is without autocast, {how}",
            f"{FLAGGED}{CAST}{lines}{UNDER}",
            f"{FLAGGED}{LAST}{lines}{UNDER}",
        )
        for how, lines in (
            ("named otherwise", f"    ctx = {ON} if not last else nullcontext()\n"),
            ("the other way round", f"    ctx = nullcontext() if last else {ON}\n"),
            ("by an if", f"    if last:\n        ctx = nullcontext()\n    else:\n        ctx = {ON}\n"),
            ("but for a branch", f"    ctx = nullcontext()\n    if not last:\n        ctx = {ON}\n"),
            ("switched off", "    ctx = torch.autocast('npu', enabled=not last)\n"),
        )
    ),
    *(
        unlike(
            f"autocast is off, {how}",
            f"{FLAGGED}{CAST}    if {off}:\n        ctx = nullcontext()\n    else:\n        ctx = {ON}\n{UNDER}",
            f"{FLAGGED}{CAST.replace('_dtype)', f'_dtype if {off} else None)')}"
            f"    if {off}:\n        ctx = nullcontext()\n    else:\n        ctx = {ON}\n{UNDER}",
        )
        for how, off in (
            ("on a Mac", "torch.backends.mps.is_available()"),
            ("on a Mac, or at the end", MAC),
        )
    ),
    *(
        unlike(
            f"cast alone, {how}",
            f"{DEFINITION}{ALONE}{below}{AUTOCAST}",
            f"{DEFINITION}{below}{AUTOCAST}",
        )
        for how, below in (
            ("then moved", MOVE),
            ("offloaded part by part", "    pipeline.enable_sequential_cpu_offload()\n"),
            ("offloaded or moved", f"    if low:\n    {OFFLOAD}    else:\n        pipeline.to(accelerator.device)\n"),
        )
    ),
    *(
        unlike(f"{how} trains", f"{DEFINITION}{made}{CAST}{AUTOCAST}", f"{DEFINITION}{made}{MOVE}{AUTOCAST}")
        for how, made in (
            ("a part", "    pipeline = Pipe.from_pretrained(args.model, unet=self.unet)\n"),
            ("what is handed on", "    pipeline = Pipe.from_pretrained(args.model, **parts)\n"),
            ("what is put in", "    pipeline = Pipe.from_pretrained(a.b)\n    pipeline.register_modules(unet=unet)\n"),
        )
    ),
    unlike(
        "cast by its place, and offloaded",
        f"{DEFINITION}    pipeline.to(weight_dtype)\n{OFFLOAD}{AUTOCAST}",
        f"{DEFINITION}{OFFLOAD}{AUTOCAST}",
    ),
    unlike(
        "offloaded in one branch, moved in the other",
        f"{DEFINITION}    if low:\n    {ALONE}    {OFFLOAD}    else:\n    {CAST}{AUTOCAST}",
        f"{DEFINITION}    if low:\n    {OFFLOAD}    else:\n    {MOVE}{AUTOCAST}",
        2,
    ),
    unlike(
        "one of several",
        f"{DEFINITION}    for n, pipe in (('a', pipeline), ('b', ema)):\n        pipe.to(device, dtype=torch_dtype)\n"
        f"        with {ON}:\n            save(n, pipe())\n",
        f"{DEFINITION}    for n, pipe in (('a', pipeline), ('b', ema)):\n        pipe.to(device)\n"
        f"        with {ON}:\n            save(n, pipe())\n",
    ),
    unlike(
        "cast twice, then moved",
        f"{DEFINITION}    a = 1\n    b = 2\n\n    pipeline.to(torch.float16)\n{ALONE}    # move\n{MOVE}{AUTOCAST}",
        f"{DEFINITION}    a = 1\n    b = 2\n\n    # move\n{MOVE}{AUTOCAST}",
        2,
    ),
    unlike(
        "cast alone, the final validation without autocast",
        f"{FLAGGED}    # cast\n{ALONE}{OFFLOAD}    ctx = nullcontext() if last else {ON}\n{UNDER}",
        f"{FLAGGED}    # cast\n    if last:\n    {ALONE}{OFFLOAD}    ctx = nullcontext() if last else {ON}\n{UNDER}",
    ),
    unlike(
        "cast alone, the final pipeline loaded so",
        f"{FLAGGED}{ALONE}{OFFLOAD}{CTX}{UNDER}{FINAL}",
        f"{FLAGGED}{OFFLOAD}{CTX}{UNDER}{FINAL}",
    ),
    *(
        unlike(f"under autocast {how}", f"{above}{DEFINITION}{CAST}{lines}", f"{above}{DEFINITION}{MOVE}{lines}")
        for how, above, lines in (
            ("all of it", f"@{ON}\n", "    return pipeline()\n"),
            (
                "in a function inside",
                "",
                f"    def make(p):\n        return pipeline(p)\n    with {ON}:\n        make(1)\n",
            ),
            ("by a partial", "", f"    make = partial(pipeline, 3)\n    with {ON}:\n        make(1)\n"),
            (
                "in a function of the script",
                "def make(pipe, n): pipe(n)\n",
                f"    with {ON}:\n        make(pipeline, 1)\n",
            ),
            ("switched on", "", "    with torch.autocast('npu', enabled=True):\n        return pipeline()\n"),
            ("below what is not known, and sets it up", "", f"    enable_tiling(pipeline)\n{AUTOCAST}"),
            ("its VAE is asked for its dtype", "", f"    d = pipeline.vae.dtype\n    pipeline.vae = vae\n{AUTOCAST}"),
            ("decorated", "", f"    @{ON}\n    def make(): return pipeline()\n    return make()\n"),
            (
                "entered",
                "",
                f"    with ExitStack() as all:\n        all.enter_context({ON})\n        return pipeline()\n",
            ),
            (
                "again",
                "",
                f"{AUTOCAST[:-26]}        pipeline()\n    log_validation(pipeline, accelerator, torch_dtype)\n",
            ),
            (
                "and moved back",
                "",
                f"    with {ON}:\n        pipeline()\n    pipeline.to('cpu', dtype=torch.float32)\n",
            ),
            (
                "with a function that it calls itself",
                "",
                f"    def watch(pipe, x): return pipe.vae.decode(x)\n    with {ON}:\n        pipeline(call=watch)\n",
            ),
            (
                "below one that only sets it up",
                "def tune(pipe, n): pipe.enable_xformers()\n",
                f"    tune(pipeline, n=1)\n{AUTOCAST}",
            ),
            (
                "in a function of the script that switches it on",
                "def make(n, pipe):\n    with autocast('npu'):\n        pipe(n)\n",
                f"    make(1, pipe=pipeline)\n{AUTOCAST}",
            ),
        )
    ),
]

REFUSED = [
    conflict(
        "all in a block are casts",
        "nothing else is in its block",
        3,
        f"{DEFINITION}    if fp16:\n    {ALONE}    {ALONE}{OFFLOAD}{AUTOCAST}",
        2,
    ),
    *(
        conflict(f"autocast is off at times, {how}", f"autocast is off where `{off}`", 2, f"{DEFINITION}{CAST}{lines}")
        for how, off, lines in (
            ("by an option", "not args.amp", f"    ctx = {ON} if args.amp else nullcontext()\n{UNDER}"),
            (
                "on a Mac",
                "mps()",
                f"    if mps():\n        ctx = nullcontext()\n    else:\n        ctx = {ON}\n{UNDER}",
            ),
            ("by its switch", "not fp16", "    with torch.autocast('npu', enabled=fp16):\n        return pipeline()\n"),
        )
    ),
    conflict(
        "decoded without autocast",
        "also called without autocast",
        2,
        f"{DEFINITION}{CAST}    with {ON}:\n        out = pipeline()\n    return pipeline.vae.decode(out)\n",
    ),
    conflict("cast, and not placed", "nothing moves its pipeline", 2, f"{DEFINITION}{ALONE}{AUTOCAST}"),
    *(
        conflict(
            f"cast at times, {other}",
            f"cast where `{test}`",
            2,
            f"{FLAGGED}    pipeline.to(accelerator.device, {other})\n{CTX}{UNDER}",
        )
        for test, other in (
            ("fp16", "dtype=torch_dtype if fp16 else None"),
            ("fp16", "torch_dtype if fp16 else torch.float32"),
            ("not last", "dtype=torch_dtype if not last else None"),
        )
    ),
    *(
        conflict(f"{moved}", "stands where the device should", 2, f"{DEFINITION}    pipeline.to({moved})\n{AUTOCAST}")
        for moved in ("torch_dtype, accelerator.device", "torch_dtype, device=accelerator.device")
    ),
    conflict(
        "alone in its block",
        "nothing else is in its block",
        3,
        f"{FLAGGED}    if fp16:\n    {ALONE}{OFFLOAD}{CTX}{UNDER}",
    ),
    gone(
        "loaded there, and nothing that trains in it",
        f"{DEFINITION}    pipeline = Pipe.from_pretrained(args.model, vae=args.vae, requires_safety_checker=False)\n"
        f"{CAST}{AUTOCAST}",
    ),
    *(
        gone(f"a copy: {made}", f"{DEFINITION}    {made}\n{CAST}{AUTOCAST}")
        for made in (
            "pipeline = copy.deepcopy(pipeline)",
            "u = deepcopy(unet); pipeline = X.from_pretrained(1, unet=u)",
        )
    ),
    satisfied(
        "cast where a flag says so",
        f"{FLAGGED}{LAST}    ctx = {ON}\n{UNDER}",
    ),
    satisfied("in float32 but at the end", f"{FLAGGED}{LAST.replace('None', 'torch.float32')}    ctx = {ON}\n{UNDER}"),
    satisfied("cast by a branch at the end", f"{FLAGGED}    if last:\n    {CAST}    ctx = {ON}\n{UNDER}"),
    satisfied(
        "cast by a choice the other way round",
        f"{FLAGGED}{CAST.replace('torch_dtype)', 'None if not last else torch_dtype)')}    ctx = {ON}\n{UNDER}",
    ),
    satisfied("there", f"{DEFINITION}    pipeline = pipeline.to(accelerator.device)\n{AUTOCAST}"),
    gone(
        "without autocast",
        f"{DEFINITION}    pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)\n    return pipeline()\n",
    ),
    gone(
        "elsewhere",
        f"def main(pipeline, accelerator):\n    pipeline = pipeline.to(accelerator.device, dtype=d)\n{AUTOCAST}",
    ),
    gone("a part of it", f"{DEFINITION}    pipeline.vae = pipeline.vae.to(accelerator.device, dtype=d)\n{AUTOCAST}"),
    conflict(
        "called without autocast, too",
        "also called without autocast",
        2,
        f"{DEFINITION}{CAST}    if slow:\n        return pipeline()\n{AUTOCAST}",
    ),
    conflict(
        "autocast is for another thing",
        "also called without autocast",
        2,
        f"{DEFINITION}{CAST}    with torch.autocast('npu'):\n        score()\n    return pipeline()\n",
    ),
    conflict(
        "called before it is cast",
        "is not called under autocast below",
        4,
        f"{DEFINITION}    with torch.autocast('npu'):\n        a = pipeline()\n{CAST}    return a\n",
    ),
    conflict(
        "twice",
        "expected 1 place to fix, found 2 (lines 2, 3)",
        2,
        f"{DEFINITION}{CAST}{CAST}{AUTOCAST}",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
