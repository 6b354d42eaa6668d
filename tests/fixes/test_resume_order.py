"""resume-order: resume with the batch that comes next."""

from __future__ import annotations

import ast

from fixing import Case, case, check_applied, conflict, gone, satisfied, tables

from kit import fixes
from kit.fixes.resume_order import _CODE

NAME = "resume-order"

SCRIPT = """\
import os
{imports}
import torch

{code}
def main(args):
    accelerator = Accelerator()
    {prepare}
    global_step = 0
{new}
    # Potentially load in the weights and states from a previous save
    if args.resume_from_checkpoint:
        accelerator.load_state(args.resume_from_checkpoint)

    for epoch in range(first_epoch, 9):
        for {batch} in {over}:
{skip}            # Train
            accelerator.backward(loss(batch))
"""
TRAIN = "            # Train\n"
PREPARE = "unet, loader = accelerator.prepare(unet, loader)"
NEW = "    train_batches = ResumableBatches(accelerator, loader)\n"
SKIP = """\
            # Skip steps until we reach the resumed step
            if args.resume_from_checkpoint and epoch == first_epoch and step < resume_step:
                progress_bar.update(1)
                continue

"""


def script(
    prepare: str = PREPARE,
    batch: str = "step, batch",
    over: str = "enumerate(loader)",
    skip: str = "",
    imports: str = "import random",
) -> str:
    return SCRIPT.format(code="", new="", prepare=prepare, batch=batch, over=over, skip=skip, imports=imports)


def fixed(prepare: str = PREPARE, batch: str = "step, batch") -> str:
    names = {"code": f"\n{_CODE}\n", "new": NEW, "over": "train_batches", "skip": "", "imports": "import random"}
    return SCRIPT.format(prepare=prepare, batch=batch, **names)


ANOTHER = "        for batch in loader:\n            a.backward(batch)\n"
OTHERS = "\n\ndef aaa():\n    pass\n\n\ndef zzz():\n    pass\n"
STARRED = "unet, loader = accelerator.prepare(*made)"
SAVES = "            if step % 9:\n                continue\n            accelerator.save_state(x)\n"
APPLIED = [
    case("it goes on once a batch is trained", script() + SAVES, fixed() + SAVES),
    case("prepared with others at once", script(STARRED), fixed(STARRED)),
    case("batches with their numbers", script(), fixed()),
    case("other functions", script() + OTHERS, fixed() + OTHERS),
    case("batches alone", script(batch="batch", over="loader"), fixed(batch="_, batch")),
    case("what it passed by itself", script(skip=SKIP), fixed()),
    case("without random", script(imports="").replace("os\n\n", "os\n"), fixed()),
    case("without os", script().replace("import os\n", ""), fixed().replace("os\nimport random", "random\nimport os")),
    case(
        "several ways to prepare",
        script(f"if args.text:\n        {PREPARE}\n    else:\n        {PREPARE}"),
        fixed(f"if args.text:\n        {PREPARE}\n    else:\n        {PREPARE}"),
    ),
    *(
        case("what it passed by below", script(skip=above + SKIP), fixed().replace(TRAIN, above + TRAIN))
        for above in ("            a = 1\n", "            a = 1\n            b = 1\n")
    ),
    *(
        case(f"beside another line: {line}", script(f"{PREPARE}; {line}"), fixed(f"{PREPARE}; {line}"))
        for line in ("DataLoader(data, persistent_workers=False)", "load_dataset('x', streaming=False)")
    ),
    case(
        "what it passed by, above two lines",
        script(skip=SKIP + "            c = 1\n"),
        fixed().replace(TRAIN, f"            c = 1\n{TRAIN}"),
    ),
    case(
        "what it passed by in a line",
        script(skip=SKIP.replace("                progress_bar.update(1)\n", "")),
        fixed(),
    ),
    *(
        case(id, *(text.replace(old, new) for text in (script(), fixed())))
        for id, old, new in (
            (
                "another statement on the line that loads",
                "    if args.resume_from_checkpoint:\n        accelerator.load_state(args.resume_from_checkpoint)\n",
                "    accelerator.load_state(args.resume_from_checkpoint); a = 1\n",
            ),
            ("two statements on a line below what loads", "    for epoch", "    a = 1; b = 2\n    for epoch"),
            ("stages of a training", "range(first_epoch, 9)", "args.stages"),
        )
    ),
]

