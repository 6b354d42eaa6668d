"""overlays/launcher/training.py through a launch script: Ctrl-C, signals, failures, nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import SCRIPT, Machine, Run

BARS = "".join(f"\rSteps:  50%|##  | {step}/9 [00:0{step}<00:01,  1.00s/it, loss=0.{step}]" for step in range(1, 5))
GOOD = ("--model_name=model", "--pretrained4_path=llama", "--dataset_name=data", "--output_dir=out")


def training(machine: Machine, body: str) -> None:
    """What `accelerate launch` does instead."""
    (machine.root / "bin/accelerate").write_text(
        f"#!{sys.executable}\nimport os, signal, subprocess, sys, time\n{body}"
    )


def start(script: Path, machine: Machine, *words: str) -> subprocess.Popen[str]:
    """Start it; come back when its training says it has."""
    process = subprocess.Popen(
        ["bash", script, *GOOD, *words],
        cwd=machine.root / "work",
        env=machine.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )
    out = machine.root / "work/out"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any("ready" in log.read_text() for log in out.glob("*.log")):
        time.sleep(0.05)
    return process


def alive(machine: Machine) -> list[str]:
    """The processes that a training has noted and that are still there."""
    noted = machine.root / "work/pids"
    pids = noted.read_text().split() if noted.exists() else []
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    return [path.parent.name for path in states if path.exists() and path.read_text().split(") ")[1][0] != "Z"]


STEPS = f"print({BARS!r}, flush=True); print('ready', flush=True)\n"
# A launcher whose worker is in a session of its own, as torch's elastic agent starts them, and does not want to end.
WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
STUBBORN = f"""
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], start_new_session=True)
open("pids", "w").write(f"{{os.getpid()}} {{worker.pid}}")
{STEPS}
try:
    worker.wait()
except KeyboardInterrupt:
    print("last words", flush=True)
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("whole", "said"),
    [(True, "go on with --resume_from_checkpoint=latest"), (False, "no checkpoint was saved yet")],
)
def test_ctrl_c(whole: bool, said: str, script: Callable[..., Path], machine: Machine) -> None:
    training(machine, STUBBORN)
    checkpoint = machine.root / "work/out/checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "random_states_0.pkl").write_text("state" * whole)
    process = start(script(), machine)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"{SCRIPT}: interrupted at step 4: {said}\n")
    (log,) = (machine.root / "work/out").glob("train_*.log")
    assert "last words" in log.read_text()
    assert alive(machine) == []


def test_a_signal_to_the_launch_script_alone(script: Callable[..., Path], machine: Machine) -> None:
    """As a scheduler sends it: what was started gets it too, and is gone."""
    handler = "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(3)))\n"
    training(machine, handler + f"open('pids', 'w').write(str(os.getpid()))\n{STEPS}time.sleep(300)\n")
    process = start(script(), machine)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "told" in out
    assert "interrupted at step 4" in err and alive(machine) == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            "print('Traceback (most recent call last):\\n  File \"x.py\", line 1\\nValueError: the real one')\n"
            "print('subprocess.CalledProcessError: Command [...] returned non-zero exit status 1.')\nsys.exit(1)",
            1,
            "ValueError: the real one",
        ),
        (
            "print('[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB')\n"
            "print('torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ')\nsys.exit(1)",
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            "print('usage: t.py\\ntrain.py: error: unrecognized arguments: --x')\nsys.exit(2)",
            2,
            "train.py: error: unrecognized arguments: --x",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "it was killed: by the system, if memory ran out (dmesg says so)",
        ),
        (
            "print('OSError: [Errno 28] No space left on device')\nprint('RuntimeError: enforce fail')\nsys.exit(1)",
            1,
            "the disk is full: out has ",
        ),
    ],
)
def test_why_it_failed(body: str, status: int, said: str, script: Callable[..., Path], machine: Machine) -> None:
    training(machine, f"print({BARS!r}, flush=True)\n{body}\n")
    run = machine.launch(script(), "--output_dir=out")
    first, second = run.stderr.splitlines()
    assert run.status == status
    assert first.startswith(f"{SCRIPT}: error: {said}")
    assert re.fullmatch(
        rf"{SCRIPT}: error: training failed with exit status {status}; its output is in out/train_.*", second
    )


def test_what_is_kept_of_a_run(script: Callable[..., Path], machine: Machine) -> None:
    """A log, the steps as numbers, the loss as a picture."""
    machine.prints(BARS + "\n")
    run = machine.launch(script(), "--output_dir=out", "--log_file=logs/my.log")
    assert run.status == 0, run.stderr
    assert sorted(path.name for path in (machine.root / "work/logs").iterdir()) == ["my.json", "my.log", "my.png"]
    kept = json.loads((machine.root / "work/logs/my.json").read_text())
    assert [(step, loss) for step, _, loss in kept["steps"]] == [(step, f"0.{step}") for step in range(1, 5)]
    assert kept["latents_cached"] is True and "latents cached" in run.stdout


