"""Qwen-Image's launch script: what sets it apart from HiDream's, which test_launch.py runs through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Machine, Run, render

SCRIPT = "examples/dreambooth/finetune_qwen_image_dreambooth_lora_deepspeed_bf16.sh"


@pytest.fixture
def qwen_image(machine: Machine, tmp_path: Path) -> Callable[..., Run]:
    (machine.root / "work/model/model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    machine.good = ("--model_name=model", "--dataset_name=data")
    return lambda *arguments: machine.launch(render("cpu", tmp_path / "tree", name="qwen-image") / SCRIPT, *arguments)


def test_two_checkpoints_are_kept(qwen_image: Callable[..., Run]) -> None:
    assert qwen_image().value("--checkpoints_total_limit") == "2"
    assert qwen_image("--checkpoints_total_limit=").value("--checkpoints_total_limit") is None


@pytest.mark.parametrize("prompt", ["", " "])
def test_images_without_words_are_refused(prompt: str, qwen_image: Callable[..., Run]) -> None:
    run = qwen_image("--caption_column=", f"--instance_prompt={prompt}")
    assert (run.status, run.argv) == (2, [])
    assert "no captions and no prompt: give --instance_prompt=" in run.stderr
    assert qwen_image("--caption_column=").status == 0
