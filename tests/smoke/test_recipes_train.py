"""Each recipe, proven by training: its launch scripts on the tiny model, on the CPU and on a device that is not there.

A recipe is proven on the devices of PROVEN. Beside each: the fixes whose failure cannot be shown there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import failed, prove

PROVEN: dict[tuple[str, str], list[str]] = {
    ("hidream", "cpu"): ["transformer-patches"],
    ("hidream", "npu"): [],
    ("sd3", "cpu"): ["validation-dtype"],
    ("sd3", "npu"): [],
    ("sd-lora", "cpu"): ["device-package", "lora-layers-device", "fp16-guard", "grad-scaler"],
    ("sd-lora", "npu"): ["lora-layers-device"],  # torch_npu keeps the parameters it moves
    ("sd-lora", "tpu"): [],
    ("sdxl", "cpu"): ["fused-attention", "device-choice", "npu-loss-scale", "oss-device-change"],
    ("sdxl", "npu"): ["device-choice", "npu-loss-scale"],
}


@pytest.mark.parametrize(("name", "device"), PROVEN)
def test_it_trains_and_each_fix_is_needed(
    name: str,
    device: str,
    prepared: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    page = tmp_path / "report.html"
    status, report = prove(prepared(name, device), capsys, smoke=True, red=True, report=str(page))
    assert status == 0, failed(report)
    assert report["levels"] == ["tree", "static", "smoke", "red"]
    assert report["through"] == ("" if device == "cpu" else "through the stand-in")
    assert all(run["ok"] for run in report["runs"])
    assert [red["fix"] for red in report["reds"] if red["shown"] is None] == PROVEN[name, device]
    assert "data:image/png;base64," in page.read_text("utf-8")
