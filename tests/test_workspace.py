"""Workspaces: the same commit everywhere, the old tree or the new one, and the user's edits never lost."""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from support import GUARDED, PRINTED, TRAIN, Done, Root, git, kit_argv, kit_process, snapshot, write

from kit import __version__, lock, patchfile, patchwrite, recipes, series, store, swap, workspace
from kit.errors import KitError
from kit.paths import TreePath

Kit = Callable[..., Done]
MADE = Path("made")


def prepare(root: Root, kit: Kit, *options: str, device: str = "cpu") -> Done:
    return kit("prepare", root.place / "recipes/tiny.toml", "--device", device, "made", *options)


def contents(place: Path = MADE) -> dict[str, tuple[int, bytes]]:
    """The files of a workspace, its repositories' own among them only as far as a user would miss them."""
    kept = ("HEAD", "config", "refs/")
    return {
        name: file
        for name, file in snapshot(place).items()
        if "/.git/" not in f"/{name}" or name.partition(".git/")[2].startswith(kept)
    }


@pytest.fixture
def made(root: Root, kit: Kit) -> Path:
    """The workspace of `tiny` for the CPU, at ./made."""
    done = prepare(root, kit)
    assert (done.status, done.err) == (0, "")
    return MADE


# What is made.


def test_one_commit_a_fix_then_the_overlay(root: Root, made: Path) -> None:
    up = made / "up"
    assert git("log", "--reverse", "--format=%s", at=up).splitlines() == [
        "upstream",
        "weights-pop: guard weights.pop() against an empty list",
        "progress-print: print a line after the step-limit break",
        "overlay: 2 files for the device",
    ]
    assert git("rev-list", "--max-parents=0", "HEAD", at=up) == root.pin
    assert git("branch", "--show-current", at=up) == "kit"
    assert git("status", "--porcelain", "--ignored", at=up) == ""
    body = git("log", "-1", "--format=%b", "HEAD~2", at=up)
    assert "IndexError: pop from empty list" in body and body.endswith("Kit-Fix: weights-pop")
    assert "See: https://github.com/huggingface/diffusers/issues/2606" in body
    who = git("log", "-3", "--format=%an <%ae> %ad|%cn <%ce> %cd", "--date=raw", at=up).splitlines()
    date = git("log", "-1", "--format=%ct +0000", root.pin, at=up)
    assert who == [f"kit <kit@localhost> {date}|kit <kit@localhost> {date}"] * 3
    assert git("log", "-1", "--format=%b", at=up) == "- examples/helper.py\n- examples/run.sh"
    assert (up / "examples/train.py").read_text() == GUARDED + PRINTED.removeprefix(TRAIN)
    assert (up / "examples/run.sh").read_text() == (
        '#!/usr/bin/env bash\n# Tiny on CPU\npython3 train.py \\\n  --max_train_steps="${steps:-1}"\n'
    )
    git("fsck", "--strict", at=up)
    git("revert", "--no-edit", "HEAD~2", at=up)
    assert (up / "examples/train.py").read_text() == PRINTED


def test_the_lock(root: Root, made: Path) -> None:
    up = made / "up"
    body = json.loads((made / "kit.lock").read_text())
    files = {path: (up / path).read_bytes() for path in ("examples/helper.py", "examples/run.sh", "examples/train.py")}
    ids = {path: patchfile.blob_id(content) for path, content in files.items()}
    after = patchfile.blob_id(GUARDED.encode())
    path = root.place / "recipes/tiny.toml"
    assert len(body.pop("sha256")) == 64
    assert body == {
        "recipe": str(path),
        "recipe_sha256": subprocess.check_output(["sha256sum", path], text=True).split()[0],
        "device": "cpu",
        "cluster": {"machines": 1, "machine_rank": 0, "main_ip": "localhost", "main_port": 6000, "processes": 1},
        "without": [],
        "upstreams": {
            "up": {
                "url": str(root.upstream),
                "pin": root.pin,
                "commit": git("rev-parse", "HEAD", at=up),
                "tree": git("rev-parse", "HEAD^{tree}", at=up),
                "fixes": [
                    {
                        "id": "weights-pop",
                        "outcome": "applied",
                        "commit": git("rev-parse", "HEAD~2", at=up),
                        "files": {"examples/train.py": after},
                    },
                    {
                        "id": "progress-print",
                        "outcome": "applied",
                        "commit": git("rev-parse", "HEAD~1", at=up),
                        "files": {"examples/train.py": ids["examples/train.py"]},
                    },
                ],
                "overlay_commit": git("rev-parse", "HEAD", at=up),
                "files": {
                    "examples/train.py": f"100644 {ids['examples/train.py']}",
                    "examples/helper.py": f"100644 {ids['examples/helper.py']}",
                    "examples/run.sh": f"100755 {ids['examples/run.sh']}",
                },
            }
        },
        "kit": __version__,
        "options": {},
        "extras": [],
    }


