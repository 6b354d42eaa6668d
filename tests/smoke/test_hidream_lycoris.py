"""`kit prepare hidream --with lycoris`: LyCORIS adapters in diffusers' script, on the CPU and the NPU's stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import failed, prove

from kit import lock, recipes
from kit.commands import verify
from kit.smoke import red
from kit.smoke import run as smoke

STEPS = {"cpu": ("lycoris", "lycoris-resume", "lycoris-infer"), "npu": ("lycoris", "lycoris-infer")}


@pytest.mark.parametrize("device", STEPS)
def test_it_trains_goes_on_and_draws(
    device: str, prepared: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = prove(prepared("hidream", device, "lycoris"), capsys, smoke=True, steps=STEPS[device])
    assert status == 0, failed(report)
    assert [run["name"] for run in report["runs"]] == list(STEPS[device])


def test_several_processes_train_and_resume_as_one(
    prepared: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = prepared("hidream", "cpu", "lycoris")
    status, report = prove(place, capsys, smoke=True, parity=True, steps=("lycoris",), cases=("LyCORIS",))
    assert status == 0, failed(report)
    assert {row["what"] for row in report["parity"] if row["ok"]} >= {
        "2 processes train with deepspeed",
        "2 processes go on from mid-epoch (step 3 of 6)",
    }


def test_it_does_not_without_the_fix(prepared: Callable[..., Path], tmp_path: Path) -> None:
    place, found = prepared("hidream", "cpu", "lycoris"), recipes.load("hidream").having(["lycoris"])
    with smoke.begin(found, found.device("cpu"), place, tmp_path) as running:
        (shown,) = red.red(running, lock.read(place), verify._at_pin(found, "cpu"), ("lycoris",))
    assert shown.shown, shown.seen