REFUSED = [
    satisfied("there", fixed()),
    satisfied("there, above another loop", fixed() + ANOTHER),
    gone("no checkpoint is loaded", script().replace("load_state", "load")),
    gone("no training", script().replace("backward", "log")),
    conflict("not a loader", "it goes over `tqdm(loader)`: make that `enumerate(…)`", 16, script(over="tqdm(loader)")),
    *(
        conflict(
            f"no length: {data}",
            "without a length",
            16,
            script(f"data = {data}; {PREPARE}"),
        )
        for data in (
            "load_dataset('x', streaming=True)",
            "load_dataset('x', streaming=1)",
            "Mine(IterableDataset)",
            "given.to_iterable_dataset()",
        )
    ),
    conflict("numbered from 1", "it goes over `enumerate(loader, 1)`", 16, script(over="enumerate(loader, 1)")),
    conflict(
        "not prepared",
        "`loader` is not prepared by accelerate: what it hands out next, it alone knows",
        16,
        script("loader = made(data); unet = accelerator.prepare(unet)"),
    ),
    conflict(
        "accelerate's way to pass by",
        "it passes by what is done with `skip_first_batches`: take that out first",
        17,
        script().replace("    for epoch", "    skipped = accelerator.skip_first_batches(loader, 3)\n    for epoch"),
    ),
    conflict("its own way", "in its own way", 16, script(skip="            if resume_step > step: continue\n")),
    conflict(
        "loaded later",
        "`main` does not load its checkpoint between preparing and training",
        10,
        "import os\nimport random\nimport torch\n\n\ndef main(args):\n    accelerator = Accelerator()\n"
        "    loader = accelerator.prepare(loader)\n    for epoch in range(9):\n        for batch in loader:\n"
        "            accelerator.backward(batch)\n    accelerator.load_state(args.path)\n",
    ),
    conflict(
        "persistent workers",
        "its workers are persistent",
        17,
        script().replace(
            "    accelerator =", "    loader = DataLoader(data, persistent_workers=True)\n    accelerator ="
        ),
    ),
    conflict(
        "so called already",
        "`train_batches` is something else there",
        16,
        script("unet, train_batches = accelerator.prepare(unet, train_batches)", over="train_batches"),
    ),
    conflict("another of that name", "is something else there", 16, script().replace("global_step", "train_batches")),
    conflict(
        "two loops",
        "`main` trains in 2 loops: which of them was interrupted?",
        16,
        script() + "        for batch in loader:\n            accelerator.backward(batch)\n",
    ),
    conflict("no torch", "`torch` is not bound there", 16, script().replace("import torch\n", "import jax\n")),
    *(
        conflict(f"beside another line: {line}", reason, 16, script(f"{PREPARE}; {line}"))
        for line, reason in (
            ("DataLoader(data, persistent_workers=1)", "its workers are persistent"),
            ("accelerator.load_state(path)", "does not load its checkpoint between preparing and training"),
        )
    ),
    conflict(
        "prepared below what loads",
        "does not load its checkpoint between preparing and training",
        17,
        script("pass").replace("    for epoch", f"    {PREPARE}\n    for epoch"),
    ),
    conflict(
        "prepared again below what loads",
        "does not load its checkpoint between preparing and training",
        17,
        script().replace("    for epoch", f"    {PREPARE}\n    for epoch"),
    ),
    conflict(
        "wrapped once it is prepared",
        "`loader` is given something else after it is prepared",
        17,
        script(f"{PREPARE}\n    loader = wrap(loader)"),
    ),
    conflict(
        "loaded in the loop",
        "does not load its checkpoint between preparing and training",
        8,
        "import os\nimport random\nimport torch\n\n\ndef main(accelerator, loader):\n"
        "    loader = accelerator.prepare(loader)\n    for batch in loader:\n        accelerator.load_state(1)\n"
        "        accelerator.backward(batch)\n",
    ),
    conflict("numbered from nothing", "it goes over `enumerate()`", 16, script(over="enumerate()")),
    conflict("passed by twice", "in its own way", 16, script(skip=SKIP + SKIP)),
    conflict("passed by otherwise", "in its own way", 16, script(skip="            f(resume_step)\n")),
]
LOOP = "            # Train\n"
BACKWARD = "            accelerator.backward(loss(batch))\n"
LIMIT = "            if global_step >= args.max_train_steps:\n                break\n"
BAD = "            if batch is None:\n                continue\n            for x in batch:\n                break\n"
APPLIED += [
    case(id, script().replace(BACKWARD, more + BACKWARD), fixed().replace(BACKWARD, more + BACKWARD))
    for id, more in (("left at the run's end", LIMIT), ("a batch that is no good, and a loop of its own", BAD))
]


BEGUN = "            if begun:\n                continue\n"
ABOVE = [
    text.replace(TRAIN, BEGUN + TRAIN).replace("    global_step = 0\n", "    begun = 0\n") + "    begun = 1\n"
    for text in (script(), fixed())
]
APPLIED.append(case("by a word from above and below", *ABOVE))

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


ONE_LINE = "prepared = 1; global_step = 0; "


def test_statements_on_a_line_above_do_not_move_where_the_batches_are_made() -> None:
    """The load hook must be there before the checkpoint is loaded."""
    before, after = (text.replace("    global_step = 0\n", f"    {ONE_LINE}\n") for text in (script(), fixed()))
    check_applied(NAME, Case(before, after))


def test_its_place_is_the_first_loop() -> None:
    done, todo = (fixes.load(NAME).sites(ast.parse(f"{text()}{ANOTHER}"), {})[0].line for text in (fixed, script))
    assert (done, todo) == (fixed().splitlines().index("        for step, batch in train_batches:") + 1, 16)
