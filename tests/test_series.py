"""kit.series: which patch files are whose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.errors import KitError
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.series import FileOutcome, hand_written, load_patches


def of_three(root: Path) -> Any:
    """A recipe of three upstreams, each with a patch written by hand."""
    steps = [SimpleNamespace(id=f"fix-{upstream}", upstream=upstream, use="patch") for upstream in ("a", "m", "z")]
    return SimpleNamespace(root=root, name="three", called="three", devices=("cpu",), base=None, fix=steps)


@pytest.mark.parametrize("name", ["01-fix-a.patch", "03-fix-z.patch", "02-fix-m.patch", "02-fix-m@cpu.patch"])
def test_a_patch_is_with_the_upstream_of_its_fix(tmp_path: Path, name: str) -> None:
    place = tmp_path / "patches" / "three" / "m" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    if "-m" in name:
        assert load_patches(of_three(tmp_path), "m") == {name: b"x"}
    else:
        with pytest.raises(KitError, match=f"{name}:1: no fix of recipe three has this patch"):
            load_patches(of_three(tmp_path), "m")


def test_what_is_written_by_hand_keeps_its_name_and_not_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "patches" / "three" / "m"
    folder.mkdir(parents=True)
    for name in ("01-fix-a.patch", "03-fix-z.patch", "07-fix-m.patch"):
        (folder / name).write_text(name)
    assert hand_written(of_three(tmp_path), "m") == {"02-fix-m.patch": b"07-fix-m.patch"}


def test_what_a_patch_did_has_no_line_and_no_places() -> None:
    done = FileOutcome(TreePath("a"), Outcome.applied, "patch")
    assert (done.reason, done.line, done.places) == ("", 0, 0)