def test_run_bits(root: Root, kit: Kit) -> None:
    write(root.upstream, {"examples/train.py*": TRAIN, "examples/tool.sh*": "#!/bin/sh\n", "examples/data": "x"})
    root.recipe(upstream={"pin": support.make_upstream(root.upstream, {"more": "x"})})
    assert prepare(root, kit).status == 0
    runs = [path.name for path in sorted((MADE / "up/examples").iterdir()) if os.access(path, os.X_OK)]
    assert runs == ["run.sh", "tool.sh", "train.py"] and kit("verify", "made").status == 0


def test_sparse_and_all(root: Root, kit: Kit) -> None:
    write(root.upstream, {"a/b/in": "x", "a/beside": "x", "a/other/out": "x", "z/out": "x"})
    pin = support.make_upstream(root.upstream, {"top": "x"})
    root.recipe(upstream={"pin": pin, "sparse": ["examples", "a/b"]})
    assert prepare(root, kit).status == 0
    up = MADE / "up"
    found = {path.relative_to(up).as_posix() for path in up.rglob("*") if path.is_file() and ".git" not in path.parts}
    examples = {"examples/helper.py", "examples/run.sh", "examples/train.py"}
    assert found == {"README.md", "top", "a/beside", "a/b/in", *examples}
    assert git("status", "--porcelain", at=up) == "" and git("sparse-checkout", "list", at=up) == "a/b\nexamples"
    root.recipe(upstream={"pin": pin})
    assert prepare(root, kit).status == 0
    assert (up / "z/out").exists()


def test_an_overlay_outside_the_sparse_folders(root: Root, kit: Kit) -> None:
    write(root.upstream, {"z/out": "x"})
    pin = support.make_upstream(root.upstream, {"top": "x"})
    root.overlay({"one.py": "ONE = 1\n", "deeper/two.py": "TWO = 2\n"})
    given = {"upstream": {"pin": pin, "sparse": ["examples"]}}
    root.recipe(**given, overlay=[{"source": "tiny", "into": "new/folder"}])
    assert prepare(root, kit).status == 0
    assert (MADE / "up/new/folder/one.py").read_text() == "ONE = 1\n"
    assert (MADE / "up/new/folder/deeper/two.py").is_file() and not (MADE / "up/z").exists()
    assert kit("verify", "made").status == 0
    recipe = root.recipe(**given, overlay=[{"source": "tiny", "into": "z"}])
    refused = prepare(root, kit)
    assert refused.status == 1 and refused.err.splitlines() == [
        "kit: error: up: the overlay goes into z, where upstream's z/out is not checked out",
        f'  add "z" to `sparse` in {recipe}',
    ]


def test_no_fix_and_no_overlay(root: Root, kit: Kit) -> None:
    shutil.rmtree(root.patches())
    root.recipe(fix=None, overlay=None)
    assert prepare(root, kit).status == 0
    assert git("rev-parse", "HEAD", at=MADE / "up") == root.pin
    assert kit("verify", "made").status == 0


def test_two_upstreams(root: Root, kit: Kit, tmp_path: Path) -> None:
    other = tmp_path / "other"
    pin = support.make_upstream(other, {"tool.py": "x = 1\n"})
    upstreams = [
        {"name": "up", "url": str(root.upstream), "pin": root.pin},
        {"name": "two", "url": str(other), "pin": pin},
    ]
    fix = [{"id": "weights-pop", "files": ["examples/train.py"], "upstream": "up"}]
    (root.patches() / "02-progress-print.patch").unlink()
    overlay = [{"source": "tiny", "into": "x", "upstream": "two"}]
    path = root.recipe(upstream=None, fix=fix, overlay=overlay)
    root.table["upstream"] = upstreams
    path.write_text(support.toml(root.table))
    assert prepare(root, kit).status == 0
    assert sorted(item.name for item in MADE.iterdir()) == ["kit.lock", "two", "up"]
    assert (MADE / "two/x/helper.py").exists() and git("rev-parse", "HEAD~1", at=MADE / "two") == pin


# The same commit id everywhere.

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


# Preparing again.


def test_again_does_nothing(root: Root, made: Path, kit: Kit) -> None:
    before = {path: path.stat().st_mtime_ns for path in [made, *made.rglob("*")]}
    done = prepare(root, kit)
    assert done.status == 0 and "already prepared: made" in done.out
    assert {path: path.stat().st_mtime_ns for path in [made, *made.rglob("*")]} == before
    assert [path.name for path in Path().iterdir()] == ["made"]


