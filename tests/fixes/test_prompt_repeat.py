"""prompt-repeat: repeat the one prompt as it was before training."""

from __future__ import annotations

import ast

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

from kit import fixes

NAME = "prompt-repeat"

SCRIPT = """\
def main(loader, captions, embeds, backward):
    cache = list(loader)
{kept}
    # train
    for epoch in range(2):
        for step, prompts in enumerate(loader):
            if {test}:
                embeds = cache[step]
            else:
                embeds = {repeated}  # for the batch
            accelerator.backward(embeds)
"""
KEPT = """
    # Repeated for each batch, which must not find what the last one made of them.
    if not {test}:
        static_embeds = embeds
"""


def script(repeated: str, test: str = "captions", kept: str = "") -> str:
    return SCRIPT.format(repeated=repeated, test=test, kept=kept)


def repeated(id: str, text: str, test: str = "captions", negated: str = "captions") -> object:
    after = text.replace("embeds.", "static_embeds.").replace("in embeds", "in static_embeds")
    return case(id, script(text, test), script(after, test, KEPT.format(test=negated)))


APPLIED = [
    repeated("a tensor", "embeds.repeat(len(prompts), 1, 1)"),
    repeated("another dimension, another test", "embeds.repeat(1, len(prompts))", "data.captions", "data.captions"),
    repeated("each entry in turn", "embeds.repeat_interleave(len(prompts), dim=0)"),
    repeated("a list", "[each for each in embeds for _ in prompts]", "captions is not None", "(captions is not None)"),
]

APPLIED += [
    case(
        "bound where it is repeated",
        *(
            each.replace("captions, embeds", "captions").replace(
                "    cache = list(loader)\n", "    cache = 1\n    if not captions:\n        embeds = encode()\n"
            )
            for each in (APPLIED[0].values[0].before, APPLIED[0].values[0].after)
        ),
    )
]
APPLIED += [
    case(
        "bound under a context",
        *(
            each.replace("captions, embeds", "captions").replace(
                "    cache = list(loader)\n", "    cache = 1\n    with no_grad():\n        embeds = encode()\n"
            )
            for each in (APPLIED[0].values[0].before, APPLIED[0].values[0].after)
        ),
    ),
    case(
        "kept above by hand",
        script("embeds.repeat(len(prompts), 1, 1)", kept=KEPT.format(test="captions")),
        script("static_embeds.repeat(len(prompts), 1, 1)", kept=KEPT.format(test="captions")),
    ),
    case(
        "gone through twice",
        script("[each for each in embeds for _ in embeds]"),
        script("[each for each in static_embeds for _ in embeds]", kept=KEPT.format(test="captions")),
    ),
]
GROWING = script("embeds.repeat(len(prompts), 1, 1)")

