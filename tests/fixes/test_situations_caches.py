"""`kit fix` on scripts of other shapes: what one pass over the batches keeps for another."""

from __future__ import annotations

from typing import Any

import pytest
from situations import Given, check, left, looks

FIX = "sample-caches"
MADE = "def main(accelerator, vae, data):\n    loader = torch.utils.data.DataLoader(data, shuffle=True)\n"
PREPARED = "    loader = accelerator.prepare(loader)\n"


def kept(fill: str, loop: str, read: str, made: str = MADE, prepared: str = PREPARED) -> str:
    return f"import torch\n{made}    {fill}\n{prepared}    {loop}\n        {read}\n"


def said(id: str, line: int, name: str, *given: str) -> Any:
    return looks(id, FIX, line, f"what one pass over the batches kept (`{name}`)", kept(*given))


NUMBERED = "for step, batch in enumerate(loader):"
READ = "learn(kept[step])"
LISTED = "kept = [vae(batch) for batch in loader]"
DICTED = "kept = {}\n    for i, batch in enumerate(loader):\n        kept[i] = vae(batch)"
QUEUED = "kept = deque()\n    for batch in loader:\n        kept.append(vae(batch))"
OF_SELF = """\
import torch
class Trainer:
    def fill(self):
        for batch in tqdm(self.loader):
            self.kept.append(vae(batch))
    def train(self):
        for step, batch in enumerate(self.loader):
            learn(self.kept[step])
"""
CACHES = [
    said("a list made at once", 7, "kept", LISTED, NUMBERED, "learn(kept[step])"),
    said("a dictionary by the number", 9, "kept", DICTED, NUMBERED, "learn(kept[step])"),
    said("asked of a dictionary", 9, "kept", DICTED, NUMBERED, "learn(kept.get(step))"),
    said("with a progress bar", 7, "kept", LISTED, "for step, batch in enumerate(tqdm(loader)):", "learn(kept[step])"),
    said("but for the first", 7, "kept", LISTED, "for step, batch in enumerate(skip_first_batches(loader, 3)):", READ),
    said(
        "but for the first, by another name",
        8,
        "kept",
        LISTED,
        "active = accelerator.skip_first_batches(loader, 3) if resumed else loader\n    "
        "for step, batch in enumerate(active):",
        READ,
    ),
    said("in a circle", 7, "kept", LISTED, NUMBERED, "learn(kept[step % len(kept)])"),
    said("counted by hand", 8, "kept", LISTED, "for batch in loader:", "step += 1\n        learn(kept[step])"),
    said("from one end", 9, "kept", QUEUED, "for batch in loader:", "learn(kept.popleft())"),
    said("side by side", 6, "kept", LISTED, "for batch, mine in zip(loader, kept):", "learn(mine)"),
    said("side by side, counted", 6, "kept", LISTED, "for step, (b, k) in enumerate(zip(loader, kept)):", "learn(k)"),
    said("one after another", 8, "kept", f"{LISTED}\n    more = iter(kept)", "for b in loader:", "learn(next(more))"),
    looks("of the trainer", FIX, 8, "(`self.kept`)", OF_SELF),
    left(
        "by the samples' own indices", FIX, kept(DICTED, "for batch in loader:", 'learn([kept[i] for i in batch["i"]])')
    ),
    left("by a key of the batch", FIX, kept(DICTED, NUMBERED, 'learn(kept[batch["name"]])')),
    left("of another loader", FIX, kept(LISTED, "for step, batch in enumerate(other):", "learn(kept[step])")),
    left(
        "of what is no loader",
        FIX,
        kept(LISTED, NUMBERED, "learn(kept[step])")
        .replace("loader", "models")
        .replace("torch.utils.data.DataLoader(data, shuffle=True)", "load(data)"),
    ),
    left(
        "nothing shuffles the batches",
        FIX,
        kept(LISTED, NUMBERED, "learn(kept[step])", MADE.replace("True", "False"), ""),
    ),
    left(
        "the last losses",
        FIX,
        kept("kept = deque()", NUMBERED, "kept.append(learn(batch))\n        kept.popleft()\n        f(kept[step])"),
    ),
    left(
        "of an epoch, one batch at a time",
        FIX,
        f"import torch\n{MADE}{PREPARED}    for epoch in range(3):\n        kept = {{}}\n        {NUMBERED}\n"
        "            kept[step] = batch\n            learn(kept[step])\n",
    ),
    left(
        "another function's",
        FIX,
        "def fill(loader):\n    kept = [batch for batch in loader]\n    return kept\n"
        "def main(loader, kept):\n    for step, batch in enumerate(loader):\n        learn(kept[step])\n",
    ),
]


@pytest.mark.parametrize("given", CACHES)
def test_a_situation(given: Given) -> None:
    check(given)
