"""FLUX.1, FLUX.1-Kontext and Qwen-Image draw: a model of another kind, and one that cannot be loaded, is one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import render

SCRIPTS = {
    "infer_flux_text2img_bf16.py": ("flux", "FluxPipeline"),
    "infer_flux_text2img_distrib.py": ("flux", "FluxPipeline"),
    "infer_kontext_text2img_bf16.py": ("flux-kontext", "FluxKontextPipeline"),
    "infer_qwen_image_text2img_bf16.py": ("qwen-image", "QwenImagePipeline"),
}
DIFFUSERS = """
class FluxPipeline:
    def from_pretrained(*names, **options):
        raise OSError("no file diffusion_pytorch_model.safetensors\\nSee the hub")
FluxKontextPipeline = QwenImagePipeline = FluxPipeline
"""
ACCELERATE = """
class PartialState:
    process_index, num_processes, is_main_process = 0, 1, True
    def __init__(self, cpu):
        self.device = type("Device", (), {"type": "cpu", "__str__": lambda self: "cpu"})()
"""

Infer = Callable[[str, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def infer(tmp_path: Path) -> Infer:
    """Call a script with a model whose model_index.json is this, where diffusers loads nothing."""

    def call(script: str, index: str) -> subprocess.CompletedProcess[str]:
        tree = render("cpu", tmp_path / "tree", name=SCRIPTS[script][0]) / "examples/dreambooth"
        (tree / "torch.py").write_text("bfloat16 = 0\n")
        (tree / "diffusers.py").write_text(DIFFUSERS)
        (tree / "transformer_patches.py").write_text("def apply_patches(): pass\n")
        (tree / "accelerate").mkdir(exist_ok=True)
        (tree / "accelerate/__init__.py").write_text(ACCELERATE)
        (tree / "accelerate/utils.py").write_text("def gather_object(found): return found\n")
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model/model_index.json").write_text(index)
        command = [sys.executable, str(tree / script), "--model=model", "--prompts", "a cat", "--device=cpu"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return call


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            '{"_class_name": "HiDreamImagePipeline"}',
            "--model: model is a HiDreamImagePipeline: this script draws with a ",
        ),
        ("{}", "--model: model is a model without a _class_name: this script draws with a "),
        ("[]", "model_index.json: not JSON: "),
        ("{", "model_index.json: not JSON: "),
    ],
)
def test_a_model_of_another_kind(index: str, said: str, script: str, infer: Infer) -> None:
    done = infer(script, index)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_model_that_cannot_be_loaded(script: str, infer: Infer) -> None:
    done = infer(script, f'{{"_class_name": "{SCRIPTS[script][1]}"}}')
    assert done.returncode == 2
    said = "--model: model cannot be loaded: no file diffusion_pytorch_model.safetensors\n"
    assert done.stderr == f"{script}: error: {said}"