CHANGES: dict[str, tuple[Callable[[Root], object], list[str]]] = {
    "device": (lambda root: None, ["--device", "npu"]),
    "without": (lambda root: None, ["--without", "weights-pop"]),
    "cluster": (lambda root: None, ["--processes", "4"]),
    "overlay": (lambda root: write(root.place / "overlays/tiny", {"helper.py": "x = 2\n"}), []),
    "summary": (lambda root: root.recipe(summary="another"), []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_made_anew(root: Root, made: Path, kit: Kit, change: str) -> None:
    before = (made / "kit.lock").read_bytes()
    edit, options = CHANGES[change]
    edit(root)
    done = prepare(root, kit, *options)
    assert done.status == 0 and "prepared: made" in done.out and "already" not in done.out
    assert (made / "kit.lock").read_bytes() != before
    assert kit("verify", "made").status == 0
    assert [path.name for path in Path().iterdir()] == ["made"]


def test_another_device(root: Root, made: Path, kit: Kit) -> None:
    assert prepare(root, kit, device="npu").status == 0
    run = (made / "up/examples/run.sh").read_text()
    assert "# Tiny on Ascend NPU" in run and "${steps:-8}" in run


def test_without(root: Root, kit: Kit) -> None:
    assert prepare(root, kit, "--without", "weights-pop").status == 0
    assert (MADE / "up/examples/train.py").read_text() == PRINTED
    assert lock.read(MADE).without == ["weights-pop"]
    done = kit("verify", "made")
    assert done.status == 0 and "skip  up: fix weights-pop: left out with --without" in done.out
    done = prepare(root, kit, "--without", "weights-popp")
    assert done.err == ("kit: error: recipe tiny has no fix 'weights-popp'\n  its fixes: weights-pop, progress-print\n")


def test_dry_run(root: Root, kit: Kit, tmp_path: Path) -> None:
    before = snapshot(root.place)
    done = prepare(root, kit, "--dry-run")
    assert done.status == 0 and "nothing was written" in done.out and done.out.count("applied") == 2
    assert list(Path().iterdir()) == [] and snapshot(root.place) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "home", "root", "scratch", "upstream", "work"]
    assert [path.name for path in (tmp_path / "home").rglob("*")] == [".gitconfig"]
    assert list((tmp_path / "scratch").rglob("*")) == []


# Where it will not write.


@pytest.mark.parametrize("kind", ["folder", "file", "link", "broken link"])
def test_not_ours(root: Root, kit: Kit, kind: str, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {"thesis.txt": "years of work"})
    if kind == "folder":
        mine.rename(MADE)
        said = "was not made by kit: it has no kit.lock"
    else:
        said = "is in the way: not a folder"
        if kind == "file":
            MADE.write_text("x")
        else:
            MADE.symlink_to(mine if kind == "link" else "nowhere")
    before = snapshot(tmp_path / "mine"), snapshot(Path())
    for options in ([], ["--force"]):
        done = prepare(root, kit, *options)
        assert (done.status, done.err) == (1, f"kit: error: {MADE.absolute()} {said}\n  give another DEST\n")
    assert (snapshot(tmp_path / "mine"), snapshot(Path())) == before


def test_an_empty_folder_will_do(root: Root, kit: Kit) -> None:
    MADE.mkdir()
    assert prepare(root, kit).status == 0
    assert [path.name for path in Path().iterdir()] == ["made"]


@pytest.mark.parametrize("dest", ["deep/er/made", "x/../made", "./made/"])
def test_destinations(root: Root, kit: Kit, dest: str) -> None:
    assert kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", dest).status == 0
    assert (Path(os.path.normpath(dest)) / "kit.lock").is_file()


@pytest.mark.parametrize("dest", ["/", ".."])
def test_destinations_refused(root: Root, kit: Kit, dest: str) -> None:
    done = kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", dest)
    assert done.status == 1 and "was not made by kit" in done.err


def test_the_folder_one_stands_in(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE.mkdir()
    monkeypatch.chdir(MADE)
    done = kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", ".")
    assert done.status == 1 and "you stand in" in done.err and f"run it from {Path('..').resolve()}" in done.err
    assert Path("../made").is_dir() and not list(Path("../made").iterdir())


def test_a_file_where_its_folder_should_be(root: Root, kit: Kit) -> None:
    Path("file").write_text("x")
    done = kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "file/made")
    assert done.status == 1 and f"{Path('file').absolute()}" in done.err


# Local edits are the user's.


def commit_on_top(up: Path) -> None:
    (up / "examples/helper.py").write_text("mine\n")
    git("commit", "--quiet", "--all", "--message", "mine", at=up)


def stash(up: Path) -> None:
    (up / "examples/helper.py").write_text("mine\n")
    git("stash", at=up)


def branch(up: Path) -> None:
    git("checkout", "--quiet", "-b", "mine", at=up)
    commit_on_top(up)
    git("checkout", "--quiet", "kit", at=up)


def detached(up: Path) -> None:
    git("checkout", "--quiet", "--detach", at=up)
    commit_on_top(up)
    git("checkout", "--quiet", "kit", at=up)


def undone(up: Path) -> None:
    commit_on_top(up)
    git("reset", "--quiet", "--hard", "HEAD~1", at=up)


def left_behind(up: Path) -> None:
    commit_on_top(up)
    git("checkout", "--quiet", "--detach", "HEAD~1", at=up)


def unwatched(up: Path, how: str, content: str | None = "mine\n") -> None:
    git("update-index", how, "examples/helper.py", at=up)
    if content is None:
        (up / "examples/helper.py").unlink()
    else:
        (up / "examples/helper.py").write_text(content)


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "modified": (lambda up: write(up, {"examples/train.py": "mine\n"}), "modified up/examples/train.py"),
    "overlay": (lambda up: write(up, {"examples/run.sh": "mine\n"}), "modified up/examples/run.sh"),
    "upstream's": (lambda up: write(up, {"README.md": "mine\n"}), "modified up/README.md"),
    "run bit": (lambda up: (up / "examples/run.sh").chmod(0o644), "modified up/examples/run.sh"),
    "deleted": (lambda up: (up / "README.md").unlink(), "deleted up/README.md"),
    "untracked": (lambda up: write(up, {"examples/mine.py": "mine\n"}), "untracked up/examples/mine.py"),
    "untracked folder": (lambda up: write(up, {"output/model.bin": "mine\n"}), "untracked up/output/"),
    "ignored": (
        lambda up: write(up, {".git/info/exclude": "*.ckpt\n", "run/a.ckpt": "mine\n"}),
        "ignored up/run/a.ckpt",
    ),
    "odd name": (lambda up: write(up, {"a b\n\xe4": "mine\n"}), "untracked up/a b\n\xe4"),
    "staged": (lambda up: (write(up, {"new": "x"}), git("add", "new", at=up)), "added up/new"),
    "committed": (commit_on_top, "committed up/"),
    "stashed": (stash, "committed up/stash"),
    "branched": (branch, "committed up/mine"),
    "beside": (lambda up: write(up.parent, {"notes.txt": "mine\n"}), "untracked notes.txt"),
    "folder beside": (lambda up: write(up.parent, {"models/m": "mine\n"}), "untracked models"),
    "repository gone": (lambda up: shutil.rmtree(up / ".git"), "missing up/."),
    "upstream gone": (lambda up: shutil.rmtree(up), "missing up/."),
    "head broken": (lambda up: write(up, {".git/HEAD": "ref: refs/heads/nothing\n"}), "unreadable up/."),
    "assume unchanged": (lambda up: unwatched(up, "--assume-unchanged"), "modified up/examples/helper.py"),
    "skip worktree": (lambda up: unwatched(up, "--skip-worktree"), "modified up/examples/helper.py"),
    "deleted unwatched": (lambda up: unwatched(up, "--assume-unchanged", None), "deleted up/examples/helper.py"),
    "deleted skipped": (lambda up: unwatched(up, "--skip-worktree", None), "deleted up/examples/helper.py"),
    "index gone": (lambda up: (up / ".git/index").unlink(), "deleted up/README.md"),
    "detached": (detached, "detached up/"),
    "undone": (undone, "detached up/"),
    "left behind": (left_behind, "committed up/kit"),
    "noted": (lambda up: git("notes", "add", "-m", "mine", at=up), "noted up/commits"),
    "tagged": (lambda up: git("tag", "-a", "-m", "mine", "mine", at=up), "committed up/mine"),
    "a blob's tag": (lambda up: git("tag", "mine", "HEAD:README.md", at=up), "committed up/mine"),
    "hook": (lambda up: write(up, {".git/hooks/pre-commit*": "#!/bin/sh\n"}), "untracked up/.git/hooks/pre-commit"),
}


