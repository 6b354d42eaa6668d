"""The inference scripts of sd-lora and its check of the device, as far as they go without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import render

FOLDER = "examples/text_to_image"
BASE, LORA = "infer_sd_text2img.py", "infer_sd_text2img_lora.py"
DEVICES = ["tpu", "npu", "cuda", "cpu"]


def constants(path: Path) -> dict[str, object]:
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


@pytest.mark.parametrize("device", DEVICES)
def test_the_seeds_scripts(device: str, tmp_path: Path) -> None:
    """Seed, 2.1 and 2.2. float16 is not for a CPU."""
    tree = render(device, tmp_path, name="sd-lora") / FOLDER
    dtype = "float32" if device == "cpu" else "float16"
    common = {"MODEL_NAME": "CompVis/stable-diffusion-v1-4", "DEVICE": device, "DTYPE": dtype}
    base, lora = constants(tree / BASE), constants(tree / LORA)
    assert common.items() <= base.items() and common.items() <= lora.items()
    assert (base["NUM_INFERENCE_STEPS"], lora["NUM_INFERENCE_STEPS"]) == (20, 30)
    assert "sayakpaul/sd-model-finetuned-lora-t4" in (tree / LORA).read_text("utf-8")
    utils = constants(tree / "prompt_utils.py")
    assert (utils["PROMPTS"], utils["SEEDS"], utils["GUIDANCE_SCALE"]) == (["cute dragon creature"], [42], 7.5)


@pytest.mark.parametrize("device", DEVICES)
def test_every_file_is_for_python_3_9(device: str, tmp_path: Path) -> None:
    for path in (render(device, tmp_path, name="sd-lora") / FOLDER).glob("*.py"):
        ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 9))


@pytest.mark.parametrize(("device", "package"), [("tpu", "torch_tpu"), ("npu", "torch_npu"), ("cuda", ""), ("cpu", "")])
def test_the_devices_package(device: str, package: str, tmp_path: Path) -> None:
    """The training script and the check import it, and nothing of another device."""
    tree = render(device, tmp_path, name="sd-lora") / FOLDER
    for name in ("device_package.py", "check_device.py"):
        imported = re.findall(r"^ *import (torch_\w+)", (tree / name).read_text("utf-8"), re.MULTILINE)
        assert imported == [package] * bool(package)


@pytest.fixture
def infer(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call a script, rendered for the CPU, where it stops when it is about to load a library."""
    tree = render("cpu", tmp_path / "tree", name="sd-lora") / FOLDER
    for name in ("torch", "diffusers"):
        (tree / f"{name}.py").write_text("raise SystemExit('loading')\n")
    for name in ("model", "trained", "older", "empty"):
        (tmp_path / "my work" / name).mkdir(parents=True)
    (tmp_path / "my work/model/model_index.json").touch()
    (tmp_path / "my work/trained/pytorch_lora_weights.safetensors").touch()
    (tmp_path / "my work/older/pytorch_lora_weights.bin").touch()

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tree / script), "--model", "model", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "my work")

    return run


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (BASE, []),
        (BASE, ["--model", "CompVis/stable-diffusion-v1-4", "--prompts", "a cat", "a dog", "--seeds", "1,2"]),
        (LORA, ["--lora", "trained"]),
        (LORA, ["--lora", "older"]),  # as the LoRAs of the source document's downloads are
        (LORA, ["--lora", "older/pytorch_lora_weights.bin"]),
        (LORA, ["--lora", "sayakpaul/sd-model-finetuned-lora-t4"]),
    ],
)
def test_what_is_right_is_loaded(script: str, arguments: list[str], infer: Callable[..., object]) -> None:
    done = infer(script, *arguments)
    assert (done.returncode, done.stderr) == (1, "loading\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (BASE, ["--model", "trained"], "--model: no model_index.json in trained"),
        (BASE, ["--size", "500"], "--size: 500: sides must be multiples of 16"),
        (LORA, [], "--lora: no file or folder ./sd-pokemon-model-lora_fp32"),
        (LORA, ["--lora", "empty"], "--lora: no pytorch_lora_weights.safetensors in empty"),
    ],
)
def test_mistakes_are_one_line(script: str, arguments: list[str], message: str, infer: Callable[..., object]) -> None:
    done = infer(script, *arguments)
    assert done.returncode == 2 and done.stdout == ""  # type: ignore[attr-defined]
    assert done.stderr.startswith(f"{script}: error: {message}")  # type: ignore[attr-defined]
    assert done.stderr.count("\n") == 1  # type: ignore[attr-defined]
