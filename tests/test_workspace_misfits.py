"""Fixes and patches that do not fit: what is said, and that nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from support import GUARDED, MADE, TRAIN, Kit, Root, git, prepare, write

from kit import lock, patchfile, patchwrite, recipes, series, store
from kit.paths import TreePath


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
            "print by hand on one process, or skip the fix",
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


def test_one_file_of_two_has_it(root: Root, kit: Kit) -> None:
    """What is said of a fix is what came of it, not what its first file is like."""
    root.pin = support.make_upstream(root.upstream, {"examples/older.py": GUARDED, "examples/train.py": TRAIN})
    root.recipe(fix=[{"id": "weights-pop", "files": ["examples/older.py", "examples/train.py"]}])
    root.refresh()
    done = prepare(root, kit)
    assert done.status == 0 and "applied  weights-pop  patch, exactly" in done.out, done


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