@pytest.mark.parametrize("device", ["npu", "cpu"], ids=["another", "same"])
@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_kept(root: Root, made: Path, kit: Kit, kind: str, device: str) -> None:
    change, said = EDITS[kind]
    change(made / "up")
    before = snapshot(made)
    status = kit("status", "made")
    assert status.status == 0 and said in status.out
    done = prepare(root, kit, device=device)
    assert done.status == 1 and done.err.startswith(f"kit: error: {made.absolute()} has local edits: {said}")
    assert done.err.endswith(f"  keep them with `kit stash {made.absolute()}`, or set them aside with --force\n")
    assert {name: before[name] for name in snapshot(made) if not name.endswith("/index")} == {
        name: file for name, file in snapshot(made).items() if not name.endswith("/index")
    }
    assert [path.name for path in Path().iterdir()] == ["made"]

    kept = contents()
    done = prepare(root, kit, "--force", device=device)
    backup = Path("made.kit-backup-1").absolute()
    assert done.status == 0 and f"the edited tree was set aside: {backup}\n" in done.out
    assert contents(backup) == kept
    assert sorted(path.name for path in Path().iterdir()) == ["made", "made.kit-backup-1"]
    assert kit("verify", "made").status == 0


def test_what_is_no_edit(root: Root, made: Path, kit: Kit) -> None:
    """What git alone does to a repository, and what can be had again, are nothing of the user's."""
    up = made / "up"
    support.make_upstream(root.upstream, {"new": "x"})
    git("fetch", "--quiet", "origin", "main", at=up)
    git("fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", at=up)
    git("checkout", "--quiet", "HEAD~1", at=up)
    git("checkout", "--quiet", "kit", at=up)
    git("update-index", "--assume-unchanged", "examples/helper.py", at=up)
    git("gc", "--quiet", at=up)
    assert kit("status", "made").out.endswith("local edits: none\n")
    assert "already prepared: made" in prepare(root, kit, "--force").out
    assert prepare(root, kit, device="npu").status == 0


