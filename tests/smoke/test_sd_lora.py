"""Stable Diffusion LoRA: Sophgo's page as printed does not run; LoRAs under either file name change the picture."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proving import failed, prove

from kit import environment, recipes
from kit.smoke import models

ACCELERATOR = "accelerate/src/accelerate/accelerator.py"
FOLDER = "diffusers/examples/text_to_image"
# Sophgo's page, 1.2.5.3: what kit's two fixes of accelerate make of these lines, and what it says to make of them.
GUARD = "self.device.type != torch._C._get_privateuse1_backend_name()"
SCALER = """\
            elif self.device.type == torch._C._get_privateuse1_backend_name():
                self.scaler = getattr(torch, self.device.type).amp.GradScaler(**kwargs)
"""
SEEDS_GUARD = "not torch_tpu.tpu.is_available()"
SEEDS_SCALER = """\
            elif self.device.type == "tpu":
                import torch_tpu
                self.scaler = torch_tpu.tpu.amp.GradScaler(**kwargs)
"""


@pytest.fixture
def edit(prepared: Callable[[str, str], Path]) -> Iterator[Callable[[str, str, dict[str, str]], Path]]:
    """Replace text in a file of a prepared workspace, for the test; its place."""
    kept: dict[Path, bytes] = {}

    def replace(device: str, path: str, changes: dict[str, str]) -> Path:
        place = prepared("sd-lora", device)
        text = (place / path).read_text("utf-8")
        kept[place / path] = text.encode()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (place / path).write_text(text, encoding="utf-8")
        return place

    yield replace
    for file, content in kept.items():
        file.write_bytes(content)


def test_the_seeds_snippet_as_printed_is_an_unbound_local(
    edit: Callable[[str, str, dict[str, str]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its `import torch_tpu` in the branch makes the name local to the function, so the guard above it fails."""
    place = edit("tpu", ACCELERATOR, {GUARD: SEEDS_GUARD, SCALER: SEEDS_SCALER})
    status, report = prove(place, capsys, smoke=True, steps=("train-fp16",))
    assert status == 1
    assert any("UnboundLocalError" in check and "torch_tpu" in check for check in failed(report)), failed(report)


MAKE_LORA = """
import sys, torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import LoRAAttnProcessor
unet = UNet2DConditionModel.from_pretrained(sys.argv[1], subfolder="unet")
processors = {}
for name in unet.attn_processors:
    kind, _, rest = name.partition(".")
    channels = unet.config.block_out_channels
    width = channels[-1] if "mid" in kind else (channels if "down" in kind else channels[::-1])[int(rest[0])]
    across = None if name.endswith("attn1.processor") else unet.config.cross_attention_dim
    processors[name] = LoRAAttnProcessor(hidden_size=width, cross_attention_dim=across, rank=4)
unet.set_attn_processor(processors)
torch.manual_seed(1)
for processor in unet.attn_processors.values():
    for parameter in processor.parameters():
        torch.nn.init.normal_(parameter)
unet.save_attn_procs(sys.argv[2], safe_serialization=True)
unet.save_attn_procs(sys.argv[3], safe_serialization=False)
"""


def test_a_lora_changes_the_picture_whatever_its_file_is_called(
    prepared: Callable[[str, str], Path], tmp_path: Path
) -> None:
    place = prepared("sd-lora", "cpu")
    found = recipes.load("sd-lora")
    python = environment.ensure(found, found.device("cpu"), place).python
    models.build("sd", python, tmp_path / "tiny")
    new, old = tmp_path / "safetensors", tmp_path / "bin"

    def run(*command: str | Path) -> None:
        done = subprocess.run([python, *command], cwd=place / FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def picture(name: str, script: str, *arguments: str | Path) -> str:
        common = ("--model", tmp_path / "tiny/model", "--steps", "2", "--size", "64", "--output", tmp_path / name)
        run(script, *common, *arguments)
        (image,) = (tmp_path / name).glob("*.png")
        return hashlib.sha256(image.read_bytes()).hexdigest()

    run("-c", MAKE_LORA, tmp_path / "tiny/model", new, old)
    assert {path.name for path in (*new.iterdir(), *old.iterdir())} == {
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights.bin",
    }
    base = picture("base", "infer_sd_text2img.py")
    assert picture("new", "infer_sd_text2img_lora.py", "--lora", new) != base
    assert picture("old", "infer_sd_text2img_lora.py", "--lora", old / "pytorch_lora_weights.bin") != base
    assert picture("again", "infer_sd_text2img.py") == base
