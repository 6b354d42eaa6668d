"""batch-order: let the first process say in which order a batch sampler goes through its batches."""

from __future__ import annotations

import ast
import random

import pytest
from fixing import case, conflict, gone, run, satisfied, tables, unlike

from kit import fixes

NAME = "batch-order"

SCRIPT = """\
from accelerate.utils import {imported}set_seed


class Buckets(torch.utils.data.BatchSampler):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        # each epoch
        {shuffle}
{new}        for batch in self.batches:
            yield batch
"""
NEW = "        broadcast_object_list(self.batches)  # the first process's order\n"
OTHERS = "from a import set_seed as a\nfrom os import path\nfrom z import set_seed as z\n"
PREVIEW = """

def main(accelerator):
    loader = DataLoader(data, batch_sampler=Buckets([]))
    if accelerator.is_main_process:
        for batch in loader:
            print(batch)
"""
LOADED = """

def main(accelerator, model):
    sampler = Buckets([])
    loader = DataLoader(data, batch_sampler=sampler)
    loader, model = accelerator.prepare(loader, model)
"""
IMPORTED = "broadcast_object_list, "


def script(shuffle: str = "random.shuffle(self.batches)", imported: str = "", new: str = "") -> str:
    return SCRIPT.format(shuffle=shuffle, imported=imported, new=new)


def ordered(id: str, shuffle: str) -> object:
    return case(id, script(shuffle), script(shuffle, IMPORTED, NEW))


APPLIED = [
    ordered("each time", "random.shuffle(self.batches)"),
    ordered("by a generator of no seed", "rng = random.Random()\n        rng.shuffle(self.batches)"),
    ordered(
        "beside numbers of a seed",
        "rng = random.Random(7)\n        skip = rng.random() + rng.uniform(0, 1)\n        random.shuffle(self.batches)",
    ),
    ordered("as it is asked", "if self.shuffle:\n            random.shuffle(self.batches)"),
    ordered("by its own generator, which may be Python's", "self.generator.shuffle(self.batches)"),
    unlike("there, and not imported", script(new=NEW), script(imported=IMPORTED, new=NEW)),
    case("imported, and not there", script(imported=IMPORTED), script(imported=IMPORTED, new=NEW)),
    case(
        "imported, below what comes first",
        script("any.shuffle(self.batches)", IMPORTED),
        script("any.shuffle(self.batches)", IMPORTED, NEW),
    ),
    ordered("others are given, too", "random.shuffle(self.batches)\n        a = 1\n        zzz = 2"),
    case("others are imported, too", f"{OTHERS}{script()}", f"{OTHERS}{script(imported=IMPORTED, new=NEW)}"),
    case("a loader that is prepared", script() + LOADED, script(imported=IMPORTED, new=NEW) + LOADED),
    case(
        "a loader that nobody knows",
        script() + "\n\nloader = made(Buckets([]))\n",
        script(imported=IMPORTED, new=NEW) + "\n\nloader = made(Buckets([]))\n",
    ),
    unlike(
        "beside another import",
        script().replace("set_seed", "DistributedType"),
        script(imported="DistributedType, ", new=NEW).replace("set_seed", "broadcast_object_list"),
    ),
    case(
        "the main process previews others",
        script() + PREVIEW.replace("Buckets", "Others"),
        script(imported=IMPORTED, new=NEW) + PREVIEW.replace("Buckets", "Others"),
    ),
]

REFUSED = [
    *(
        gone(f"alike on all: {shuffle.splitlines()[0]}", script(shuffle))
        for shuffle in (
            "random.seed(self.epoch)\n        random.shuffle(self.batches)",
            "rng = random.Random(self.epoch)\n        kept = list(self.batches)\n        rng.shuffle(self.batches)",
            "self.rng = np.random.default_rng(seed=7)\n        self.rng.shuffle(self.batches)",
        )
    ),
    satisfied("there", script(imported=IMPORTED, new=NEW)),
    gone("it does not shuffle", script("pass")),
    gone("no batch sampler", script().replace("BatchSampler", "Dataset")),
    gone("it makes them as it goes", script().replace("yield batch", "yield self.made(batch)")),
    gone("it keeps them", script().replace("yield batch", "kept = batch")),
    gone("in a method before", script().replace("__iter__", "__call__")),
    gone("in a method after", script().replace("__iter__", "order")),
    gone("a share for each process", script().replace("(self, batches)", "(self, batches, rank)")),
    gone("not what it shuffles", script().replace("in self.batches:", "in batches:")),
    gone("what a call makes", script("self.batches = self.made()\n        random.shuffle(self.others)")),
    gone("from a batch on", script().replace("in self.batches:", "in self.batches[self.start :]:")),
    gone("several at once", script().replace("in self.batches:", "in zip(order, self.batches):")),
    gone("no list any more", script("random.shuffle(self.batches)\n        self.batches = iter(self.batches)")),
    conflict(
        "the main process previews them",
        "the main process alone goes through it",
        11,
        script() + PREVIEW,
    ),
    conflict(
        "another's set_seed", "imports nothing from accelerate", 11, script().replace("accelerate", "transformers")
    ),
    conflict(
        "a loader that is not prepared",
        "`loader` is not prepared: each process goes through all of it",
        11,
        script()
        + LOADED.replace("loader, model = accelerator.prepare(loader, model)", "model = accelerator.prepare(model)"),
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


MADE = "self.batches = self.made()\n        random.shuffle(self.others)"


def permuted(order: str) -> str:
    return script().replace("random.shuffle(self.batches)", f"order = {order}").replace("in self.batches", "in order")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (script(), []),
        (script("pass"), []),
        (script(MADE), [12]),
        (f"import torch\n{permuted('torch.randperm(4)')}", [11]),
        (f"import torch\n{permuted('torch.randperm(4, generator=self.generator)')}", []),
    ],
)
def test_batches_that_are_shuffled_elsewhere_look_like_it(text: str, lines: list[int]) -> None:
    assert [sign.line for sign in fixes.load(NAME).looks_like(ast.parse(text), {})] == lines  # type: ignore[attr-defined]


def test_two_processes_share_the_batches_out() -> None:
    """Each takes every second batch, as with accelerate's BatchSamplerShard, of what it shuffled for itself."""
    given = APPLIED[0].values[0]
    for text, wanted in ((given.before, False), (given.after, True)):
        fair = []
        for epoch in range(4):
            first: list[list[int]] = []
            seen = []
            for process in range(2):

                def broadcast(batches: list[int], process: int = process, first: list[list[int]] = first) -> None:
                    batches[:] = first[0] if process else first.append(list(batches)) or batches  # type: ignore

                source = random.Random(10 * epoch + process)
                body = text.partition("\n")[2].replace("torch.utils.data.BatchSampler", "object")
                sampler = run(body, random=source, broadcast_object_list=broadcast)["Buckets"](list(range(8)))
                seen += list(sampler)[process::2]
            fair.append(sorted(seen) == list(range(8)))
        assert all(fair) == wanted
