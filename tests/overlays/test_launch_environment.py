"""The launch script: its environment, machines and processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from launching import SCRIPT, render
from test_launch import DEVICES

from kit import devices


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