def test_a_sparse_workspace_without_edits(root: Root, kit: Kit) -> None:
    pin = support.make_upstream(root.upstream, {"z/out": "x"})
    root.recipe(upstream={"pin": pin, "sparse": ["examples"]})
    assert prepare(root, kit).status == 0 and "already prepared" in prepare(root, kit).out
    git("sparse-checkout", "add", "z", at=MADE / "up")
    assert kit("status", "made").out.endswith("local edits: none\n")
    write(MADE / "up", {"z/out": "mine"})
    git("update-index", "--skip-worktree", "z/out", at=MADE / "up")
    assert "modified up/z/out" in prepare(root, kit).err
    git("sparse-checkout", "set", "nowhere", at=MADE / "up")
    assert "deleted up/examples/helper.py" in prepare(root, kit).err


@pytest.mark.parametrize("junk", ["examples/__pycache__/x.pyc", "examples/up.egg-info/PKG-INFO", ".pytest_cache/v"])
def test_junk_is_no_edit(root: Root, made: Path, kit: Kit, junk: str) -> None:
    write(made / "up", {junk: "x"})
    assert prepare(root, kit, device="npu").status == 0


def test_a_touched_file_is_no_edit(root: Root, made: Path, kit: Kit) -> None:
    (made / "up/examples/train.py").touch()
    assert prepare(root, kit, device="npu").status == 0


def test_backups_do_not_overwrite_each_other(root: Root, made: Path, kit: Kit) -> None:
    for number, device in enumerate(("npu", "cpu"), 1):
        write(made, {"notes": str(number)})
        assert prepare(root, kit, "--force", device=device).status == 0
    assert [Path(f"made.kit-backup-{number}/notes").read_text() for number in (1, 2)] == ["1", "2"]


def test_a_lock_changed_by_hand(root: Root, made: Path, kit: Kit) -> None:
    text = (made / "kit.lock").read_text().replace('"machines": 1', '"machines": 2')
    (made / "kit.lock").write_text(text)
    done = prepare(root, kit)
    assert done.status == 1 and f"{made.absolute()}/kit.lock:1: its hash does not match" in done.err
    assert "--force" in done.err
    assert prepare(root, kit, "--force").status == 0
    assert Path("made.kit-backup-1/kit.lock").read_text() == text and kit("verify", "made").status == 0


# Killed, or out of room, at any point.

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


# Fixes and patches that do not fit.


def moved(root: Root, content: str) -> None:
    root.pin = support.make_upstream(root.upstream, {"examples/train.py": content})
    root.recipe(upstream={"pin": root.pin})


@pytest.mark.parametrize(
    ("content", "message", "fix"),
    [
        (
            TRAIN.replace("weights.pop()", "pass"),
            "1: fix weights-pop: gone: the construct it is about is not in this file",
            "weights-pop",
        ),
        (
            TRAIN.replace("weights.pop()", "weights.pop()\n            weights.pop()"),
            "13: fix weights-pop: conflict: expected 1 place to fix, found 2 (lines 13, 14)",
            "weights-pop",
        ),
        (
            TRAIN.replace("weights.pop()", "last = weights.pop()"),
            "13: fix weights-pop: conflict: what is popped is used: put it under `if weights:` by hand",
            "weights-pop",
        ),
        (
            TRAIN.replace("args, accelerator", "args"),
            "21: fix progress-print: conflict: `accelerator` is not bound there: "
            "print with the Accelerator that trains, or skip the fix",
            "progress-print",
        ),
    ],
    ids=["gone", "twice", "used", "second"],
)
def test_conflict(root: Root, kit: Kit, content: str, message: str, fix: str) -> None:
    moved(root, content)
    done = prepare(root, kit)
    assert done.status == 1
    assert done.err == (
        f"kit: error: up/examples/train.py:{message}\n  leave it out with --without {fix}, or mend the fix\n"
    )
    assert list(Path().iterdir()) == []


