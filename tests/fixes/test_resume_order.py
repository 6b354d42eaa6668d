"""resume-order: resume with the batch that comes next."""

from __future__ import annotations

import ast
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixing import Case, case, check_applied, conflict, gone, run, satisfied, tables

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


@pytest.mark.parametrize(
    ("text", "lines"), [(METHOD, [4]), (HELPER, [2]), (NESTED, [4]), (script(), []), (fixed(), [])]
)
def test_training_where_the_checkpoint_is_loaded_elsewhere_looks_like_it(text: str, lines: list[int]) -> None:
    fix = fixes.load(NAME)
    assert [sign.line for sign in fix.looks_like(ast.parse(text), {})] == lines


# ---- What the class does, with stand-ins for torch, the loader and the accelerator ----


Batch = tuple[int, float, float]  # the image, and its two crops


class Torch:
    """torch's random numbers and files, by Python's."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.saved: dict[str, object] = {}

    def get_rng_state(self) -> object:
        return self.random.getstate()

    def set_rng_state(self, state: Any) -> None:
        self.random.setstate(state)

    def save(self, state: object, path: str) -> None:
        Path(path).touch()
        self.saved[path] = state

    def load(self, path: str) -> object:
        return self.saved[path]


class Generator:
    """Of the sampler on several processes."""

    def __init__(self) -> None:
        self.random = random.Random(2)

    def get_state(self) -> object:
        return self.random.getstate()

    def set_state(self, state: Any) -> None:
        self.random.setstate(state)


class Buckets:
    """A batch sampler that shuffles its own list, by Python's random numbers, as the last epoch left it."""

    def __init__(self, images: int) -> None:
        self.batches = list(range(images))


class Shard:
    """accelerate's, around another one."""

    def __init__(self, sampler: Buckets) -> None:
        self.batch_sampler = sampler


class Loader:
    """As accelerate's: shuffles as an epoch starts, reads one batch ahead; each is cropped where it is read."""

    def __init__(self, torch: Torch, images: int, generator: Generator | None, buckets: Buckets | None = None) -> None:
        self.torch, self.images, self.synchronized_generator = torch, images, generator
        self.buckets = buckets
        self.batch_sampler = Shard(buckets) if buckets and generator else buckets

    def __len__(self) -> int:
        return self.images

    def read(self) -> Iterator[Batch]:
        order = self.buckets.batches if self.buckets else list(range(self.images))
        draws = random if self.buckets else (self.synchronized_generator or self.torch).random
        draws.shuffle(order)
        for image in order:
            yield image, self.torch.random.random(), random.random()

    def __iter__(self) -> Iterator[Batch]:
        batches = self.read()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


class Accelerator:
    """Saves the random states as accelerate does, after its hooks."""

    def __init__(self, torch: Torch, processes: int, process: int = 0) -> None:
        self.torch, self.num_processes, self.process_index = torch, processes, process
        self.hooks: list[Callable[..., None]] = []
        self.printed: list[str] = []
        self.register_save_state_pre_hook = self.register_load_state_pre_hook = self.hooks.append
        self.print = self.printed.append

    def save_state(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.hooks[0]([], [], str(folder))
        self.states = self.torch.get_rng_state(), random.getstate()

    def load_state(self, folder: Path, states: tuple[Any, Any]) -> None:
        self.hooks[1]([], str(folder))
        self.torch.set_rng_state(states[0])
        random.setstate(states[1])


class Run:
    """A training of three epochs of ``images`` batches; from step ``at`` of ``before`` on where that is given."""

    def __init__(
        self,
        folder: Path,
        processes: int,
        before: Run | None = None,
        at: int = 0,
        images: int = 5,
        process: int = 0,
        buckets: bool = False,
    ) -> None:
        random.seed(3 + bool(before))
        self.torch = Torch()
        self.states: dict[int, tuple[Any, Any]] = {}
        accelerator = Accelerator(self.torch, processes, process)
        generator = Generator() if processes > 1 else None
        loader = Loader(self.torch, images, generator, Buckets(images) if buckets else None)
        self.torch.saved = before.torch.saved if before else {}
        batches = run(_CODE, torch=self.torch, random=random, os=os)["ResumableBatches"](accelerator, loader)
        if before:
            accelerator.load_state(folder / str(at), before.states[at])
        self.trained: list[tuple[int, Batch, tuple[float, float]]] = []
        for _ in range(at // images, 3):
            for step, batch in batches:
                noise = self.torch.random.random(), random.random()
                self.trained.append((step, batch, noise))
                at += 1
                accelerator.save_state(folder / str(at))
                self.states[at] = accelerator.states
        self.printed = accelerator.printed


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("at", range(1, 15))
def test_a_resumed_run_goes_on_to_the_last_bit(tmp_path: Path, processes: int, at: int, buckets: bool) -> None:
    whole = Run(tmp_path, processes, buckets=buckets)
    again = Run(tmp_path, processes, whole, at, buckets=buckets)
    assert again.trained == whole.trained[at:] and not again.printed


def test_resumed_twice_in_an_epoch(tmp_path: Path) -> None:
    whole = Run(tmp_path, 2)
    again = Run(tmp_path, 2, whole, 6)
    assert Run(tmp_path, 2, again, 8).trained == whole.trained[8:]


def test_without_it_the_epoch_starts_over(tmp_path: Path) -> None:
    """What the stand-ins are worth: as upstream loads a checkpoint, the loader shuffles anew."""
    whole = Run(tmp_path, 1)
    torch = Torch()
    torch.set_rng_state(whole.states[2][0])
    assert [image for image, *_ in Loader(torch, 5, None)] != [batch[0] for _, batch, _ in whole.trained[:5]]


def test_an_uninterrupted_run_stays_what_it_was(tmp_path: Path) -> None:
    random.seed(3)
    torch = Torch()
    loader = Loader(torch, 5, None)
    plain = [
        (step, batch, (torch.random.random(), random.random())) for _ in range(3) for step, batch in enumerate(loader)
    ]
    assert Run(tmp_path, 1).trained == plain


def test_a_process_that_saved_nothing_has_the_order_of_the_first(tmp_path: Path) -> None:
    whole = Run(tmp_path, 2)
    again = Run(tmp_path, 2, whole, 7, process=1)
    images = [[batch[0] for _, batch, _ in each] for each in (again.trained, whole.trained[7:])]
    assert images[0] == images[1]


@pytest.mark.parametrize("change", [{"processes": 3}, {"processes": 1, "images": 4}])
def test_another_shape_starts_the_epoch_over_and_says_so(tmp_path: Path, change: dict[str, int]) -> None:
    whole = Run(tmp_path, 1)
    again = Run(tmp_path, before=whole, at=3, **change)
    assert again.printed == [f"No order of as many batches is saved in {tmp_path / '3'}: its epoch starts over."]
    assert len(again.trained) == 3 * change.get("images", 5)


def test_a_checkpoint_without_an_order_loads(tmp_path: Path) -> None:
    whole = Run(tmp_path, 1)
    (tmp_path / "3" / "batch_order_0.pt").unlink()
    assert len(Run(tmp_path, 1, whole, 3).trained) == 15
