"""Packages patched in place: backed up, found patched, put back, and never touched where they are something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import write

from kit import inplace
from kit.errors import KitError
from kit.inplace import Change


@pytest.fixture
def wanted(tmp_path: Path) -> list[Change]:
    """A file to change and one to add, in a package that is there."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "one.py").write_bytes(b"old\n")
    return [
        Change("pack", tmp_path / "pack" / "one.py", b"old\n", b"new\n"),
        Change("pack", tmp_path / "pack" / "two.py", None, b"two\n"),
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(wanted: list[Change], tmp_path: Path) -> None:
    before, record = files(tmp_path), tmp_path / inplace.RECORD
    assert inplace.check(wanted) == wanted
    inplace.patch(wanted, record)
    assert files(tmp_path)["pack/one.py"] == b"new\n"
    assert files(tmp_path)["pack/one.py.kit-backup"] == b"old\n"
    assert files(tmp_path)["pack/two.py"] == b"two\n"
    known = json.dumps(json.loads(record.read_bytes()), indent=2)  # a person reads it
    assert record.read_text() == f"{known}\n"
    assert inplace.check(wanted) == []
    assert len(inplace.restore(record)) == 2
    assert files(tmp_path) == before
    assert inplace.restore(record) == []


@pytest.mark.parametrize("name", ["one.py", "two.py"])
def test_a_file_that_is_neither_is_not_touched(name: str, wanted: list[Change], tmp_path: Path) -> None:
    (tmp_path / "pack" / name).write_bytes(b"other\n")
    with pytest.raises(KitError, match=f"{name}:1: is "):
        inplace.check(wanted)


def test_an_edit_since_is_not_lost(wanted: list[Change], tmp_path: Path) -> None:
    record = tmp_path / inplace.RECORD
    inplace.patch(wanted, record)
    (tmp_path / "pack" / "one.py").write_bytes(b"mine\n")
    now = files(tmp_path)
    with pytest.raises(KitError, match=r"one\.py:1: was edited since"):
        inplace.restore(record)
    assert files(tmp_path) == now


def test_a_lost_backup_is_said(wanted: list[Change], tmp_path: Path) -> None:
    record = tmp_path / inplace.RECORD
    inplace.patch(wanted, record)
    (tmp_path / "pack" / "one.py.kit-backup").unlink()
    with pytest.raises(KitError, match="the backup is gone"):
        inplace.restore(record)


def test_a_kill_between_two_files_can_be_put_back(wanted: list[Change], tmp_path: Path) -> None:
    before, record = files(tmp_path), tmp_path / inplace.RECORD
    inplace.patch(wanted, record)
    (tmp_path / "pack" / "two.py").unlink()  # as if it had not come so far
    inplace.restore(record)
    assert files(tmp_path) == before


def test_one_of_two_is_still_to_be_made(wanted: list[Change]) -> None:
    wanted[0].path.write_bytes(b"new\n")
    assert inplace.check(wanted) == wanted[1:]


def test_a_kill_before_the_first_file_can_be_put_back(wanted: list[Change], tmp_path: Path) -> None:
    before, record = files(tmp_path), tmp_path / inplace.RECORD
    inplace.patch(wanted, record)
    inplace.whole.write(wanted[0].path, b"old\n")
    wanted[0].backup.unlink()
    wanted[1].path.unlink()
    inplace.restore(record)
    assert files(tmp_path) == before


def test_what_is_no_python() -> None:
    with pytest.raises(KitError, match="No such file"):
        inplace.installed("/nowhere/python", ["pip"])


@pytest.mark.parametrize(
    ("code", "said"),
    [("exit 1", "it said nothing"), ("echo one >&2; echo two >&2; exit 1", "two")],
    ids=["nothing", "last"],
)
def test_what_is_a_python_and_fails(code: str, said: str, tmp_path: Path) -> None:
    python = write(tmp_path, {"python*": f"#!/bin/sh\n{code}\n"}) / "python"
    with pytest.raises(KitError, match=f"cannot say what it has installed: {said}\n"):
        inplace.installed(str(python), ["pip"])
