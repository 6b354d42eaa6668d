"""`kit fix` on scripts of other shapes: where a LoRA is loaded from."""

from __future__ import annotations

from typing import Any

import pytest
from situations import Given, check, left, looks, mended, refused

LOADS = "def validate(pipe, lora):\n    pipe.load_lora_weights(lora)\n"


def _lora(id: str, line: str, at: int) -> Any:
    text = f"def main(args, pipe):\n    pipe.save_lora_weights(args.out, x)\n    {line}\n"
    return looks(id, "offline-lora", at, "this run's folder, or another", text)


def _renamed(id: str, saves: str, after: str = "") -> Any:
    text = f"def main(args):\n    {saves}\n    pipe.load_lora_weights(args.out)\n{after}"
    return looks(id, "offline-lora", 3, "a LoRA saved under another name, loaded by none", text)


LORAS = [
    _renamed("saved under a name of its own", "Pipe.save_lora_weights(args.out, t, weight_name='my.safetensors')"),
    _renamed("saved in another form at times", "Pipe.save_lora_weights(args.out, t, safe_serialization=args.safe)"),
    looks(
        "saved under another name, loaded by it, and by none",
        "offline-lora",
        5,
        "a LoRA saved under another name, loaded by none",
        "def main(args):\n    Pipe.save_lora_weights(args.out, t, weight_name='my.safetensors')\n"
        "    pipe.load_lora_weights(args.out, weight_name='my.safetensors')\n    pipe.load_lora_weights(args.hub)\n"
        "    pipe.load_lora_weights(args.out)\n",
    ),
    _lora("chosen in the call", "pipe.load_lora_weights(args.lora if args.lora else args.out)", 3),
    left(
        "chosen, for a diffusers that wrote another file",
        "offline-lora",
        "check_min_version('0.19.0')\ndef main(args, pipe):\n    pipe.save_lora_weights(args.out, x)\n"
        "    pipe.load_lora_weights(args.lora or args.out if args.go else args.out)\n",
    ),
    refused(
        "one of two loads, and the other is not of another folder",
        "offline-lora",
        3,
        "(`**`)",
        "def main(args, pipe):\n    pipe.save_lora_weights(args.out, x)\n"
        "    pipe.load_lora_weights(args.out, **kw)\n    pipe.load_lora_weights(args.out)\n",
    ),
    _lora("handed", "validate(pipe, args.out)\n    validate(pipe, args.hub)\n" + LOADS, 6),
    mended(
        "handed the one folder",
        "offline-lora",
        f"def main(args, pipe):\n    pipe.save_lora_weights(args.out, x)\n    validate(pipe, args.out)\n{LOADS}",
        'pipe.load_lora_weights(lora, weight_name="pytorch_lora_weights.safetensors")',
    ),
    left(
        "handed another",
        "offline-lora",
        f"def main(args, pipe):\n    pipe.save_lora_weights(args.out, x)\n    validate(pipe, args.hub)\n{LOADS}",
    ),
    _lora(
        "chosen above",
        "folder = args.out\n    if args.lora:\n        folder = args.lora\n    pipe.load_lora_weights(folder)",
        6,
    ),
]


@pytest.mark.parametrize("given", LORAS)
def test_a_situation(given: Given) -> None:
    check(given)
