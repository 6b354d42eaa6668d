"""What DeepSpeed leaves in shared memory goes once no process has it mapped."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from kit.smoke import extensions, process


def test_buffers_nobody_maps_are_removed(tmp_path: Path) -> None:
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_4_"
    used, left, other = tmp_path / f"{name}0", tmp_path / f"{name}1", tmp_path / "deepspeed_allreduce_buffer_9999_x_0"
    for path in (used, left, other):
        path.write_bytes(b"\0" * mmap.PAGESIZE)
    with used.open("r+b") as file:  # as it is while it is written
        extensions.release(tmp_path)
        assert (used.exists(), left.exists(), other.exists()) == (True, False, True)
        mapped = mmap.mmap(file.fileno(), 0)
    extensions.release(tmp_path)
    assert used.exists()
    mapped.close()
    extensions.release(tmp_path)
    assert not used.exists()


def test_where_there_is_no_shared_memory(tmp_path: Path) -> None:
    extensions.release(tmp_path / "none")


def test_a_process_that_ends_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what runs on a machine is short: a list of its processes is out of date when it is read."""
    left = tmp_path / f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_4_0"
    left.write_bytes(b"")
    monkeypatch.setattr(process, "running", lambda: [Path("/proc/0"), Path("/proc/self")])
    with left.open():
        extensions.release(tmp_path)
        assert left.exists()
    extensions.release(tmp_path)
    assert not left.exists()
