"""validation-cast: where a pipeline is also called without autocast."""

from __future__ import annotations

from fixing import conflict, tables
from test_validation_cast import AUTOCAST, CAST, DEFINITION, NAME, ON

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
]


_, test_refused = tables(NAME, [], REFUSED)
