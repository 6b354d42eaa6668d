"""Files written whole: mode and links stay, and what cannot be written leaves what was there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support import write

from kit import whole


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_new_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)  # the longest name there is
    before = os.umask(0o027)
    try:
        whole.write(path, b"one")
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o640)
    path.chmod(0o751)
    whole.write(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o751)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path, {"far/away": "one"})
    (tmp_path / "here").symlink_to("far/away")
    whole.write(tmp_path / "here", b"two")
    assert (tmp_path / "here").is_symlink() and (tmp_path / "far/away").read_bytes() == b"two"


def test_what_is_no_file_is_written_to() -> None:
    whole.write(Path(os.devnull), b"x")
    assert not Path(os.devnull).is_file()
    with pytest.raises(IsADirectoryError):
        whole.write(Path(), b"x")


@pytest.mark.parametrize("step", ["os.fsync", "shutil.copymode", "pathlib.Path.replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    place = write(tmp_path / "place", {"file": "one"})
    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match="No space left"):
        whole.write(place / "file", b"two")
    assert [(path.name, path.read_bytes()) for path in place.iterdir()] == [("file", b"one")]
