"""`kit rebase`: the pin moves, what upstream took goes, conflicts are a merge, and all of it can be undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import GUARDED, TRAIN, Done, Root, git, make_upstream, snapshot

from kit import recipes

Kit = Callable[..., Done]

# Upstream rewrote what progress-print is about: the fix cannot know it.
REWRITTEN = TRAIN.replace("global_step >= args.max_train_steps", "args.max_train_steps <= global_step").replace(
    "                break\n", "                return\n"
)
COMMENTED = """\
# why this recipe exists
name = "tiny"
title = "Tiny"
summary = "two fixes on a tiny upstream"
devices = ["cpu", "npu"]

[[upstream]]
name = "up"
url = "{url}"
pin = "{pin}" # released on a Monday
version = "1.0, 2023-01-01"

# upstream pops from an empty list
[[fix]]
id = "weights-pop"
files = ["examples/train.py"]

# the terminal keeps up
[[fix]]
id = "progress-print"
files = ["examples/train.py"]

[[overlay]]
source = "tiny"
into = "examples"

[environment]
python = "3.10"
"""


@pytest.fixture
def path(root: Root) -> Path:
    """The recipe `tiny`, with comments, in a folder of its own."""
    path = root.place / "recipes/tiny.toml"
    path.write_text(COMMENTED.format(url=root.upstream, pin=root.pin))
    return path


def commit(root: Root, text: str) -> str:
    return make_upstream(root.upstream, {"examples/train.py": text})


def test_the_pin_moves(root: Root, kit: Kit, path: Path) -> None:
    pin = commit(root, "# more\n" + TRAIN)
    before = path.read_text()
    done = kit("rebase", path, "--to", pin)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"tiny: up {root.pin[:12]} -> {pin[:12]} (2023-11-14)",
        "  kept  weights-pop",
        "  kept  progress-print",
        "next:",
        f"  kit prepare {path} --device cpu && kit env {path} --device cpu --lock && kit verify --smoke",
        f"  kit rebase {path} --continue   # it is right; or --abort: as it was",
    ]
    assert path.read_text() == before.replace(root.pin, pin).replace("1.0, 2023-01-01", "2023-11-14")
    assert kit("refresh", "--check", path).status == 0
    assert kit("prepare", path, "--device", "cpu").out.count("patch, exactly") == 2
    assert kit("rebase", path).out == f"tiny: up is at {pin[:12]} already\n"


def test_what_upstream_took_is_dropped(root: Root, kit: Kit, path: Path) -> None:
    pin = commit(root, GUARDED)
    done = kit("rebase", path, "--to", "main")
    assert done.status == 0 and "  taken  weights-pop     upstream has it now: dropped from the series\n" in done.out
    assert path.read_text() == COMMENTED.format(url=root.upstream, pin=pin).replace(
        "1.0, 2023-01-01", "2023-11-14"
    ).replace('[[fix]]\nid = "weights-pop"\nfiles = ["examples/train.py"]\n\n', "")
    assert [file.name for file in root.patches().iterdir()] == ["01-progress-print.patch"]
    assert kit("refresh", "--check", path).status == 0
    assert kit("prepare", path, "--device", "cpu").status == 0


def test_what_upstream_had_before_stays(root: Root, kit: Kit, path: Path) -> None:
    """A fix that was satisfied at the old pin is a check of the recipe: nothing was taken since."""
    path.write_text(path.read_text().replace(root.pin, commit(root, GUARDED)))
    assert kit("refresh", path).status == 0
    commit(root, "# more\n" + GUARDED)
    assert "kept  weights-pop" in kit("rebase", path).out
    assert [step.id for step in recipes.parse(path).fix] == ["weights-pop", "progress-print"]


TWICE = TRAIN.replace("            weights.pop()\n", "            weights.pop()\n            weights.pop()\n")


@pytest.mark.parametrize(
    ("said", "says"), [("", "count = 2\n"), ("count = 1  # as of 1.0\n", "count = 2  # as of 1.0\n")]
)
def test_a_general_fix_has_as_many_places_as_there_are(root: Root, kit: Kit, path: Path, said: str, says: str) -> None:
    before = path.read_text().replace('id = "weights-pop"\n', f'id = "weights-pop"\n{said}')
    path.write_text(before)
    pin = commit(root, TWICE)
    done = kit("rebase", path)
    assert done.status == 0 and "  kept  weights-pop     2 places, 1 before\n  kept  progress-print\n" in done.out
    moved = before.replace(root.pin, pin).replace("1.0, 2023-01-01", "2023-11-14")
    assert path.read_text() == moved.replace(f'id = "weights-pop"\n{said}', f'id = "weights-pop"\n{says}')
    assert kit("refresh", "--check", path).status == 0
    assert "weights-pop     patch, exactly" in kit("prepare", path, "--device", "cpu").out
    assert kit("rebase", path, "--abort").status == 0 and path.read_text() == before
    commit(root, TRAIN + "# back\n")
    assert kit("rebase", path).status == 0 and [step.count for step in recipes.parse(path).fix] == [1, 1]


def test_files_with_different_numbers_of_places(root: Root, kit: Kit, path: Path) -> None:
    names = ("examples/train.py", "examples/more.py")
    path.write_text(path.read_text().replace(root.pin, make_upstream(root.upstream, dict.fromkeys(names, TRAIN))))
    path.write_text(path.read_text().replace('["examples/train.py"]', '["examples/train.py", "examples/more.py"]', 1))
    assert kit("refresh", path).status == 0
    make_upstream(root.upstream, {names[1]: TWICE})
    done = kit("rebase", path)
    assert done.status == 1 and "1 and 2 places, by file: give each file a step of its own" in done.out
    assert recipes.parse(path).fix[0].count == 1


def test_a_fix_that_makes_a_file_must_be_mended_first(root: Root, kit: Kit) -> None:
    made = {"files": ["examples/mine.py"], "derive_from": "examples/train.py"}
    root.recipe(fix=[{"id": "progress-print", **made}, {"id": "weights-pop", "files": made["files"]}])
    path = root.place / "recipes/tiny.toml"
    assert kit("refresh", path).status == 0
    commit(root, REWRITTEN)
    before = snapshot(root.place)
    done = kit("rebase", path)
    assert done.status == 1 and "tiny: fix progress-print: examples/mine.py:1: gone" in done.err
    assert "mend the fix first: the ones after it are about the file it makes of examples/train.py" in done.err
    assert snapshot(root.place) == before and kit("rebase", path, "--abort").status == 1


def test_reds_go_with_their_fix(root: Root, kit: Kit, path: Path) -> None:
    smoke = '[smoke]\ntiny = "hidream"\nfolder = "up"\n\n[[smoke.step]]\nname = "train"\nrun = ["true"]\n'
    red = '\n[[smoke.red]]\nfix = "{}"\nsteps = ["train"]\nshows = "x"\n'
    undo = '\n[[smoke.red.undo]]\nfile = "up/a"\nold = "a"\nnew = "b"\n'
    path.write_text(path.read_text() + "\n" + smoke + red.format("weights-pop") + undo + red.format("progress-print"))
    commit(root, GUARDED)
    assert kit("rebase", path).status == 0
    found = recipes.parse(path)
    assert found.smoke and [(each.fix, each.undo) for each in found.smoke.red] == [("progress-print", ())]


def conflicted(root: Root, kit: Kit, path: Path) -> Path:
    pin = commit(root, REWRITTEN)
    done = kit("rebase", path)
    assert done.status == 1 and done.err == ""
    assert "  kept      weights-pop\n  conflict  progress-print  resolve it by hand, or mend the fix\n" in done.out
    assert "  progress-print: examples/train.py:1: gone: the construct it is about is not in this file\n" in done.out
    assert "in tiny-rebase/up: examples/train.py\nnext: resolve them there" in done.out
    assert recipes.parse(path).upstream[0].pin == pin
    return Path("tiny-rebase/up")


def test_a_conflict_is_that_of_a_merge(root: Root, kit: Kit, path: Path) -> None:
    tree = conflicted(root, kit, path)
    assert git("branch", "--show-current", at=tree) == "rebase"
    assert git("log", "--format=%s", at=tree).splitlines()[0].startswith("weights-pop: ")
    assert git("status", "--porcelain", at=tree) == "UU examples/train.py"
    stages = [git("show", f":{stage}:examples/train.py", at=tree) + "\n" for stage in (1, 2, 3)]
    assert stages == [GUARDED, GUARDED + '            accelerator.print("")\n', guarded(REWRITTEN)]
    text = (tree / "examples/train.py").read_text()
    for mark in ("<<<<<<< the pin with progress-print", "||||||| the pin", ">>>>>>> the new pin"):
        assert mark in text
    again = kit("rebase", path)
    assert again.status == 1 and "a rebase of " in again.err and "--continue, or --abort" in again.err
    assert [file.name for file in root.patches().iterdir()] == ["01-weights-pop.patch"]


def guarded(text: str) -> str:
    return text.replace("            weights.pop()\n", "            if weights:\n                weights.pop()\n")


def test_resolved_by_hand(root: Root, kit: Kit, path: Path) -> None:
    tree = conflicted(root, kit, path)
    done = kit("rebase", path, "--continue")
    assert (
        done.status == 1
        and "examples/train.py:21: a conflict marker is left\n  resolve it, then the same command again" in done.err
    )
    wanted = guarded(REWRITTEN) + '            accelerator.print("")\n'
    (tree / "examples/train.py").write_text(wanted)
    done = kit("rebase", path, "--continue")
    assert (
        done == Done(0, "tiny: examples/train.py: 02-progress-print.patch in place of progress-print\n", "")
        and not tree.parent.exists()
    )
    (kept, step) = recipes.parse(path).fix
    assert (kept.id, step.id, step.use) == ("weights-pop", "progress-print", "patch")
    pin = recipes.parse(path).upstream[0].pin[:12]
    assert step.why == f"Print a line after the step-limit break; by hand since the pin moved to {pin}."
    assert "# upstream pops from an empty list\n" in path.read_text()
    assert kit("refresh", "--check", path).status == 0
    assert kit("prepare", path, "--device", "cpu").status == 0
    assert Path("tiny-cpu/up/examples/train.py").read_text() == wanted


def test_nothing_is_needed_any_more(root: Root, kit: Kit, path: Path) -> None:
    tree = conflicted(root, kit, path)
    (tree / "examples/train.py").write_text(guarded(REWRITTEN))
    assert kit("rebase", path, "--continue") == Done(
        0, "tiny: examples/train.py: progress-print dropped, nothing was left to patch\n", ""
    )
    assert [step.id for step in recipes.parse(path).fix] == ["weights-pop"]
    assert kit("refresh", "--check", path).status == 0


@pytest.mark.parametrize("text", ["# more\n" + TRAIN, GUARDED, REWRITTEN], ids=["kept", "taken", "conflict"])
def test_abort_puts_everything_back(root: Root, kit: Kit, path: Path, text: str) -> None:
    before = snapshot(root.place)
    commit(root, text)
    kit("rebase", path)
    assert snapshot(root.place) != before
    assert kit("rebase", path, "--abort").status == 0
    assert snapshot(root.place) == before and not Path("tiny-rebase").exists()
    assert kit("rebase", path, "--abort").err.startswith(f"kit: error: no rebase of {path} is under way")


def test_a_hand_written_patch_moves_or_is_merged(root: Root, kit: Kit, path: Path) -> None:
    """One whose file did not change stays, whatever its number becomes; one whose file did is a conflict."""
    tree = conflicted(root, kit, path)
    (tree / "examples/train.py").write_text(guarded(REWRITTEN) + '            accelerator.print("")\n')
    kit("rebase", path, "--continue")
    commit(root, guarded(REWRITTEN))  # weights-pop is taken: the patch becomes the first
    done = kit("rebase", path)
    assert done.status == 0 and "taken  weights-pop" in done.out, done.out
    assert [file.name for file in root.patches().iterdir()] == ["01-progress-print.patch"]
    assert kit("prepare", path, "--device", "cpu").status == 0
    commit(root, "# a line above\n" + guarded(REWRITTEN))
    done = kit("rebase", path)
    assert "  examples/train.py merged as text without a conflict: see whether that is right\n" in done.out
    assert done.status == 1 and "; its place moved +1 lines" in done.out
    assert git("status", "--porcelain", at=Path("tiny-rebase/up")) == "UU examples/train.py"
    assert (
        kit("rebase", path, "--continue").out
        == "tiny: examples/train.py: 01-progress-print.patch in place of progress-print\n"
    )
    assert kit("prepare", path, "--device", "cpu", "again").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--continue",), "is under way"),
        (("--to", "nowhere"), "the history up to nowhere cannot be had"),
        (("--upstream", "other"), "which upstream of tiny? up"),
    ],
)
def test_refused(root: Root, kit: Kit, path: Path, arguments: tuple[str, ...], said: str) -> None:
    before = snapshot(root.place)
    commit(root, GUARDED)
    done = kit("rebase", path, *arguments)
    assert done.status == 1 and said in done.err and snapshot(root.place) == before


def test_a_carried_upstream(kit: Kit) -> None:
    assert "demo: no upstream of it has a history to move along" in kit("rebase", "demo").err


def test_the_file_is_gone(root: Root, kit: Kit, path: Path) -> None:
    (root.upstream / "examples/train.py").unlink()
    make_upstream(root.upstream, {"README.md": "moved\n"})
    before = snapshot(root.place)
    done = kit("rebase", path)
    assert done.status == 1 and "up has no examples/train.py at the pin" in done.err
    assert snapshot(root.place) == before


# Edits made by hand in a workspace.


def edited(path: Path, kit: Kit) -> Path:
    kit("prepare", path, "--device", "cpu", "made")
    script = Path("made/up/examples/train.py")
    script.write_text(script.read_text().replace("default=10", "default=20"))
    return script


def test_edits_become_a_patch(root: Root, kit: Kit, path: Path) -> None:
    script = edited(path, kit)
    wanted = script.read_text()
    done = kit("refresh", "--from", "made", "--fix", "more-steps", "--why", "Ten are too few.")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"written: 03-more-steps.patch, and its lines in {path}",
        f"next: kit prepare {path} --device cpu made --force",
    ]
    assert (root.patches() / "03-more-steps.patch").read_text().count("\n+") == 2  # the line, and its header
    step = recipes.parse(path).fix[-1]
    assert (step.id, step.use, step.why, step.files) == (
        "more-steps",
        "patch",
        "Ten are too few.",
        ("examples/train.py",),
    )
    assert "# the terminal keeps up" in path.read_text() and kit("refresh", "--check", path).status == 0
    assert kit("prepare", path, "--device", "npu", "again").status == 0
    assert Path("again/up/examples/train.py").read_text() == wanted


@pytest.mark.parametrize(
    ("edit", "options", "said"),
    [
        ("", ("--fix", "a", "--why", "b"), "no file of upstream's was edited"),
        ("examples/train.py", ("--fix", "a"), "a patch needs a name and a reason"),
        ("examples/train.py", ("--fix", "weights-pop", "--why", "b"), "has a fix 'weights-pop' already"),
        ("examples/helper.py", ("--fix", "a", "--why", "b"), "helper.py: not a file of upstream's that was edited"),
    ],
)
def test_edits_that_cannot_be_a_patch(
    root: Root, kit: Kit, path: Path, edit: str, options: tuple[str, ...], said: str
) -> None:
    kit("prepare", path, "--device", "cpu", "made")
    before = snapshot(root.place)
    if edit:
        (Path("made/up") / edit).write_text("x = 1\n")
    done = kit("refresh", "--from", "made", *options)
    assert done.status == 1 and said in done.err and snapshot(root.place) == before


def test_a_recipe_that_changed_meanwhile(kit: Kit, path: Path) -> None:
    edited(path, kit)
    path.write_text(path.read_text() + "\n")
    done = kit("refresh", "--from", "made", "--fix", "a", "--why", "b")
    assert done.status == 1 and "has changed since made was made" in done.err


def test_an_extra_fix_moves_too(root: Root, kit: Kit, path: Path) -> None:
    """Its patch is there afterwards, made anew; it was once taken for one that no fix has."""
    path.write_text(path.read_text().replace('id = "progress-print"\n', 'id = "progress-print"\nextra = true\n'))
    assert kit("refresh", path).status == 0
    patches = path.parent.parent / "patches/tiny/up"
    names = sorted(each.name for each in patches.iterdir())
    pin = commit(root, "# more\n" + TRAIN)
    assert kit("rebase", path, "--to", pin).status == 0
    assert names == ["01-weights-pop.patch", "02-progress-print.patch"]
    assert sorted(each.name for each in patches.iterdir()) == names
    assert kit("refresh", "--check", path).status == 0
