"""LyCORIS files of SimpleTuner and of diffusers' script with --lycoris_config: each other's, on the tiny model. And a
validation error, which SimpleTuner swallows, is not missed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from proving import prove

from kit import environment, recipes
from kit.smoke import models

HERE = Path(__file__).parent
MODULES = {"attention": 12, "feedforward": 45, "shared-experts": 21}  # of the tiny model: one double, one single block


@pytest.fixture(scope="module")
def found(
    prepared: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """What compare_lokr.py prints for the three configurations of the recipe."""
    place, loaded = prepared("hidream-lokr", "cpu"), recipes.load("hidream-lokr")
    python = environment.ensure(loaded, loaded.device("cpu"), place).python
    tiny = tmp_path_factory.mktemp("tiny") / "tiny"
    models.build("hidream", python, tiny)
    configs = sorted((place / "simpletuner" / "config" / "lycoris").glob("*.json"))
    paths = (loaded.root / "overlays" / "hidream-lycoris", place / "simpletuner")
    variables = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [python, HERE / "compare_lokr.py", tiny / "model", *configs]
    done = subprocess.run(command, env={**environment.variables(), **variables}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("variant", MODULES)
def test_files_are_each_others(variant: str, found: dict[str, dict[str, object]]) -> None:
    assert found[variant] == {"modules": MODULES[variant], "same": True, "changed": MODULES[variant], "difference": 0.0}


def test_a_swallowed_validation_error_is_seen(
    prepared: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = prepared("hidream-lokr", "cpu")
    pipeline = place / "simpletuner" / "simpletuner" / "helpers" / "models" / "hidream" / "pipeline.py"
    text = pipeline.read_text("utf-8")
    line = "        scale = S_max / (width * height)\n"
    assert text.count(line) == 1
    try:
        pipeline.write_text(text.replace(line, "        raise RuntimeError('no image today')\n"), encoding="utf-8")
        status, report = prove(place, capsys, smoke=True, steps=("shared-experts",))
    finally:
        pipeline.write_text(text, encoding="utf-8")
    seen = {finding["what"]: finding["ok"] for finding in report["runs"][0]["findings"]}
    assert (status, seen["ends with exit status 0"], seen["draws images, none of one colour"]) == (1, True, False)
    assert "no image today" in Path(report["runs"][0]["log"]).read_text("utf-8", "replace")