def test_output_nobody_reads_ends_nothing(script: Callable[..., Path], machine: Machine) -> None:
    training(machine, f"{STEPS}time.sleep(0.5)\nprint('x' * 100000)\nopen('done', 'w')\n")
    command = f"bash '{script()}' {' '.join(GOOD)} | head -c 1"
    subprocess.run(["bash", "-c", command], cwd=machine.root / "work", env=machine.env, capture_output=True, timeout=60)
    assert (machine.root / "work/done").exists()


def test_machines_that_share_a_folder_have_a_log_each(script: Callable[..., Path], machine: Machine) -> None:
    several = ["--machines=2", "--num_processors=4", "--main_ip=10.0.0.1", "--main_port=0", "--output_dir=out"]
    for rank in range(2):
        assert machine.launch(script(), *several, f"--machine_rank={rank}").status == 0
    names = sorted(path.name for path in (machine.root / "work/out").glob("*.log"))
    assert [re.sub(r"_\d+-\d+", "", name) for name in names] == ["train_machine0.log", "train_machine1.log"]


def test_a_port_that_is_taken_is_named(script: Callable[..., Path], machine: Machine) -> None:
    import socket

    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = machine.launch(script(), "--num_processors=2", f"--main_port={port}")
    assert (run.status, run.argv) == (2, [])
    assert f"--main_port: port {port} is taken on this machine: give another one, such as " in run.stderr


def test_check_checks_and_stops_there(script: Callable[..., Path], machine: Machine) -> None:
    run = machine.launch(script(), "--check", "--output_dir=out")
    assert (run.status, run.stdout, run.argv) == (0, "the settings are good\n", [])
    assert not (machine.root / "work/out").exists()
    assert machine.launch(script(), "--check", "--rank=0").status == 2


def test_the_published_settings(script: Callable[..., Path], machine: Machine) -> None:
    run = machine.launch(script("npu"), "--profile=published", "--rank=4")
    assert (run.value("--learning_rate"), run.value("--lr_scheduler"), run.value("--rank")) == ("1e-6", "constant", "4")
    assert "--cache_latents" not in run.argv
    assert "--profile is one of published, not 'publishd'" in machine.launch(script(), "--profile=publishd").stderr


def in_slurm(script: Path, machine: Machine, *words: str, **env: str) -> Run:
    """A launch as machine 1 of two, in a step of Slurm's."""
    scontrol = machine.root / "bin/scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    scontrol.chmod(0o755)
    step = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NODEID": "1"}
    return machine.launch(script, *words, "--output_dir=out", **step, **env)


def test_the_machines_are_those_of_the_environment(script: Callable[..., Path], machine: Machine) -> None:
    """`srun -N2 bash finetune….sh`: without, two trainings of one machine go into one folder."""
    run = in_slurm(script("npu"), machine, "--log_file=out/my.log", RANK="1", PET_NNODES="7")
    assert run.status == 0, run.stderr
    flags = ("num_machines", "machine_rank", "main_process_ip", "main_process_port", "num_processes")
    assert [run.value(f"--{flag}") for flag in flags] == ["2", "1", "127.0.0.1", "10012", "16"]
    assert (
        "Machines : 2, this is 1, 8 processes on each; machine 0 is 127.0.0.1, port 10012 (Slurm, step 12.0)"
        in run.stdout
    )
    assert (run.env["HCCL_IF_IP"], run.env["HCCL_SOCKET_IFNAME"], run.env["GLOO_SOCKET_IFNAME"]) == (
        "127.0.0.1",
        "=lo",
        "lo",
    )
    assert not {"RANK", "PET_NNODES"} & set(run.env)
    assert (machine.root / "work/out/my_machine1.log").exists()
    cards = in_slurm(script("npu"), machine, ASCEND_RT_VISIBLE_DEVICES="2,3")
    assert cards.value("--num_processes") == "4"


def test_a_setting_wins_over_the_environment(script: Callable[..., Path], machine: Machine) -> None:
    run = in_slurm(script(), machine, "--machines=1")
    assert (run.status, run.value("--num_machines")) == (0, "1") and "Machines" not in run.stdout
    assert in_slurm(script(), machine, "--num_processors=2").value("--num_processes") == "2"


def test_what_misleads_torchrun_is_taken_out_on_one_machine(script: Callable[..., Path], machine: Machine) -> None:
    run = machine.launch(
        script(), "--output_dir=out", PET_NNODES="1", PET_MASTER_ADDR="nobody", PET_RDZV_ID="x", WORLD_SIZE="1"
    )
    assert run.status == 0 and not [name for name in run.env if name.startswith("PET_") or name == "WORLD_SIZE"]