def test_satisfied(root: Root, kit: Kit) -> None:
    moved(root, GUARDED)
    done = prepare(root, kit)
    assert done.status == 0 and "satisfied  weights-pop     already upstream" in done.out
    fixes = lock.read(MADE).upstreams["up"].fixes
    assert [(fix.id, fix.outcome, bool(fix.commit)) for fix in fixes] == [
        ("weights-pop", "satisfied", False),
        ("progress-print", "applied", True),
    ]


def test_not_python(root: Root, kit: Kit) -> None:
    moved(root, "def broken(:\n")
    assert "examples/train.py:1: not valid Python: " in prepare(root, kit).err


def test_file_not_there(root: Root, kit: Kit) -> None:
    path = root.recipe(fix=[{"id": "weights-pop", "files": ["examples/tarin.py"]}])
    shutil.rmtree(root.patches())
    assert prepare(root, kit).err == (
        f"kit: error: {path}: fix weights-pop: up has no examples/tarin.py at the pin\n  check `files` of the fix\n"
    )


def test_file_that_is_a_link(root: Root, kit: Kit) -> None:
    (root.upstream / "examples/link.py").symlink_to("train.py")
    git("add", "-A", at=root.upstream)
    git("commit", "-qm", "link", at=root.upstream)
    pin = git("rev-parse", "HEAD", at=root.upstream)
    root.recipe(upstream={"pin": pin}, fix=[{"id": "weights-pop", "files": ["examples/link.py"]}])
    assert "up: examples/link.py has git mode 120000\n  kit changes regular files only" in prepare(root, kit).err


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            lambda folder: (folder / "01-weights-pop.patch").unlink(),
            "01-weights-pop.patch:1: the patch is missing, and examples/train.py needs fix weights-pop",
            "run `kit refresh {recipe}`",
        ),
        (
            lambda folder: write(folder, {"03-old.patch": "x"}),
            "03-old.patch:1: no fix of recipe tiny has this patch",
            "remove the file, or run `kit refresh {recipe}`",
        ),
        (
            lambda folder: (folder / "01-weights-pop.patch").rename(folder / "01-weights-pop@cuda.patch"),
            "01-weights-pop@cuda.patch:1: no fix of recipe tiny has this patch",
            "remove the file, or run `kit refresh {recipe}`",
        ),
        (lambda folder: write(folder, {"01-weights-pop.patch": ""}), "01-weights-pop.patch:1: ", ""),
        (lambda folder: write(folder, {"01-weights-pop.patch": b"\xff"}), "01-weights-pop.patch:1: ", ""),
        (
            lambda folder: write(
                folder,
                {"01-weights-pop.patch": (folder / "01-weights-pop.patch").read_text().replace("train.py", "other.py")},
            ),
            "01-weights-pop.patch:13: changes examples/other.py, which fix weights-pop does not list",
            "run `kit refresh {recipe}`",
        ),
        (
            lambda folder: write(
                folder, {"01-weights-pop.patch": (folder / "01-weights-pop.patch").read_text().replace("+", "-")}
            ),
            "01-weights-pop.patch:",
            "",
        ),
    ],
    ids=["missing", "stray", "other-device", "empty", "not-utf8", "other-file", "garbled"],
)
def test_patches(root: Root, kit: Kit, change: Callable[[Path], object], message: str, hint: str) -> None:
    change(root.patches())
    done = prepare(root, kit)
    assert done.status == 1
    assert (
        done.err.startswith(f"kit: error: {root.patches()}/{message}")
        and f"  {hint}".format(recipe=root.place / "recipes/tiny.toml") in done.err
    )
    assert list(Path().iterdir()) == []
    refreshed = kit("refresh", root.place / "recipes/tiny.toml")
    assert refreshed.status == 0 and prepare(root, kit).status == 0
    assert kit("refresh", "--check", root.place / "recipes/tiny.toml").out == "every patch is up to date\n"


def test_hand_written_patch(root: Root, kit: Kit) -> None:
    """It goes in as it is; at another pin it is a conflict, for there is no codemod to fall back on."""
    body = (root.patches() / "01-weights-pop.patch").read_bytes()
    shutil.rmtree(root.patches())
    fix = [{"id": "by-hand", "use": "patch", "files": ["examples/train.py"], "why": "No codemod can say it."}]
    path = root.recipe(fix=fix)
    done = prepare(root, kit)
    assert done.err == (
        f"kit: error: {path}: fix by-hand: its patch 01-by-hand.patch is missing\n  restore it: it is hand-written\n"
    )
    write(root.patches(), {"01-by-hand.patch": body})
    assert prepare(root, kit).status == 0
    assert (MADE / "up/examples/train.py").read_text() == GUARDED
    assert git("log", "-1", "--format=%s%n%b", "HEAD~1", at=MADE / "up").startswith(
        "by-hand: hand-written patch\nNo codemod can say it."
    )
    assert kit("refresh", path).out == "every patch is up to date\n"


