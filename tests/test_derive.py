"""A fix that derives its file from another one: a copy patch, a commit that adds it, the original as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Done, Root, git, make_upstream, snapshot

Kit = Callable[..., Done]
NEW, OLD = "examples/mine.py", "examples/train.py"


@pytest.fixture
def derived(root: Root) -> Root:
    """The recipe `tiny`, whose first fix derives its file; its patches are written."""
    fix = [
        {"id": "weights-pop", "files": [NEW], "derive_from": OLD},
        {"id": "progress-print", "files": [NEW]},
    ]
    root.recipe(fix=fix)
    for patch in root.patches().glob("*"):
        patch.unlink()
    root.refresh()
    return root


def prepare(root: Root, kit: Kit, *options: str) -> Done:
    return kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made", *options)


def test_it_is_a_copy_with_its_fixes(derived: Root, kit: Kit) -> None:
    text = (derived.patches() / "01-weights-pop.patch").read_text()
    assert f"copy from {OLD}\ncopy to {NEW}\n" in text
    done = prepare(derived, kit)
    assert (done.status, done.err) == (0, "")
    assert "applied  weights-pop     patch, exactly" in done.out
    made = Path("made/up")
    assert (made / OLD).read_bytes() == (derived.upstream / OLD).read_bytes()
    assert "if weights:" in (made / NEW).read_text() and 'accelerator.print("")' in (made / NEW).read_text()
    assert git("show", "--format=", "--name-status", "-C", "--find-copies-harder", "HEAD~2", at=made).startswith("C")
    assert kit("verify", "made").status == 0


def test_left_out_it_is_still_copied_for_the_fixes_after_it(derived: Root, kit: Kit) -> None:
    assert prepare(derived, kit, "--without", "weights-pop").status == 0
    text = Path("made/up", NEW).read_text()
    assert "if weights:" not in text and 'accelerator.print("")' in text


def test_codemod_and_patch_agree(derived: Root, kit: Kit) -> None:
    assert kit("refresh", derived.place / "recipes/tiny.toml", "--check").status == 0


@pytest.mark.parametrize(
    ("fix", "said"),
    [
        ({"files": [NEW], "derive_from": "examples/gone.py"}, "up has no examples/gone.py at the pin"),
        ({"files": [OLD], "derive_from": "README.md"}, f"toml:11: fix weights-pop: {OLD} is already in up\n  take `d"),
        ({"files": ["README.md"], "derive_from": OLD}, "toml:11: fix weights-pop: README.md is already in up\n  take"),
        ({"files": ["examples"], "derive_from": OLD}, f"fix weights-pop: examples cannot be beside {OLD} of up"),
        ({"files": ["README.md/a.py"], "derive_from": OLD}, "README.md/a.py cannot be beside README.md of up"),
        ({"files": [NEW, "examples/two.py"], "derive_from": OLD}, "name one file that is not there yet"),
        ({"files": [OLD], "derive_from": OLD}, "name one file that is not there yet"),
    ],
    ids=[
        "no original",
        "over a script",
        "over another file",
        "over a folder",
        "below a file",
        "two files",
        "from itself",
    ],
)
def test_what_it_refuses(fix: dict[str, object], said: str, root: Root, kit: Kit) -> None:
    root.recipe(fix=[{"id": "weights-pop", **fix}])
    for patch in root.patches().glob("*"):
        patch.unlink()
    done = prepare(root, kit)
    assert done.status == 1
    assert said in done.err


def test_two_that_nest(root: Root, kit: Kit) -> None:
    made = [{"files": [path], "derive_from": OLD} for path in ("examples/a", "examples/a/b.py")]
    root.recipe(fix=[{"id": "weights-pop", **made[0]}, {"id": "progress-print", **made[1]}])
    done = prepare(root, kit)
    assert (
        "tiny.toml:16: fix progress-print: examples/a/b.py cannot be beside examples/a of fix weights-pop" in done.err
    )
    assert done.status == 1 and not Path("made").exists()


@pytest.mark.parametrize("replace", [[], [NEW]], ids=["", "replace"])
def test_no_overlay_over_it(derived: Root, kit: Kit, replace: list[str]) -> None:
    derived.overlay({"mine.py": "x\n"})
    overlay = [{"source": "tiny", "into": "examples", "replace": replace}]
    derived.recipe(fix=derived.table["fix"], overlay=overlay)
    done = prepare(derived, kit)
    said = f"{NEW} is changed by fix progress-print" if replace else f"{NEW} is already in fix weights-pop"
    assert done.status == 1 and f"tiny.toml:20: overlay tiny: {said}" in done.err and not Path("made").exists()


def test_upstream_that_has_one_later(derived: Root, kit: Kit) -> None:
    make_upstream(derived.upstream, {NEW: "x = 1\n"})
    before = snapshot(derived.place)
    done = kit("rebase", derived.place / "recipes/tiny.toml")
    assert done.status == 1 and f"fix weights-pop: {NEW} is already in up" in done.err
    assert snapshot(derived.place) == before
