"""A rebase loses nothing: not a resolution, however it was kept, and not an edit made meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import GUARDED, TRAIN, Done, Root, git, make_upstream, snapshot, write
from test_rebase import REWRITTEN, commit, conflicted, guarded
from test_rebase import path as path  # a fixture

from kit import recipes

Kit = Callable[..., Done]
SCRIPT = "examples/train.py"
RESOLVED = guarded(REWRITTEN) + '            accelerator.print("")\n'


# What was done in the folder of conflicts.


def work(tree: Path) -> None:
    (tree / SCRIPT).write_text(RESOLVED)


def staged(tree: Path) -> None:
    work(tree)
    git("add", SCRIPT, at=tree)


def committed(tree: Path) -> None:
    staged(tree)
    git("commit", "--quiet", "--message", "mine", at=tree)


def detached(tree: Path) -> None:
    committed(tree)
    git("checkout", "--quiet", "--detach", at=tree)


def unwatched(tree: Path) -> None:
    committed(tree)
    git("update-index", "--assume-unchanged", SCRIPT, at=tree)


@pytest.mark.parametrize("resolve", [work, staged, committed, detached, unwatched])
def test_a_resolution_is_taken_over(kit: Kit, root: Root, path: Path, resolve: Callable[[Path], None]) -> None:
    tree = conflicted(root, kit, path)
    resolve(tree)
    write(tree, {"README.md": "mine\n"})  # another file of the tree
    done = kit("rebase", path, "--continue")
    assert done.status == 0 and done.out.splitlines() == [
        "tiny: README.md: 02-progress-print.patch in place of nothing",
        "tiny: examples/train.py: 02-progress-print.patch in place of progress-print",
    ]
    assert not tree.parent.exists()
    assert kit("prepare", path, "--device", "cpu", "made").status == 0
    assert [Path("made/up", name).read_text() for name in (SCRIPT, "README.md")] == [RESOLVED, "mine\n"]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "new": (lambda tree: write(tree, {"new.py": "x\n"}), "new.py: a new file belongs into an overlay"),
    "added": (lambda tree: (write(tree, {"new.py": ""}), git("add", "new.py", at=tree)), "new.py: a new file"),
    "gone": (lambda tree: (tree / "README.md").unlink(), "README.md: is gone, which no patch can say"),
    "run bit": (lambda tree: (tree / "README.md").chmod(0o755), "README.md: has another mode"),
    "a link": (
        lambda tree: ((tree / "README.md").unlink(), (tree / "README.md").symlink_to(SCRIPT)),
        "README.md: has another mode",
    ),
    "script gone": (lambda tree: (tree / SCRIPT).unlink(), f"{SCRIPT}: is gone"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_patch_can_say_is_refused(kit: Kit, root: Root, path: Path, kind: str) -> None:
    tree = conflicted(root, kit, path)
    work(tree)
    change, said = REFUSED[kind]
    change(tree)
    before = snapshot(root.place), snapshot(tree / "examples")
    done = kit("rebase", path, "--continue")
    assert done.status == 1 and f"{tree.absolute()}/{said}" in done.err and "the same command again" in done.err
    assert (snapshot(root.place), snapshot(tree / "examples")) == before


@pytest.mark.parametrize("option", ["--continue", "--abort"])
@pytest.mark.parametrize("kind", ["branch", "stash", "notes", "hook", "ignored"])
def test_what_is_not_taken_over_is_set_aside(kit: Kit, root: Root, path: Path, kind: str, option: str) -> None:
    tree = conflicted(root, kit, path)
    if kind == "branch":
        committed(tree)
        git("checkout", "--quiet", "-b", "mine", at=tree)
        write(tree, {"README.md": "mine\n"})
        git("commit", "--quiet", "--all", "--message", "more", at=tree)
        git("checkout", "--quiet", "rebase", at=tree)
    elif kind == "stash":
        committed(tree)
        write(tree, {"README.md": "mine\n"})
        git("stash", at=tree)
    elif kind == "notes":
        git("notes", "add", "-m", "mine", at=tree)
    elif kind == "hook":
        write(tree, {".git/hooks/pre-commit*": "#!/bin/sh\n"})
    else:
        write(tree, {".git/info/exclude": "build/\n", "build/x": "mine\n"})
    work(tree)
    done = kit("rebase", path, option)
    aside = Path("tiny-rebase/up.kit-backup-1")
    assert done.status == 0 and done.err == f"what was done in {tree} is kept in {aside}\n"
    assert not tree.exists() and (aside / SCRIPT).read_text() == RESOLVED


def test_abort_sets_a_resolution_aside(kit: Kit, root: Root, path: Path) -> None:
    before = snapshot(root.place)
    work(conflicted(root, kit, path))
    assert kit("rebase", path, "--abort").err.endswith("is kept in tiny-rebase/up.kit-backup-1\n")
    assert snapshot(root.place) == before
    assert kit("rebase", path).status == 1
    assert kit("rebase", path, "--abort").err == ""  # nothing was done in it
    assert [each.name for each in Path("tiny-rebase").iterdir()] == ["up.kit-backup-1"]


def test_a_folder_in_the_way_is_left(kit: Kit, root: Root, path: Path) -> None:
    write(Path("tiny-rebase/up"), {"thesis": "mine\n"})
    before = snapshot(root.place), snapshot(Path())
    commit(root, REWRITTEN)
    done = kit("rebase", path)
    assert done.status == 1 and "tiny-rebase/up is in the way\n  move it away" in done.err
    assert (snapshot(root.place), snapshot(Path())) == before
    assert "is under way" in kit("rebase", path, "--abort").err


# A conflict in one file of several.

MORE = "examples/more.py"
SMOKE = '[smoke]\ntiny = "hidream"\nfolder = "up"\n\n[[smoke.step]]\nname = "train"\nrun = ["true"]\n'
RED = '\n[[smoke.red]]\nfix = "{}"\nsteps = ["train"]\nshows = "x"\n'


@pytest.fixture
def two(root: Root, kit: Kit, path: Path) -> Path:
    """The recipe, both fixes on two scripts and a red for each."""
    pin = make_upstream(root.upstream, {SCRIPT: TRAIN, MORE: TRAIN})
    text = (
        path.read_text()
        .replace(root.pin, pin)
        .replace('["examples/train.py"]', f'[\n    "{SCRIPT}",\n    "{MORE}",\n]')
    )
    path.write_text(text + "\n" + SMOKE + RED.format("weights-pop") + RED.format("progress-print"))
    assert kit("refresh", path).status == 0
    return path


def series(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(step.id, step.files) for step in recipes.parse(path).fix]


def reds(path: Path) -> list[str]:
    smoke = recipes.parse(path).smoke
    return [red.fix for red in smoke.red] if smoke else []


def test_only_the_file_in_conflict_loses_its_fix(root: Root, kit: Kit, two: Path) -> None:
    make_upstream(root.upstream, {MORE: REWRITTEN})
    done = kit("rebase", two)
    assert done.status == 1
    assert f"  progress-print: {MORE}:1: gone: " in done.out and f"  progress-print stays in {SCRIPT}\n" in done.out
    assert kit("prepare", two, "--device", "cpu", "meanwhile").status == 1  # not without a word
    (Path("tiny-rebase/up") / MORE).write_text(RESOLVED)
    done = kit("rebase", two, "--continue")
    assert done.out == f"tiny: {MORE}: 03-progress-print-by-hand.patch in place of progress-print\n"
    assert series(two) == [
        ("weights-pop", (SCRIPT, MORE)),
        ("progress-print", (SCRIPT,)),
        ("progress-print-by-hand", (MORE,)),
    ]
    assert reds(two) == ["weights-pop", "progress-print"]
    assert kit("refresh", "--check", two).status == 0
    assert kit("prepare", two, "--device", "cpu", "made").status == 0 and kit("verify", "made").status == 0
    assert Path("made/up", MORE).read_text() == RESOLVED
    assert Path("made/up", SCRIPT).read_text() == GUARDED + '            accelerator.print("")\n'


def test_a_file_that_needs_it_no_more(root: Root, kit: Kit, two: Path) -> None:
    make_upstream(root.upstream, {MORE: REWRITTEN})
    kit("rebase", two)
    (Path("tiny-rebase/up") / MORE).write_text(guarded(REWRITTEN))
    done = kit("rebase", two, "--continue")
    assert done.out == f"tiny: {MORE}: progress-print dropped, nothing was left to patch\n"
    assert series(two) == [("weights-pop", (SCRIPT, MORE)), ("progress-print", (SCRIPT,))]
    assert reds(two) == ["weights-pop", "progress-print"] and kit("refresh", "--check", two).status == 0


UNBOUND = REWRITTEN.replace("weights, ", "")  # both fixes are in conflict


def test_two_fixes_of_one_file_are_one_patch_that_has_their_reds(root: Root, kit: Kit, two: Path) -> None:
    text = two.read_text().replace(f'[\n    "{SCRIPT}",\n    "{MORE}",\n]', f'["{MORE}"]')
    two.write_text(text.replace('id = "weights-pop"\n', 'id = "weights-pop"\ndevices = ["npu"]\n'))
    assert kit("refresh", two).status == 0
    make_upstream(root.upstream, {MORE: UNBOUND})
    assert kit("rebase", two).status == 1
    (Path("tiny-rebase/up") / MORE).write_text(RESOLVED)
    done = kit("rebase", two, "--continue")
    name = "weights-pop-progress-print"
    assert done.out == f"tiny: {MORE}: 01-{name}.patch in place of weights-pop, progress-print\n"
    assert series(two) == [(name, (MORE,))] and reds(two) == [name, name]
    assert kit("refresh", "--check", two).status == 0


def test_a_red_without_a_fix_is_said_to_go(root: Root, kit: Kit, two: Path) -> None:
    make_upstream(root.upstream, {SCRIPT: REWRITTEN, MORE: REWRITTEN})
    kit("rebase", two)
    for name in (SCRIPT, MORE):
        (Path("tiny-rebase/up") / name).write_text(guarded(REWRITTEN))
    assert kit("rebase", two, "--continue").out.endswith("\ntiny: the red of progress-print went with it\n")
    assert reds(two) == ["weights-pop"]


def test_hand_written_for_some_devices(root: Root, kit: Kit, path: Path) -> None:
    path.write_text(path.read_text().replace('id = "progress-print"\n', 'id = "progress-print"\ndevices = ["npu"]\n'))
    assert kit("refresh", path).status == 0
    (conflicted(root, kit, path) / SCRIPT).write_text(RESOLVED)
    assert kit("rebase", path, "--continue").status == 0
    assert recipes.parse(path).fix[-1].devices == ("npu",)
    for device, wanted in (("npu", RESOLVED), ("cpu", guarded(REWRITTEN))):
        assert kit("prepare", path, "--device", device, device).status == 0
        assert Path(device, "up", SCRIPT).read_text() == wanted


# A clean one is over when it is written.


def test_a_second_rebase_starts_from_the_first(root: Root, kit: Kit, path: Path) -> None:
    commit(root, "# one\n" + TRAIN)
    assert kit("rebase", path).status == 0
    between = snapshot(root.place)
    commit(root, "# two\n" + TRAIN)
    assert kit("rebase", path).status == 0 and snapshot(root.place) != between
    assert kit("rebase", path, "--abort").status == 0 and snapshot(root.place) == between


@pytest.mark.parametrize("text", ["# more\n" + TRAIN, REWRITTEN], ids=["clean", "conflict"])
@pytest.mark.parametrize("which", ["recipe", "patch", "patch gone"])
def test_abort_takes_no_edit_back(root: Root, kit: Kit, path: Path, text: str, which: str) -> None:
    commit(root, text)
    kit("rebase", path)
    file = path if which == "recipe" else root.patches() / "01-weights-pop.patch"
    if which == "patch gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"# mine\n")
    before = snapshot(root.place)
    done = kit("rebase", path, "--abort")
    assert done.status == 1 and f"{file}: changed since the rebase: it would be lost\n" in done.err
    assert snapshot(root.place) == before


def test_abort_leaves_patches_it_does_not_know(root: Root, kit: Kit, path: Path) -> None:
    commit(root, "# more\n" + TRAIN)
    kit("rebase", path)
    write(root.patches(), {"03-mine.patch": "mine\n"})
    assert kit("rebase", path, "--abort").status == 0
    assert (root.patches() / "03-mine.patch").read_text() == "mine\n"


def test_abort_parses_nothing(root: Root, kit: Kit, path: Path) -> None:
    """A fix that this kit does not have (any more) does not keep one from going back."""
    before = snapshot(root.place)
    write(root.patches(), {"02-progress-print.patch": "no patch at all\n"})
    broken = snapshot(root.place)
    commit(root, REWRITTEN)
    assert kit("rebase", path).status == 1
    assert kit("rebase", path, "--abort").status == 0 and snapshot(root.place) == broken != before
