"""HiDream, broken on purpose: the right check turns red."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from proving import failed, prove


@pytest.fixture
def copy(prepared: Callable[[str, str], Path], cache: Path) -> Callable[[str], Path]:
    """A workspace to break: a copy under the name the environment was made for would be the workspace itself, so the
    prepared one is set aside for the test and brought back."""
    places: list[tuple[Path, Path]] = []

    def take(device: str) -> Path:
        place = prepared("hidream", device)
        kept = place.with_name(f"{place.name}.kept")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place, kept, symlinks=True)
        places.append((place, kept))
        return place

    yield take  # type: ignore[misc]
    for place, kept in places:
        shutil.rmtree(place)
        kept.rename(place)


SCRIPT = "diffusers/examples/dreambooth/train_dreambooth_lora_hidream.py"
TABLE = "diffusers/examples/dreambooth/launcher/programs.json"
PATCHES = "diffusers/examples/dreambooth/transformer_patches.py"


@pytest.mark.parametrize(
    ("path", "old", "new", "wrong"),
    [
        (SCRIPT, '            accelerator.print("")\n', "", "static: diffusers: fix progress-print"),
        (TABLE, '["max_train_steps"]', '["max_train_step"]', "static: diffusers: the 27 flags"),
        (PATCHES, "def apply_patches(", "SHAPE = None\n\n\ndef apply_patches(", "tree: diffusers: 34 files"),
    ],
    ids=["a fix undone", "a flag that does not exist", "a file of the overlay changed"],
)
def test_breaking_the_tree_turns_the_right_check_red(
    path: str, old: str, new: str, wrong: str, copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = copy("cpu")
    text = (place / path).read_text("utf-8")
    assert old in text
    (place / path).write_text(text.replace(old, new), encoding="utf-8")
    status, report = prove(place, capsys)
    assert status == 1
    assert any(line.startswith(wrong) for line in failed(report)), failed(report)


def test_a_wrong_shape_turns_the_training_run_red(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = copy("cpu")
    text = (place / PATCHES).read_text("utf-8")
    line = "return y.view(x.shape) + self.shared_experts(x)"
    assert text.count(line) == 1
    (place / PATCHES).write_text(text.replace(line, line.replace("(x.shape)", "(x.shape)[..., 1:]")), encoding="utf-8")
    status, report = prove(place, capsys, smoke=True, steps=("train",))
    assert status == 1
    assert any(check.startswith("smoke: train: ends with exit status 0 (exit 1: ") for check in failed(report)), failed(
        report
    )
    assert "must match the size of tensor" in report["runs"][0]["tail"]
