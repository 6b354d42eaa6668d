"""`kit.lock`: what is written is read back; what was changed by hand is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import lock
from kit.errors import KitError
from kit.lock import Lock, LockedFix, LockedUpstream
from kit.paths import TreePath

FIX = LockedFix("weights-pop", "applied", "c" * 40, {TreePath("train.py"): "b" * 40})
UPSTREAM = LockedUpstream(
    "https://x", "a" * 40, "d" * 40, "e" * 40, [FIX], "d" * 40, {"train.py": f"100644 {'b' * 40}"}
)
LOCK = Lock("tiny", "f" * 64, "npu", {"machines": 1, "main_ip": "é"}, ["other"], {"up": UPSTREAM}, "0.1.0")
HINT = "prepare the workspace again: kit prepare RECIPE --device DEVICE DEST"


def test_round_trip(tmp_path: Path) -> None:
    lock.write(LOCK, tmp_path)
    assert lock.read(tmp_path) == LOCK
    first = (tmp_path / "kit.lock").read_bytes()
    lock.write(lock.read(tmp_path), tmp_path)
    assert (tmp_path / "kit.lock").read_bytes() == first


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        body = json.loads(text)
        change(body)
        return json.dumps(body)

    return edited


CHANGED = "its hash does not match its content: it was changed by hand"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(lambda body: body.update(device="cpu")), CHANGED),
        (edit(lambda body: body["upstreams"]["up"].update(commit="0" * 40)), CHANGED),
        (edit(lambda body: body["upstreams"]["up"]["files"].clear()), CHANGED),
        (edit(lambda body: body.update(sha256="0" * 64)), CHANGED),
        (edit(lambda body: body.pop("sha256")), "not a lock of this kit: 'sha256'"),
        (edit(lambda body: body.update(more=1)), "not a lock of this kit: "),
        (edit(lambda body: body["upstreams"].update(up=[])), "not a lock of this kit: "),
        (lambda text: text[:-20], "not a lock of this kit: "),
        (lambda text: "[]", "not a lock of this kit: "),
        (lambda text: "", "not a lock of this kit: "),
    ],
)
def test_changed_by_hand(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    lock.write(LOCK, tmp_path)
    path = tmp_path / "kit.lock"
    path.write_text(change(path.read_text()))
    with pytest.raises(KitError) as refused:
        lock.read(tmp_path)
    assert refused.value.message.startswith(f"{path}:1: {message}") and refused.value.hint == f"{HINT} --force"


def test_reformatted_is_the_same(tmp_path: Path) -> None:
    lock.write(LOCK, tmp_path)
    path = tmp_path / "kit.lock"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert lock.read(tmp_path) == LOCK


def test_none(tmp_path: Path) -> None:
    with pytest.raises(KitError) as refused:
        lock.read(tmp_path)
    assert str(refused.value) == f"{tmp_path} is not a workspace of kit: it has no kit.lock\n  {HINT}"
