"""Each recipe, proven by training: its launch scripts on the tiny model, on the CPU and on a device that is not there.

A recipe is proven on the devices of PROVEN, first on the one where most of its fixes can be shown to be needed. Beside
each: the fixes whose failure cannot be shown there. On the others only those are left out in turn; `kit verify --red`
leaves out all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import failed, prove

from kit.proof import COMPARISONS

PROVEN: dict[tuple[str, str], list[str]] = {
    ("hidream", "cpu"): ["transformer-patches"],
    ("hidream", "npu"): [],
    ("qwen-image", "cpu"): ["transformer-patches", "offload-encode", "validation-cast"],
    ("qwen-image", "npu"): ["validation-cast"],
    # HiDream shows the first; prompt-once saves memory and time, validation-cast is for fp16 without DeepSpeed.
    ("flux-kontext", "cpu"): ["transformer-patches", "deepspeed-checkpoint", "prompt-once", "validation-cast"],
    ("flux-kontext", "npu"): ["deepspeed-checkpoint", "prompt-once", "validation-cast"],
    ("sd3", "cpu"): ["validation-dtype"],
    ("sd3", "npu"): [],
    ("sd-lora", "tpu"): ["resume-order"],  # shown by parity, which is on the CPU
    ("sd-lora", "npu"): ["lora-layers-device", "resume-order"],  # torch_npu keeps the parameters it moves
    ("sd-lora", "cpu"): ["device-package", "lora-layers-device", "fp16-guard", "grad-scaler"],
    ("sdxl", "cpu"): ["fused-attention", "device-choice", "npu-loss-scale", "oss-device-change"],
    ("sdxl", "npu"): ["device-choice", "npu-loss-scale"],
    ("hidream-lokr", "cpu"): [
        "float32-rope",
        "ema-device",
        "accelerator-cache",
        "accelerator-cache-block-swap",
        "accelerator-quantise",
    ],
    # The last three have nothing to do with the device, and are shown on the CPU.
    ("hidream-lokr", "npu"): ["pin-memory-guard", "ema-pin-memory", "quoted-false", "local-llama", "train-sh-status"],
}


# Where it is also compared: with upstream, one process with several, a resumed run with one that was not interrupted.
COMPARED = [key for key in PROVEN if key[1] == "cpu"]
# The cases that are compared, of a recipe that has more: what the others show is in its reds, too.
CASES = {"qwen-image": ("captions",)}


# Recipes whose fixes the others prove: all steps, one training compared, and the fixes that no other recipe has.
# `kit verify --smoke --parity --red` proves the rest.
SHORT: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("flux", "cpu"): {"cases": ("full",), "fixes": ("deepspeed-resume", "validation-seed")},
    ("flux", "npu"): {"fixes": ("transformer-patches", "float32-rope")},
}


@pytest.mark.parametrize(("name", "device"), SHORT)
def test_it_trains(
    name: str, device: str, prepared: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = SHORT[name, device]
    levels = {"smoke": True, "parity": "cases" in chosen, "red": True, **chosen}
    status, report = prove(prepared(name, device), capsys, **levels)
    assert status == 0, failed(report)
    assert {each["fix"]: bool(each["shown"]) for each in report["reds"]} == dict.fromkeys(chosen["fixes"], True)


@pytest.mark.parametrize(("name", "device"), PROVEN)
def test_it_trains_and_each_fix_is_needed(
    name: str,
    device: str,
    prepared: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    page = tmp_path / "report.html"
    first = next(each for recipe, each in PROVEN if recipe == name)
    left = () if device == first else tuple(PROVEN[name, first])
    red = device == first or bool(left)
    parity = (name, device) in COMPARED
    levels = {
        "smoke": True,
        "parity": parity,
        "red": red,
        "fixes": left,
        "cases": CASES.get(name, ()) if parity else (),
    }
    status, report = prove(prepared(name, device), capsys, **levels, report=str(page))
    assert status == 0, failed(report)
    assert report["levels"] == ["tree", "static", "smoke", *["parity"] * parity, *["red"] * red]
    assert {row["comparison"] for row in report["parity"]} == (set(COMPARISONS) if parity else set())
    assert report["through"] == ("" if device == "cpu" else "through the stand-in")
    assert all(run["ok"] for run in report["runs"])
    unproven = [each["fix"] for each in report["reds"] if each["shown"] is None]
    assert unproven == [fix for fix in PROVEN[name, device] if red and (not left or fix in left)]
    assert "data:image/png;base64," in page.read_text("utf-8")