REFUSED = [
    satisfied("there", script("static_embeds.repeat(len(prompts), 1, 1)", kept=KEPT.format(test="captions"))),
    satisfied("as upstream does", script("static.repeat_interleave(len(prompts), dim=0)", kept="    static = embeds")),
    gone("encoded for the batch", script("encode(prompts)")),
    *(
        satisfied(
            f"kept as {name}, and the batch's given to the other",
            script(f"{name}.repeat(len(prompts), 1, 1)", "step", f"    {name} = embeds").replace(
                "            if step", "            embeds = prompts\n            if step"
            ),
        )
        for name in "az"
    ),
    gone("three times over", script("[each for each in embeds for _ in prompts for _ in embeds]")),
    conflict(
        "bound under another test",
        "may have no value above the loop",
        12,
        GROWING.replace("captions, embeds", "captions").replace(
            "    cache", "    if zzz:\n        embeds = 1\n    cache", 1
        ),
    ),
    conflict(
        "encoded anew, and others chosen",
        "a value elsewhere",
        12,
        GROWING.replace("(2):\n", "(2):\n        embeds = encode(epoch)\n").replace(
            "= cache[step]\n", "= cache[step]\n                a = zzz = 1\n"
        ),
    ),
    gone("no training", GROWING.replace("accelerator.backward", "print")),
    gone("what the batch brought", "for batch in loader:\n    x = batch.x\n    x = x.repeat(2)\n    a.backward(x)\n"),
    conflict("the test changes in the loop", "changes in the loop", 10, GROWING.replace("captions:", "step:")),
    conflict("the batch is asked", "changes in the loop", 10, GROWING.replace("if captions:", 'if "a" in prompts:')),
    conflict(
        "an attribute changes in the loop",
        "changes in the loop",
        11,
        GROWING.replace("if captions:", "if args.own:").replace("(2):\n", "(2):\n        args.own = epoch > 0\n"),
    ),
    conflict("a call is asked", "may answer otherwise", 10, GROWING.replace("if captions:", "if random() < 0.5:")),
    gone(
        "the batch's own",
        GROWING.replace("            if captions", "            embeds = prompts\n            if captions"),
    ),
    gone("a name of the loop's", GROWING.replace("step, prompts", "embeds, prompts")),
    gone("made right above", GROWING.replace("else:\n", "else:\n                embeds = encode(prompts)\n")),
    conflict(
        "encoded anew for each epoch",
        "a value elsewhere",
        11,
        GROWING.replace("(2):\n", "(2):\n        embeds = encode(epoch)\n"),
    ),
    conflict("after it", "a value elsewhere", 10, GROWING + "        embeds = encode(epoch)\n"),
    conflict("no value above", "may have no value", 10, GROWING.replace("captions, embeds,", "captions,")),
    conflict(
        "a value on one path",
        "may have no value",
        11,
        GROWING.replace("captions, embeds,", "captions,").replace(
            "\n\n", "\n    if cache:\n        embeds = cache[0]\n"
        ),
    ),
    gone("a list of each once", script("[each for each in embeds]")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_it_does_not_grow() -> None:
    given = APPLIED[3].values[0]
    for text, wanted in ((given.before, [2, 4, 8, 16]), (given.after, [2, 2, 2, 2])):
        sizes: list[int] = []
        accelerator = type("Accelerator", (), {"backward": lambda self, embeds, to=sizes: to.append(len(embeds))})()
        run(text, accelerator=accelerator)["main"]([["a", "b"]] * 2, None, ["one"], None)
        assert sizes == wanted


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("embeds = embeds.to(device).repeat(n, 1, 1)", True),
        ("embeds = embeds.tile((n, 1, 1))", True),
        ("embeds = einops.repeat(embeds, '1 s -> b s', b=n)", True),
        ("embeds = embeds * n", True),
        ("embeds *= n", True),
        ("embeds, masks = (each.repeat(n, 1) for each in (embeds, masks))", True),
        ("embeds, masks = embeds.repeat(n, 1, 1), masks.repeat(n, 1)", True),
        ("embeds, masks = (each.repeat(n, 1) for each in (cached, masks))", False),
        ("embeds, masks = (each.repeat(n, 1) for each in (prompts, masks))", False),
        ("embeds = cached * n", False),
        ("embeds = prompts * n", False),
        ("embeds, *others = embeds.repeat(n, 1, 1), masks, n", True),
        ("args.embeds = args.embeds * n", True),
        ("embeds = embeds[:1].repeat(n, 1, 1)", False),
        ("embeds = embeds * scale", False),
        ("embeds = prompts\n            embeds = embeds.tile((n, 1))", False),
    ],
)
def test_other_repetitions_of_its_own_are_said(line: str, seen: bool) -> None:
    head = "import einops\ndef main(loader, embeds, masks):\n    for batch in loader:\n        for prompts in batch:\n"
    text = f"{head}            n = len(prompts)\n            {line}\n            accelerator.backward(embeds)\n"
    assert bool(list(fixes.load(NAME).looks_like(ast.parse(text), {}))) == seen  # type: ignore[attr-defined]


def test_a_function_of_a_module_repeats_nothing_of_its_own() -> None:
    text = "import einops\n" + script("einops.repeat(embeds, '1 s -> b s', b=2)")
    assert not fixes.load(NAME).sites(ast.parse(text), {})
