"""A family in a folder of its own: `kit new --like` on FLUX.1, as its upstream is at the pin of MindSpeed-MM's page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import kit_process

from kit import recipes

URL = "https://github.com/huggingface/diffusers"
PIN = "a98a839de75f1ad82d8d200c3bc2e4ff89929081"
SCRIPT = "examples/dreambooth/train_dreambooth_lora_flux.py"


def test_flux_in_a_folder_of_its_own(
    reach: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(URL)
    monkeypatch.chdir(tmp_path)
    done = kit_process("new", "flux", URL, PIN, SCRIPT, "--like", "hidream")
    assert done.status == 0, done.err
    found = recipes.load("flux")
    assert found.path == tmp_path / "recipes/flux.toml" and found.upstream[0].sparse == ("examples/dreambooth", "src")
    modules = {path: step.use or step.id for step in found.fix for path in step.files if path.startswith("src/")}
    assert modules["src/diffusers/models/embeddings.py"] == "float32-rope"  # l. 813, as the page's hand edit
    assert set(modules) == {
        "src/diffusers/models/embeddings.py",
        "src/diffusers/training_utils.py",
        "src/diffusers/utils/peft_utils.py",
    }
    for device in ("npu", "cpu"):
        assert kit_process("prepare", "flux", "--device", device).status == 0
    verified = kit_process("verify", "flux-npu", "flux-cpu", "--json")
    wrong = [check for report in json.loads(verified.out) for check in report["checks"] if check["ok"] is False]
    assert (verified.status, wrong) == (0, [])
    assert kit_process("refresh", "--check", "flux").status == 0
