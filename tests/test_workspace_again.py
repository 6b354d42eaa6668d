"""Preparing again, and where it will not write: the user's edits are never lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from support import MADE, PRINTED, Kit, Root, contents, git, kit_process, prepare, snapshot, write

from kit import lock


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


def test_dry_run(root: Root, tmp_path: Path) -> None:
    before = snapshot(root.place)
    done = prepare(root, kit_process, "--dry-run")  # what stands in for git's configuration goes with the process
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


@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_kept(root: Root, made: Path, kit: Kit, kind: str) -> None:
    change, said = EDITS[kind]
    change(made / "up")
    before = snapshot(made)
    status = kit("status", "made")
    assert status.status == 0 and said in status.out
    for device in ("npu", "cpu"):  # another than it was made for, and the same
        done = prepare(root, kit, device=device)
        assert done.status == 1 and done.err.startswith(f"kit: error: {made.absolute()} has local edits: {said}")
        assert done.err.endswith(f"  keep them with `kit stash {made.absolute()}`, or set them aside with --force\n")
        assert {name: before[name] for name in snapshot(made) if not name.endswith("/index")} == {
            name: file for name, file in snapshot(made).items() if not name.endswith("/index")
        }
        assert [path.name for path in Path().iterdir()] == ["made"]

    kept = contents()
    done = prepare(root, kit, "--force")
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
