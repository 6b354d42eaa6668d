"""resume-order: resume with the batch that comes next."""

from __future__ import annotations

import ast
from typing import Any

import pytest
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


APPLIED = [
    case("batches with their numbers", script(), fixed()),
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
]

REFUSED = [
    satisfied("there", fixed()),
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
        script("unet = accelerator.prepare(unet)"),
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
]
LOOP = "            # Train\n"
BACKWARD = "            accelerator.backward(loss(batch))\n"
LIMIT = "            if global_step >= args.max_train_steps:\n                break\n"
BAD = "            if batch is None:\n                continue\n            for x in batch:\n                break\n"
APPLIED += [
    case(id, script().replace(BACKWARD, more + BACKWARD), fixed().replace(BACKWARD, more + BACKWARD))
    for id, more in (("left at the run's end", LIMIT), ("a batch that is no good, and a loop of its own", BAD))
]


def otherwise(id: str, reason: str, old: str, new: str, line: int = 16) -> Any:
    return conflict(id, reason, line, script().replace(old, new))


BACK = "if loss(batch).isnan(): accelerator.load_state(x)"
EPOCHS = "    for epoch in range(first_epoch, 9):\n"
ENDS = "                if step > 3: raise StopIteration\n                accelerator"
CUT = (
    script().replace(
        "        for step, batch in enumerate(loader):\n            # Train\n            accelerator",
        "        try:\n            for step, batch in enumerate(loader):\n                # Train\n" + ENDS,
    )
    + "        except StopIteration:\n            pass\n"
)
ELSE = f"            if done:\n                done -= 1\n            else:\n    {TRAIN}                accelerator"
COUNTS = script().replace("            # Train\n            accelerator", ELSE)
SKIP_ONE = "            if done > 0:\n                done -= 1\n                continue\n"
REFUSED += [
    otherwise(
        "an epoch that ends early",
        "a `break` (line 18)",
        LOOP,
        "            if step >= args.n:\n                break\n",
    ),
    conflict(
        "it counts down",
        "in its own way",
        17,
        script().replace("\n    for epoch", "        done = args.done\n\n    for epoch").replace(LOOP, SKIP_ONE),
    ),
    otherwise("by its number", "in its own way", LOOP, "            if step < args.begin:\n                continue\n"),
    *(
        otherwise(
            f"stateful: {what}", f"`{what}` lets the loader itself go on", "Accelerator()", f"Accelerator(); {what}"
        )
        for what in ("loader.load_state_dict(x)", "accelerator.register_for_checkpointing(loader)")
    ),
    otherwise(
        "stateful", "`use_stateful_dataloader=True` lets", "Accelerator()", "Accelerator(use_stateful_dataloader=True)"
    ),
    otherwise(
        "another loader later",
        "`loader` is given something else after it is prepared",
        "        for step",
        "        loader = accelerator.prepare(make(epoch))\n        for step",
        17,
    ),
    otherwise(
        "of the batch before",
        "`last` is made, or read, where `step > 0` (line 17)",
        LOOP,
        "            if step > 0:\n                batch = batch + last\n            last = batch\n",
    ),
    otherwise(
        "losses by number",
        "`losses[step - 1]` (line 18) is of an epoch's earlier batch",
        LOOP,
        "            losses.append(step)\n            print(losses[step - 1])\n",
    ),
    otherwise(
        "counted on from the step",
        "counts on from `global_step`, and from the batch, too",
        LOOP,
        "            print(global_step + epoch * len(loader) + step)\n",
    ),
    otherwise(
        "another accelerator", "`accelerator` loads the checkpoint, and `other`", "accelerator.prep", "other.prep"
    ),
    conflict(
        "a progress bar",
        "`bar` is `tqdm(…)` of a loader: go over `loader` itself",
        17,
        script(batch="batch", over="bar").replace("    global_step = 0", "    bar = tqdm(loader)\n    global_step = 0"),
    ),
    conflict(
        "what is left of a loader",
        "with `skip_first_batches`: take that out first",
        17,
        script(over="enumerate(left)").replace(
            "    global_step = 0", "    left = accelerator.skip_first_batches(loader, 3)\n    global_step = 0"
        ),
    ),
    otherwise("an earlier state brought back", "loaded in a loop (line 18)", LOOP, f"{LOOP}            {BACK}\n"),
    otherwise(
        "made with the first batch",
        "`total` is made, or read, where `step == 0` (line 17)",
        LOOP,
        "            if step == 0:\n                total = 0\n            total += 1\n",
    ),
    conflict(
        "another loader beside it",
        "`next(more)` (line 18) is read beside it",
        17,
        script().replace(LOOP, "            mine = next(more)\n").replace(EPOCHS, f"{EPOCHS}        more = iter(x)\n"),
    ),
    conflict("an epoch is cut", "a `raise` (line 19) ends an epoch", 17, CUT),
    conflict("it counts down, and trains else", "in its own way", 16, COUNTS),
    otherwise("another random", "`random` is something else", "import random", "from numpy import random"),
    otherwise("a random of its own", "`random` is something else", "import torch\n", "random = 4\n"),
    otherwise("a function os", "`os` is something else", "import os\n", "def os(): pass\n"),
    otherwise("a parameter", "`train_batches` is something else", "(args)", "(args, train_batches)"),
    otherwise(
        "loaded on a line with others",
        "several statements share line 12",
        "    if args.resume_from_checkpoint:\n        accelerator.load",
        "    accelerator.print(1); accelerator.load",
        15,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


ONE_LINE = "prepared = 1; global_step = 0; "


def test_statements_on_a_line_above_do_not_move_where_the_batches_are_made() -> None:
    """The load hook must be there before the checkpoint is loaded."""
    before, after = (text.replace("    global_step = 0\n", f"    {ONE_LINE}\n") for text in (script(), fixed()))
    check_applied(NAME, Case(before, after))


METHOD = "class T:\n    def f(self, a):\n        a.load_state(x)\n        for b in self:\n            a.backward(b)\n"
HELPER = "def one(a, loader):\n    for b in loader:\n        a.backward(b)\n\n\ndef main(a):\n    a.load_state(x)\n"
NESTED = "def main(a, loader):\n    def back():\n        a.load_state(x)\n    for b in loader:\n        a.backward(b)\n"


BY_HAND = (
    "def main(a, loader):\n    a.load_state(x)\n    it = iter(loader)\n    while True:\n"
    "        b = next(it)\n        a.backward(b)\n"
)


@pytest.mark.parametrize(
    ("text", "lines"), [(BY_HAND, [5]), (METHOD, [4]), (HELPER, [2]), (NESTED, [4]), (script(), []), (fixed(), [])]
)
def test_training_where_the_checkpoint_is_loaded_elsewhere_looks_like_it(text: str, lines: list[int]) -> None:
    fix = fixes.load(NAME)
    assert [sign.line for sign in fix.looks_like(ast.parse(text), {})] == lines
