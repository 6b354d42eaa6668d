"""The same recipe and device give the same commit, on any machine, from any copy of the upstream."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import MADE, Kit, Root, git, kit_argv, kit_process, prepare

MACHINES: dict[str, dict[str, str]] = {
    "locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8", "LANGUAGE": "de"},
    "no-utf8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "time-zone": {"TZ": "Pacific/Kiritimati"},
    "identity": {
        "GIT_AUTHOR_NAME": "someone",
        "GIT_AUTHOR_EMAIL": "some@one",
        "GIT_COMMITTER_NAME": "someone",
        "GIT_COMMITTER_EMAIL": "some@one",
        "EMAIL": "some@one",
    },
    "dates": {"GIT_AUTHOR_DATE": "2001-01-01T00:00:00", "GIT_COMMITTER_DATE": "2001-01-01T00:00:00"},
    "epoch": {"SOURCE_DATE_EPOCH": "1"},
    "hash-seed": {"PYTHONHASHSEED": "7"},
    "reference": {
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/x",
    },
}
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "user": {"user.name": "Someone Else", "user.email": "else@example.invalid", "author.name": "x"},
    "signing": {"commit.gpgSign": "true", "gpg.program": "false", "tag.gpgSign": "true"},
    "branch": {"init.defaultBranch": "trunk"},
    "autocrlf": {"core.autocrlf": "true"},
    "encoding": {"i18n.commitEncoding": "latin1", "i18n.logOutputEncoding": "utf-16"},
    "notes": {"log.showSignature": "true", "log.date": "relative", "format.pretty": "oneline", "log.decorate": "full"},
    "status": {"status.short": "true", "status.branch": "true", "status.showUntrackedFiles": "no"},
    "fast-import": {"fastimport.unpackLimit": "0", "core.compression": "0", "pack.compression": "0"},
}


@pytest.fixture
def commit(made: Path) -> str:
    """What this machine makes, to compare with; the workspace is moved away."""
    made.rename("first")
    return git("rev-parse", "HEAD", at=Path("first/up"))


@pytest.mark.parametrize("changes", MACHINES.values(), ids=MACHINES)
def test_another_machine(root: Root, commit: str, changes: dict[str, str]) -> None:
    done = kit_process("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made", **changes)
    assert (done.status, done.err) == (0, "")
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit


@pytest.mark.parametrize("settings", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_another_configuration(root: Root, kit: Kit, commit: str, settings: dict[str, str]) -> None:
    for key, value in settings.items():
        git("config", "--global", key, value, at=Path())
    done = prepare(root, kit)
    assert (done.status, done.err) == (0, "")
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit
    assert kit("verify", "made").status == 0 and kit("status", "made").out.endswith("local edits: none\n")


def test_another_home_umask_and_cache(
    root: Root, kit: Kit, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "other-cache"))
    before = os.umask(0o077)
    try:
        assert prepare(root, kit).status == 0
    finally:
        os.umask(before)
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit
    assert kit("verify", "made").status == 0
    assert (MADE / "up/examples/run.sh").stat().st_mode & 0o777 == 0o700


def test_another_clock(root: Root, commit: str) -> None:
    """No system clock is read: kit runs where Python's says 1990, and so does git where libfaketime is installed."""
    clock = "import time\ntime.time = lambda: 631152000.0\ntime.time_ns = lambda: 631152000 * 10**9"
    argv = kit_argv("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made", before=clock)
    faked = {"LD_PRELOAD": "libfaketime.so.1", "FAKETIME": "1990-01-01 00:00:00"} if shutil.which("faketime") else {}
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **faked})
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit


def test_patch_or_codemod(root: Root, commit: str, kit: Kit) -> None:
    """Where the committed patches were made from other blobs, the codemods make the same tree."""
    for path in root.patches().glob("*.patch"):
        text = path.read_bytes()
        index = text.index(b"\nindex ") + len(b"\nindex ")
        path.write_bytes(text[:index] + b"0" * 39 + b"1" + text[index + 40 :])
    done = prepare(root, kit)
    assert done.out.count("codemod") == 2 and "patch, exactly" not in done.out
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit


def test_from_another_copy_of_the_upstream(root: Root, commit: str, kit: Kit, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root.upstream, copy)
    root.recipe(upstream={"url": str(copy)})
    assert prepare(root, kit).status == 0
    assert git("rev-parse", "HEAD", at=MADE / "up") == commit
