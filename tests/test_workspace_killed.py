"""Killed, or out of room, at any point: the old tree or the new one."""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import MADE, Done, Kit, Root, contents, prepare, write

from kit import swap

# The steps of `kit prepare`, and how many of their calls are tried.
STEPS = {
    "kit.planning.plan": 1,
    "kit.swap.clear_leftovers": 1,
    "kit.git.run": 10,  # before the first to the tenth: all there are
    "kit.lock.write": 1,
    "kit.swap.swap": 1,
    "kit.swap._exchange": 1,
    "os.link": 1,
    "shutil.rmtree": 4,
}


def killed(kit_main: Callable[[], Done], step: str, call: int, after: bool) -> bool:
    """Whether ``kit_main``, run in a fork, was killed at the ``call``-th call of ``step`` (or else went through)."""
    child = os.fork()
    if child == 0:
        with contextlib.ExitStack() as never:
            never.callback(os._exit, 99)
            _die(kit_main, step, call, after)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 77)
    return status == 77


def _die(kit_main: Callable[[], Done], step: str, call: int, after: bool) -> None:
    """Run ``kit_main`` and end this process with its status, or with 77 at that call."""
    holder, _, name = step.rpartition(".")
    module = importlib.import_module(holder)
    original, calls = getattr(module, name), itertools.count(1)

    def dying(*arguments: object, **options: object) -> object:
        here = next(calls) == call
        if here and not after:
            os._exit(77)
        result = original(*arguments, **options)
        if here:
            os._exit(77)
        return result

    setattr(module, name, dying)
    os._exit(kit_main().status)


@pytest.mark.parametrize(("step", "calls"), STEPS.items())
def test_killed_anywhere(root: Root, made: Path, kit: Kit, step: str, calls: int) -> None:
    old = contents()
    assert kit("prepare", root.place / "recipes/tiny.toml", "--device", "npu", "new").status == 0
    new = contents(Path("new"))
    shutil.rmtree("new")
    for call, after in [(1, True), *((call, False) for call in range(1, calls + 1))]:
        assert killed(lambda: prepare(root, kit, device="npu"), step, call, after)
        assert contents() in (old, new)
        assert (prepare(root, kit).status, contents()) == (0, old)
        assert [path.name for path in Path().iterdir()] == ["made"]


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "renames"])
def test_killed_between_renames(
    root: Root, made: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch, exchange: bool, force: bool
) -> None:
    """Wherever it dies, the old tree is the workspace, the backup, or comes back with the next run."""
    if not exchange:
        monkeypatch.setattr(swap, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", lambda self, target: os.rename(self, target))  # noqa: PTH104
    old, options = contents(), ["--force"] if force else []
    hit = 0
    for call in itertools.count(1):
        if force:
            write(made, {"notes": str(call)})
        if not killed(lambda: prepare(root, kit, *options, device="npu"), "os.rename", call, after=True):
            break
        hit += 1
        gone = not MADE.exists()
        again = prepare(root, kit)  # without --force
        if gone and not force:
            assert "already prepared" in again.out  # the old tree came back; it was not made again
        if force:
            assert str(call) in [path.read_text() for path in Path().glob("made*/notes")]
            assert again.status in (0, 1) and prepare(root, kit, "--force").status == 0
        assert {name: file for name, file in contents().items() if name != "notes"} == old
    assert hit == (1 if exchange else 4)


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_the_exchange_with_force(root: Root, made: Path, kit: Kit, after: bool) -> None:
    write(made, {"notes": "mine"})
    assert killed(lambda: prepare(root, kit, "--force", device="npu"), "kit.swap._exchange", 1, after)
    prepare(root, kit)
    assert [path.read_text() for path in Path().glob("made*/notes")] == ["mine"]


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "made")


@pytest.mark.parametrize("step", ["kit.lock.write", "kit.repository._share_objects", "kit.swap.swap", "os.mkdir"])
def test_disk_full(root: Root, made: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    old = contents()
    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        done = prepare(root, kit, device="npu")
    assert done.status == 1 and "No space left on device" in done.err and "bug" not in done.err
    assert contents() == old and [path.name for path in Path().iterdir()] == ["made"]