# Upstream's file at the new pin, the line of it that the message names, and why the patch does not fit.
OTHER_VERSIONS = {
    "moved": (f"# moved\n{TRAIN}", 12, "its place moved +1 lines"),
    "elsewhere": (TRAIN.replace("import argparse", "import argparse as a"), 1, "the hunks fit, other lines differ"),
    "context": (
        TRAIN.replace("for model in models", "for m in models"),
        12,
        "context differs at line 12: expected '        for model in models:\\n', found '        for m in models:\\n'",
    ),
    "upstream": (f"# more\n{GUARDED}", 1, "upstream has the change: drop the patch"),
}


@pytest.mark.parametrize("how", OTHER_VERSIONS)
def test_hand_written_patch_for_another_version(root: Root, kit: Kit, how: str) -> None:
    """It says why it does not fit, and where."""
    content, line, said = OTHER_VERSIONS[how]
    (root.patches() / "01-weights-pop.patch").rename(root.patches() / "01-by-hand.patch")
    (root.patches() / "02-progress-print.patch").unlink()
    fix = [{"id": "by-hand", "use": "patch", "files": ["examples/train.py"], "why": "No codemod can say it."}]
    pin = support.make_upstream(root.upstream, {"examples/train.py": content})
    root.recipe(upstream={"pin": pin}, fix=fix)
    done = prepare(root, kit)
    made_for, found = (patchfile.blob_id(text.encode())[:12] for text in (TRAIN, content))
    start = f"kit: error: up/examples/train.py:{line}: fix by-hand: conflict: 01-by-hand.patch:"
    blobs = f": examples/train.py: made for blob {made_for}, found {found}; "
    assert done.status == 1 and done.err.startswith(start) and f"{blobs}{said}\n" in done.err, done.err


def test_hand_written_patch_of_two_files(root: Root, kit: Kit) -> None:
    """Where one file differs, that one is in conflict."""
    paths = TreePath("examples/other.py"), TreePath("examples/third.py")
    changes: dict[TreePath, tuple[bytes | None, bytes]] = dict.fromkeys(paths, (b"one\n", b"two\n"))
    text = patchwrite.render("by-hand: two", "", changes, "kit <kit@localhost>", "Thu, 01 Jan 2026 00:00:00 +0000")
    support.make_upstream(root.upstream, {"examples/other.py": "one\n"})
    shutil.rmtree(root.patches())
    write(root.patches(), {"01-by-hand.patch": text})
    pin = support.make_upstream(root.upstream, {"examples/third.py": "another\n"})
    fix = [{"id": "by-hand", "use": "patch", "files": list(changes), "why": "No codemod can say it."}]
    found = recipes.load(str(root.recipe(upstream={"pin": pin}, fix=fix)))
    content = store.ensure(found.upstream[0], found.path.parent).files(found.sources("up", "cpu"))
    patches = series.load_patches(found, "up")
    (step,), after = series.apply(found, "up", found.device("cpu"), content, patches)
    assert [(file.path, str(file.outcome)) for file in step.outcomes] == [
        ("examples/other.py", "applied"),
        ("examples/third.py", "conflict"),
    ]
    assert step.outcome == "conflict" and after[paths[0]] == b"two\n"


def test_hand_written_patch_makes_a_file_that_exists(root: Root, kit: Kit) -> None:
    changes: dict[TreePath, tuple[bytes | None, bytes]] = {TreePath("examples/train.py"): (None, b"mine\n")}
    text = patchwrite.render("by-hand: new", "", changes, "kit <kit@localhost>", "Thu, 01 Jan 2026 00:00:00 +0000")
    shutil.rmtree(root.patches())
    write(root.patches(), {"01-by-hand.patch": text})
    root.recipe(fix=[{"id": "by-hand", "use": "patch", "files": list(changes), "why": "No codemod can say it."}])
    done = prepare(root, kit)
    assert done.status == 1 and "01-by-hand.patch:8: examples/train.py exists already\n" in done.err


def test_refresh_beside_a_hand_written_patch(root: Root, kit: Kit) -> None:
    """The codemods' patches are made anew, whether or not they are there; the hand-written one stays."""
    (root.patches() / "02-progress-print.patch").rename(root.patches() / "02-by-hand.patch")
    (root.patches() / "01-weights-pop.patch").unlink()
    content = (root.patches() / "02-by-hand.patch").read_bytes()
    by_hand = {"id": "by-hand", "use": "patch", "files": ["examples/train.py"], "why": "No codemod can say it."}
    path = root.recipe(fix=[{"id": "weights-pop", "files": ["examples/train.py"]}, by_hand])
    assert kit("refresh", path).out.splitlines()[-1] == "1 written or removed"
    assert sorted(each.name for each in root.patches().iterdir()) == ["01-weights-pop.patch", "02-by-hand.patch"]
    assert (root.patches() / "02-by-hand.patch").read_bytes() == content
    assert prepare(root, kit).status == 0


