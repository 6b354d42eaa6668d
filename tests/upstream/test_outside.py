"""A family in a folder of its own, with an installed kit: Sana, at the commit MindSpeed-MM's page had (removed there in
27c55c5a). `sana/` holds all that was written by hand: three tiny configurations, and Gemma's tokenizer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import UV

from kit import recipes

URL = "https://github.com/huggingface/diffusers"
PIN = "cd0a4a82cf8625b96e2889afee2fce5811b35c05"
SCRIPT = "examples/dreambooth/train_dreambooth_lora_sana.py"


def test_a_family_of_ones_own(
    installed: Path,
    reach: Callable[[str], None],
    real_environment: dict[str, str],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach(URL)
    monkeypatch.chdir(tmp_path)

    def kit(*words: str) -> str:
        path = f"{UV.parent}{os.pathsep}{real_environment['PATH']}"  # `kit env` asks for uv
        environment = {**real_environment, "KIT_CACHE": str(cache), "PATH": path}
        done = subprocess.run([installed, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = kit("new", "sana", URL, PIN, SCRIPT, "--like", "hidream")
    assert "a tiny configuration of text_encoder, vae, transformer" in said.partition("left for a person:")[2]
    found = recipes.load("sana")
    assert found.path == tmp_path / "recipes/sana.toml" and found.upstream[0].sparse == ("examples/dreambooth", "src")
    modules = {path: step.use or step.id for step in found.fix for path in step.files if path.startswith("src/")}
    assert modules["src/diffusers/models/embeddings.py"] == "float32-rope"
    assert set(modules) == {
        "src/diffusers/models/embeddings.py",
        "src/diffusers/training_utils.py",
        "src/diffusers/utils/peft_utils.py",
    }

    by_hand = Path(__file__).with_name("sana")
    shutil.copy(by_hand / "sana.toml", "tiny")
    shutil.copy(by_hand / "sana.py", "tiny")
    recipe = Path("recipes/sana.toml")
    recipe.write_text(recipe.read_text().replace('transformers = "4.47.1"', 'transformers = "4.56.1"'))

    for device in ("npu", "cpu"):
        kit("prepare", "sana", "--device", device)
    reports = json.loads(kit("verify", "sana-npu", "sana-cpu", "--json"))
    assert [check for report in reports for check in report["checks"] if check["ok"] is False] == []
    assert "every patch is up to date" in kit("refresh", "--check", "sana")
    kit("env", "sana", "--device", "cpu", "--lock", "sana-cpu")
    said = kit("verify", "sana-cpu", "--smoke", "--step", "train", "--step", "infer")
    assert "ok    train: " in said and "ok    infer: " in said
    assert re.search(r"verified, of smoke only train, infer \(tree, static, smoke\): \d+ ok, 0 failed", said)
