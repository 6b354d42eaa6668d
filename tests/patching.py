"""What the tests of patches share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.patchfile import Patch, parse
from kit.patchwrite import render
from kit.paths import TreePath

PATCHES = Path(__file__).parent / "patches"
AUTHOR, DATE = "kit <kit@localhost>", "Wed, 25 Jun 2025 00:00:00 +0000"
TRAIN = b"""import os


def train(args):
    step = 0
    while step < args.steps:
        step += 1
    weights.pop()
    return step


def main():
    train(parse())
    save()
"""

# CPython keeps each number up to 256 once: here are larger ones, of lines and of how many there are.
LONG = b"".join(b"%d\n" % number for number in range(1, 1001))
LONGER = LONG.replace(b"\n300\n", b"\nthree hundred\n").replace(b"\n600\n", b"\nsix\n" * 300).replace(b"\n900\n", b"\n")


def write(*changes: tuple[bytes | None, bytes], **options: str) -> bytes:
    """A patch of these (before, after) pairs, as files f0, f1, …"""
    named = {TreePath(f"f{number}"): change for number, change in enumerate(changes)}
    return render(options.get("subject", "Change"), options.get("body", ""), named, AUTHOR, DATE)


def refusal(call: Callable[[], object]) -> KitError:
    with pytest.raises(KitError) as caught:
        call()
    assert caught.value.hint, "a refusal says what to do next"
    assert "\n" not in caught.value.message
    return caught.value


def guard() -> Patch:
    return parse((PATCHES / "guard.patch").read_bytes(), "guard.patch")