# How many machines and processes.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (1, 0, "localhost", 6000, 8)),
        (["--machines", "2", "--main-ip", "192.0.2.1"], (2, 0, "192.0.2.1", 6000, 16)),
        (
            ["--machines", "2", "--machine-rank", "1", "--main-ip", "h", "--main-port", "7", "--processes", "4"],
            (2, 1, "h", 7, 4),
        ),
        (["--processes", "3"], (1, 0, "localhost", 6000, 3)),
    ],
)
def test_cluster(root: Root, kit: Kit, options: list[str], expected: tuple[object, ...]) -> None:
    assert prepare(root, kit, *options, device="npu").status == 0
    assert tuple(lock.read(MADE).cluster.values()) == expected
    assert f"${{steps:-{expected[-1]}}}" in (MADE / "up/examples/run.sh").read_text()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--machine-rank", "1"], 1, "--machine-rank 1 with --machines 1\n  ranks go from 0 to 0"),
        (
            ["--machines", "2", "--machine-rank", "2"],
            1,
            "--machine-rank 2 with --machines 2\n  ranks go from 0 to 1",
        ),
        (
            ["--machines", "3", "--processes", "8", "--main-ip", "h"],
            1,
            "--processes 8 with --machines 3\n  --processes is the total over all machines, the same number on each",
        ),
        (
            ["--machines", "2"],
            1,
            "2 machines cannot meet at localhost\n  give the address of the machine with rank 0: --main-ip IP",
        ),
        (["--machines", "0"], 2, "Invalid value for '--machines': 0 is not in the range x>=1.\n  kit prepare --help"),
        (["--processes", "0"], 2, "Invalid value for '--processes': 0 is not in the range x>=1."),
        (["--machine-rank", "-1"], 2, "Invalid value for '--machine-rank': -1 is not in the range x>=0."),
        (["--main-port", "70000"], 2, "Invalid value for '--main-port': 70000 is not in the range 1<=x<=65535."),
        (["--main-port", "x"], 2, "Invalid value for '--main-port': 'x' is not a valid"),
    ],
)
def test_cluster_refused(root: Root, kit: Kit, options: list[str], status: int, message: str) -> None:
    done = prepare(root, kit, *options, device="npu")
    assert done.status == status and done.err.startswith(f"kit: error: {message}")
    assert list(Path().iterdir()) == []


# Finding one.


def test_find(root: Root, made: Path, kit: Kit, tmp_path: Path) -> None:
    here = made.absolute()
    assert workspace.find(made / "up/examples") == workspace.find(made) == workspace.find(Path()) == [here]
    shutil.copytree(made, "deeper/other", symlinks=True)
    assert workspace.find(Path()) == [here, Path("deeper/other").absolute()]
    Path("empty").mkdir()
    for place, said in (("empty", "there is no workspace at or below"), ("nowhere", "is not a folder")):
        with pytest.raises(KitError, match=said):
            workspace.find(Path(place))


def test_diff(root: Root, made: Path, kit: Kit) -> None:
    done = kit("diff", "made")
    assert done.out.count("diff --git") == 3 and "+            if weights:" in done.out
    assert kit("diff", "made", "--stat").out.endswith("3 files changed, 8 insertions(+), 1 deletion(-)\n")
    assert kit("diff", "made", "--local").out == ""
    write(made / "up", {"examples/train.py": "mine\n", "examples/new.py": "new\n"})
    local = kit("diff", "--local", "made")
    assert local.out.count("diff --git") == 2 and "+mine" in local.out and "+new" in local.out
    assert git("status", "--porcelain", at=made / "up") == "M examples/train.py\n?? examples/new.py"
    shutil.rmtree(made)
    prepare(root, kit)
    subprocess.run(["git", "apply", "-"], input=local.out, text=True, check=True, cwd=made / "up")
    assert (made / "up/examples/new.py").read_text() == "new\n"


def test_series_is_pure(root: Root) -> None:
    from kit import devices

    found = recipes.parse(root.place / "recipes/tiny.toml")
    files = {found.fix[0].files[0]: TRAIN.encode()}
    steps, after = series.apply(found, "up", devices.load("cpu"), files, series.load_patches(found, "up"))
    assert files == {found.fix[0].files[0]: TRAIN.encode()} and [step.number for step in steps] == [1, 2]
    again, same = series.apply(found, "up", devices.load("cpu"), after, None)
    assert same == after and {str(step.outcome) for step in again} == {"satisfied"}
