"""`kit fix` on scripts of other shapes: prompts, validations, LoRAs, model cards and what is offloaded."""

from __future__ import annotations

from typing import Any

import pytest
from situations import Given, check, left, looks


def _prompts(line: str) -> str:
    return (
        "def main(args, loader, prompts):\n    embeds, pooled = encode(args.prompt)\n    for batch in loader:\n"
        f"        {line}\n        accelerator.backward(loss(embeds))\n"
    )


def _grows(id: str, line: str, at: int = 4) -> Any:
    return looks(id, "prompt-repeat", at, "repeated from its own repetition", _prompts(line))


PROMPTS = [
    _grows("without captions", "embeds = embeds.repeat(len(batch), 1, 1)"),
    _grows("in the body", "if not args.own:\n            embeds = embeds.repeat(2, 1, 1)", 5),
    _grows(
        "in an elif", "if a:\n            embeds = batch\n        elif b:\n            embeds = embeds.repeat(2, 1)", 7
    ),
    _grows("a list", "embeds = embeds * len(batch)"),
    _grows("joined", "embeds = torch.cat([embeds] * len(batch), dim=0)"),
    _grows("by a function", "embeds = torch.repeat_interleave(embeds, 2, dim=0)"),
    _grows("behind others", "step += 1; embeds = embeds.repeat(2, 1, 1)"),
    left("of the batch", "prompt-repeat", _prompts("embeds = batch.x\n        embeds = embeds.repeat(2, 1)")),
    left("of the loop", "prompt-repeat", _prompts("for embeds in batch:\n            embeds = embeds.repeat(2, 1)")),
    left("scaled", "prompt-repeat", _prompts("embeds = embeds * 2")),
    left(
        "an attribute of the batch",
        "prompt-repeat",
        _prompts("self.x = batch.x\n        self.x = self.x.repeat(2, 1)"),
    ),
]


@pytest.mark.parametrize("given", PROMPTS)
def test_a_situation(given: Given) -> None:
    check(given)
