"""validation-cast: where a pipeline is also called without autocast, or it is not in sight whether it is."""

from __future__ import annotations

from fixing import conflict, satisfied, tables, unlike
from test_validation_cast import ALONE, AUTOCAST, CAST, CTX, DEFINITION, FLAGGED, MAC, MOVE, NAME, OFFLOAD, ON, UNDER

REFUSED = [
    *(
        conflict(f"without autocast: {how}", f"{what} without autocast (line {at})", 2, f"{DEFINITION}{CAST}{lines}")
        for how, what, at, lines in (
            (
                "by a partial",
                "also called",
                5,
                f"    with {ON}:\n        make = partial(pipeline, 3)\n    return make()\n",
            ),
            (
                "by a lambda",
                "also called",
                5,
                f"    with {ON}:\n        make = lambda: pipeline(3)\n    return make()\n",
            ),
            (
                "by a lambda, and once before",
                "also called",
                5,
                f"    make = lambda: pipeline(3)\n    if first:\n        images.append(pipeline(1).images)\n"
                f"    with {ON}:\n        return make()\n",
            ),
            *(
                ("in a loop over several", "also called", 4, f"    for {over}:\n        one(1)\n{AUTOCAST}")
                for over in ("name, one in (('a', other), ('b', pipeline))", "one, *names in ((pipeline, 'a', 'b'),)")
            ),
            ("by another name", "also called", 4, f"    make = pipeline\n    make(1)\n{AUTOCAST}"),
            ("by `__call__`", "also called", 3, f"    pipeline.__call__(1)\n{AUTOCAST}"),
            (
                "in what is not known",
                "`draw(…)` is handed the pipeline, and may call it",
                3,
                f"    draw(pipeline)\n{AUTOCAST}",
            ),
            (
                "by its VAE",
                "also called",
                6,
                f"    v = pipeline.vae\n    with {ON}:\n        x = pipeline()\n    v.decode(x)\n",
            ),
            (
                "with its VAE",
                "`draw(…)` is handed the pipeline, and may call it",
                3,
                f"    draw(pipeline.vae)\n{AUTOCAST}",
            ),
            (
                "in threads",
                "`pool.map(…)` has threads call the pipeline",
                4,
                f"    with {ON}:\n        return list(pool.map(pipeline, prompts))\n",
            ),
            (
                "as they are asked for",
                "`list(…)` is handed the pipeline, and may call it",
                5,
                f"    with {ON}:\n        made = (pipeline(p) for p in prompts)\n    return list(made)\n",
            ),
            ("anywhere", "the pipeline is handed on to what may call it", 3, f"    self.pipe = pipeline\n{AUTOCAST}"),
            (
                "in a function of the script",
                "also called",
                3,
                f"    draw(pipeline)\n{AUTOCAST}def draw(pipe): return pipe(3)\n",
            ),
        )
    ),
    *(
        conflict(f"autocast is not in sight: {says}", says, at, f"{above}{DEFINITION}{CAST}{lines}")
        for says, at, above, lines in (
            ("entered by hand (line 4)", 2, "", f"    ctx = {ON}\n    ctx.__enter__()\n    return pipeline()\n"),
            ("`make` makes the context", 4, f"def make():\n    return {ON}\n", f"    ctx = make()\n{UNDER}"),
            (
                "`self.autocast` makes the context",
                6,
                f"def autocast(self):\n    if mps: return nullcontext()\n    ctx = {ON}\n    return ctx\n",
                "    with self.autocast():\n        return pipeline()\n",
            ),
            (
                "`make(…)` runs it under autocast",
                5,
                f"def make(pipe):\n    with {ON}:\n        return pipe()\n",
                "    return make(pipeline)\n",
            ),
            ("`get_autocast` makes the context", 2, "", "    with get_autocast(1):\n        return pipeline()\n"),
            (
                "`under` makes the context",
                5,
                f"def under():\n    with {ON}:\n        yield\n",
                "    with under():\n        return pipeline()\n",
            ),
            (
                "`self.amp` comes from",
                4,
                f"class T:\n    amp = {ON}\n",
                "    with self.amp:\n        return pipeline()\n",
            ),
            ("`self.autocast_ctx` comes from", 2, "", "    with self.autocast_ctx:\n        return pipeline()\n"),
        )
    ),
    conflict(
        "on the line of its call",
        "several statements share the line",
        2,
        f"{DEFINITION}    with {ON}: pipeline.to(accelerator.device, dtype=torch_dtype); pipeline()\n",
    ),
    satisfied(
        "cast alone where a flag says so",
        f"{FLAGGED}    if low:\n        if {MAC}:\n        {ALONE}{OFFLOAD}{CTX.replace('last', MAC)}{UNDER}",
    ),
]


APPLIED = [
    unlike(how, f"{above}{DEFINITION}{CAST}{lines}", f"{above}{DEFINITION}{MOVE}{lines}")
    for how, above, lines in (
        ("beside a lambda of something else", "", f"    name = lambda n: str(n)\n    log(name(1))\n{AUTOCAST}"),
        (
            "below a lambda that only sets it up",
            "",
            f"    hush = lambda: pipeline.set_progress_bar_config(disable=True)\n    hush()\n{AUTOCAST}",
        ),
        (
            "in a function that is handed more",
            "def make(log, pipe):\n    log(1)\n    with autocast('npu'):\n        pipe(1)\n",
            f"    make(log=print, pipe=pipeline)\n{AUTOCAST}",
        ),
    )
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
