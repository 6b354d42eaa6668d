"""A destination that several processes, or several users, have to do with."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Done, Root, kit_argv, write

Kit = Callable[..., Done]
MADE = Path("made")


def words(root: Root, device: str = "cpu") -> list[str]:
    return kit_argv("prepare", root.place / "recipes/tiny.toml", "--device", device, "made")


def test_six_processes_with_caches_of_their_own(root: Root, kit: Kit, tmp_path: Path) -> None:
    for _ in range(2):
        running = [
            subprocess.Popen(
                words(root),
                env={**os.environ, "KIT_CACHE": str(tmp_path / f"cache-{number}")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(6)
        ]
        said = [(process.communicate(timeout=120), process.returncode) for process in running]
        assert [(err, status) for (_, err), status in said] == [("", 0)] * 6
        assert sum("already prepared: made" in out for (out, _), _ in said) >= 5
        assert [path.name for path in Path().iterdir()] == ["made"] and kit("verify", "made").status == 0


def as_a_user() -> None:
    """Root without the right to pass over permissions: as the user of a machine is."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def prepare(root: Root, device: str, *options: str) -> Done:
    argv = [*words(root, device), *options]
    done = subprocess.run(argv, preexec_fn=as_a_user, capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def closed(root: Root) -> Iterator[Callable[[str, int], Path]]:
    """A workspace, and how to put a folder in it that cannot be written to, or read; opened again afterwards."""
    assert prepare(root, "cpu").status == 0
    folders: list[Path] = []

    def close(name: str, mode: int) -> Path:
        folder = write(MADE / name, {"file": "x\n"})
        folder.chmod(mode)
        folders.append(folder)
        return folder

    yield close
    for path in [*Path().rglob("__pycache__"), *Path().rglob("out")]:
        path.chmod(0o755)


def test_what_a_container_left_does_not_stop_the_next_ones(root: Root, closed: Callable[[str, int], Path]) -> None:
    for number, device in enumerate(("npu", "cpu"), 1):
        closed("up/examples/__pycache__", 0o555)
        done = prepare(root, device)
        left = Path(f".made.kit-old-{number}").absolute()
        assert (done.status, done.err) == (0, f"{left} holds files of another user: sudo rm -r {left}\n")
        assert not (MADE / "up/examples/__pycache__").exists() and (left / "up/examples/__pycache__/file").exists()


def test_a_folder_that_cannot_be_read_is_an_edit(root: Root, closed: Callable[[str, int], Path], kit: Kit) -> None:
    closed("up/examples/__pycache__", 0)  # this is not
    assert prepare(root, "npu").status == 0
    closed("up/out", 0)
    done = prepare(root, "cpu")
    assert done.status == 1 and "made has local edits: unreadable up/out/\n" in done.err
    done = prepare(root, "cpu", "--force")
    assert done.status == 0 and Path("made.kit-backup-1/up/out").is_dir()
