"""`kit stash`: all of a workspace is kept, and what was edited comes back, into the same workspace or another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Done, Root, git, snapshot, write

Kit = Callable[..., Done]
MADE, ASIDE = Path("made"), Path("made.kit-backup-1")
SCRIPT = "up/examples/train.py"


@pytest.fixture
def made(root: Root, kit: Kit) -> Path:
    assert prepare(root, kit).status == 0
    return MADE


def prepare(root: Root, kit: Kit, device: str = "cpu", *options: str) -> Done:
    return kit("prepare", root.place / "recipes/tiny.toml", "--device", device, "made", *options)


def edit(place: Path) -> None:
    """Every kind of edit there is."""
    script = (place / SCRIPT).read_text()
    write(place, {SCRIPT: script.replace("default=10", "default=20"), "up/examples/new.py": "new\n"})
    write(place, {"up/data.bin": bytes(range(256)), "up/.git/info/exclude": "*.ckpt\n", "up/out/a.ckpt": b"\0\1"})
    write(place, {"notes.txt": "mine\n", "models/tiny/m*": b"\0", "up/README.md*": "an upstream\n"})
    (place / "up/link").symlink_to("nowhere")
    (place / "up/examples/helper.py").unlink()


def edited(place: Path) -> dict[str, object]:
    """What :func:`edit` made, as it is."""
    names = (SCRIPT, "up/examples/new.py", "up/data.bin", "up/out/a.ckpt", "notes.txt", "models/tiny/m", "up/README.md")
    files = {name: ((place / name).read_bytes(), os.access(place / name, os.X_OK)) for name in names}
    return {**files, "link": (place / "up/link").readlink(), "gone": (place / "up/examples/helper.py").exists()}


def whole(place: Path) -> dict[str, tuple[int, bytes]]:
    return {name: file for name, file in snapshot(place).items() if not name.endswith((".git/index", "kit.lock"))}


def test_everything_is_kept_and_comes_back(root: Root, made: Path, kit: Kit) -> None:
    edit(made)
    before, wanted = whole(made), edited(made)
    done = kit("stash", "made")
    assert (done.status, done.err) == (0, "")
    path = root.place / "recipes/tiny.toml"
    assert done.out.splitlines() == [
        "all of it was set aside: made.kit-backup-1",
        "next:",
        f"  kit prepare {path} --device cpu made   # or with other options",
        "  kit stash made --apply",
    ]
    assert whole(ASIDE) == before and not made.exists()
    assert prepare(root, kit).status == 0
    done = kit("stash", "made", "--apply")
    assert (done.status, done.err) == (0, "") and done.out.endswith(
        "9 brought back from made.kit-backup-1, which stays\n"
    )
    assert edited(made) == wanted and whole(ASIDE) == before
    assert kit("stash", "made", "--apply").out == "0 brought back from made.kit-backup-1, which stays\n"
    assert [path.name for path in sorted(Path().iterdir())] == ["made", "made.kit-backup-1"]


def test_into_another_workspace(root: Root, made: Path, kit: Kit) -> None:
    edit(made)
    wanted = edited(made)
    assert kit("stash", "made").status == 0 and prepare(root, kit, "npu", "--without", "weights-pop").status == 0
    done = kit("stash", "made", "--apply")
    assert (done.status, done.err) == (0, "")
    text = (made / SCRIPT).read_text()
    assert "default=20" in text and "if weights:" not in text  # the edit, in the file as it is now
    assert {**edited(made), SCRIPT: None} == {**wanted, SCRIPT: None}
    assert "# Tiny on Ascend NPU" in (made / "up/examples/run.sh").read_text()


def test_what_prepare_set_aside_comes_back_too(root: Root, made: Path, kit: Kit) -> None:
    edit(made)
    wanted = edited(made)
    assert prepare(root, kit, "cpu", "--force").status == 0
    write(made, {"other": "x"})
    assert prepare(root, kit, "cpu", "--force").status == 0
    assert kit("stash", "made", "--apply").out.startswith("  other\n")
    assert kit("stash", "made", "--apply", "--from", ASIDE).status == 0 and edited(made) == wanted


def test_commits_come_back(root: Root, made: Path, kit: Kit) -> None:
    up = made / "up"
    write(made, {SCRIPT: "one\n"})
    git("commit", "--quiet", "--all", "--message", "one", at=up)
    git("notes", "add", "-m", "mine", at=up)
    git("tag", "-a", "-m", "mine", "mine", at=up)
    git("checkout", "--quiet", "-b", "side", at=up)
    write(made, {SCRIPT: "two\n"})
    git("commit", "--quiet", "--all", "--message", "two", at=up)
    git("checkout", "--quiet", "kit", at=up)
    write(made, {SCRIPT: "three\n"})
    git("stash", at=up)
    ids = [git("rev-parse", ref, at=up) for ref in ("HEAD", "side", "refs/stash", "refs/notes/commits", "mine")]
    assert kit("stash", "made").status == 0 and prepare(root, kit, "npu").status == 0
    done = kit("stash", "made", "--apply")
    assert (done.status, done.err) == (0, "")
    assert (made / SCRIPT).read_text() == "one\n"
    head, stash = (f"stashed-{id[:12]}" for id in (ids[0], ids[2]))
    for ref, id in zip((head, "side", stash, "refs/notes/commits", "mine"), ids, strict=True):
        assert git("rev-parse", ref, at=up) == id
    git("fsck", "--strict", at=up)
    assert git("show", f"{stash}:examples/train.py", at=up) == "three"


@pytest.mark.parametrize(
    "change",
    [
        lambda: write(MADE, {"notes.txt": "another\n"}),
        lambda: write(MADE, {SCRIPT: (MADE / SCRIPT).read_text().replace("default=10", "default=30")}),
        lambda: (MADE / SCRIPT).unlink(),
        lambda: ((MADE / "up/out").symlink_to("/tmp"), None),
        lambda: write(MADE, {"models": "a file\n"}),
    ],
    ids=["in the way", "both changed", "gone", "through a link", "below a file"],
)
def test_refused_before_anything_is_written(root: Root, made: Path, kit: Kit, change: Callable[[], object]) -> None:
    edit(made)
    assert kit("stash", "made").status == 0 and prepare(root, kit).status == 0
    change()
    before = whole(made)
    done = kit("stash", "made", "--apply")
    assert done.status == 1 and "these are other files by now" in done.err and str(ASIDE.absolute()) in done.err
    assert whole(made) == before


def test_a_folder_where_a_file_was_is_not_left_out_silently(root: Root, made: Path, kit: Kit) -> None:
    (made / SCRIPT).unlink()
    write(made, {f"{SCRIPT}/inner": "mine\n"})
    assert kit("stash", "made").status == 0 and prepare(root, kit).status == 0
    before = whole(made)
    done = kit("stash", "made", "--apply")
    assert done.status == 1 and "a folder where a file was" in done.err and str(ASIDE.absolute()) in done.err
    assert whole(made) == before


def test_nothing_to_do(root: Root, made: Path, kit: Kit) -> None:
    before = whole(made)
    assert kit("stash", "made") == Done(0, "made has no local edits\n", "")
    done = kit("stash", "made", "--apply")
    assert done.status == 1 and "nothing of " in done.err and "was set aside\n  set it aside: kit stash" in done.err
    assert kit("stash", "nowhere").err.startswith("kit: error: ") and whole(made) == before


def test_a_lock_that_cannot_be_read(root: Root, made: Path, kit: Kit) -> None:
    write(made, {"kit.lock": "{}"})
    done = kit("stash", "made")
    assert done.status == 0 and "  kit prepare RECIPE --device DEVICE made\n" in done.out and ASIDE.is_dir()


@pytest.mark.parametrize(
    "settings",
    [
        {"color.ui": "always"},
        {"diff.noprefix": "true"},
        {"diff.mnemonicPrefix": "true"},
        {"diff.relative": "true", "diff.renames": "copies", "diff.context": "0"},
    ],
)
def test_the_local_diff_applies_whatever_the_configuration(
    root: Root, made: Path, kit: Kit, settings: dict[str, str]
) -> None:
    for key, value in settings.items():
        git("config", "--global", key, value, at=Path())
    write(made, {SCRIPT: "one\n", "up/data.bin": bytes(range(256)), "up/examples/new.py": "new\n"})
    Path("edits.patch").write_text(kit("diff", "--local", "made").out)
    assert prepare(root, kit, "cpu", "--force").status == 0
    git("apply", Path("edits.patch").absolute(), at=made / "up")
    assert (made / "up/data.bin").read_bytes() == bytes(range(256)) and (made / SCRIPT).read_text() == "one\n"
