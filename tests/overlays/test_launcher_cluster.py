"""What a launch script does on a cluster: a hostfile, checkpoints that a kill has cut, folders that are not shared,
locks that a kill has left, a save that is asked for."""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launcher import checkpoints, environment, scheduler
from launcher.mistake import Mistake
from launcher.options import Option
from launching import OVERLAYS, Machine, render
from test_launcher_scheduler import ASCENDJOB, CHOSEN, MODELARTS, NNODES, PET, PODS, SLURM, VOLCANO
from test_launcher_training import GOOD

OWN = socket.gethostname()


def state(folder: Path, ranks: int = 1, deepspeed: bool = False) -> Path:
    """A whole saved state."""
    folder.mkdir(parents=True)
    for rank in range(ranks):
        (folder / f"random_states_{rank}.pkl").write_text("numbers")
        if deepspeed:
            (folder / "pytorch_model").mkdir(exist_ok=True)
            (folder / f"pytorch_model/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_text("state")
    if deepspeed:
        (folder / "latest").write_text("pytorch_model")
    return folder


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ((), ""),
        (("latest",), "no latest, which DeepSpeed writes last"),
        (("random_states_1.pkl",), "no random_states_1.pkl: process 1 did not write its part to its end"),
        (("random_states_0.pkl",), "no random_states_0.pkl: process 0 did not write its part to its end"),
        (("random_states_0.pkl", "random_states_1.pkl"), "no random_states_*.pkl: it was not written to its end"),
    ],
)
def test_a_state_of_every_process(removed: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folder = state(tmp_path / "checkpoint-2", ranks=2, deepspeed=True)
    for name in removed:
        (folder / name).unlink()
    assert checkpoints.complaint(folder) == said


def test_what_is_cut_is_set_aside(tmp_path: Path) -> None:
    """What is older than the newest whole one is left alone, cut or not."""
    for step in (2, 4, 6, 8):
        state(tmp_path / f"checkpoint-{step}")
    for step in (2, 6, 8):
        (tmp_path / f"checkpoint-{step}/random_states_0.pkl").write_bytes(b"")
    (tmp_path / "cut-8").mkdir()
    said = checkpoints.set_aside(tmp_path)
    there = sorted(path.name for path in tmp_path.glob("c*-*"))
    assert there == ["checkpoint-2", "checkpoint-4", "cut-6", "cut-8", "cut-8.1"]
    assert [line.split(" is now ")[1] for line in said] == [
        "cut-8.1: random_states_0.pkl is cut short",
        "cut-6: random_states_0.pkl is cut short",
    ]
    assert checkpoints.set_aside(tmp_path) == []


def test_the_newest_whole_state(tmp_path: Path) -> None:
    option = Option("resume", "state", "", states="*-state*")
    assert checkpoints.chosen_state(option, "latest", tmp_path) == ("", [])
    for number, name in enumerate(("a-state", "b-state", "c-state")):
        os.utime(state(tmp_path / name), (number, number))
    (tmp_path / "c-state/random_states_0.pkl").unlink()
    os.utime(tmp_path / "c-state", (9, 9))
    chosen, said = checkpoints.chosen_state(option, "latest", tmp_path)
    assert Path(chosen).name == "b-state" and len(said) == 1 and "c-state is skipped: no random_states" in said[0]
    with pytest.raises(Mistake, match="give another one, or latest"):
        checkpoints.chosen_state(option, str(tmp_path / "c-state"), tmp_path)


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    checkpoints.check_shared("output_dir", tmp_path, 0, "a")
    checkpoints.check_shared("output_dir", tmp_path, 1, "b", patience=0)
    said = "--output_dir: .* here is not the folder that machine 0 has: give one that all machines see"
    with pytest.raises(Mistake, match=said):  # an earlier run's, when this machine was machine 0
        checkpoints.check_shared("output_dir", tmp_path, 1, "a", patience=0)
    with pytest.raises(Mistake, match=said):
        checkpoints.check_shared("output_dir", tmp_path / "own", 1, "b", patience=0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"node-a slots=8\n{OWN} slots=8\n", (2, 1, "node-a", 8)),
        (f"# the cluster\n\n{OWN} slots=4 # this one\nnode-b slots=4\n", (2, 0, OWN, 4)),
        ("127.0.0.1\n10.255.255.1\n", (2, 0, "127.0.0.1", 0)),
    ],
)
def test_hostfile(text: str, place: tuple[int, int, str, int], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(text)
    found = scheduler.hostfile(str(tmp_path / "hosts"))
    assert (found.machines, found.rank, found.ip, found.local) == place
    assert found.port == scheduler.port_for(found.ip)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no-such-a.example slots=8\nno-such-b.example slots=8\n", f"no line of .* is this machine, {OWN}: no-such-a"),
        (f"{OWN} slots=8\nno-such.example slots=4\n", "has slots of 4, 8: as many on each machine"),
        (f"{OWN} slots=many\n", "has slots of many"),
        ("# nobody\n", "has no line: host slots=8"),
    ],
)
def test_hostfiles_that_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(Mistake, match=said):
        scheduler.hostfile(str(tmp_path / "hosts"))
    with pytest.raises(Mistake, match="cannot be read"):
        scheduler.hostfile(str(tmp_path / "none"))


def test_a_hostfile_through_the_launch_script(machine: Machine, tmp_path: Path) -> None:
    """It wins over the environment, an option over it."""
    script = render("cpu", tmp_path / "tree") / "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    (machine.root / "work/hosts").write_text(f"{OWN} slots=4\nno-such.example slots=4\n")
    run = machine.launch(script, "--hostfile=hosts", "--main_port=7777", NNODES="3", NODE_RANK="1", MASTER_ADDR="a")
    assert run.status == 0, run.stderr
    told = [run.value(f"--{name}") for name in ("num_machines", "machine_rank", "main_process_port", "num_processes")]
    assert told == ["2", "0", "7777", "8"]
    assert f"Machines : 2, this is 0, 4 processes on each; machine 0 is {OWN}" in run.stdout


def test_a_port_alone_is_no_machine(machine: Machine, tmp_path: Path) -> None:
    """Another port, where the scheduler's is taken: the machines are still the scheduler's."""
    script = render("cpu", tmp_path / "tree") / "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    run = machine.launch(script, "--main_port=7777", NNODES="2", NODE_RANK="1", MASTER_ADDR="a", MASTER_PORT="6000")
    told = [run.value(f"--{name}") for name in ("num_machines", "machine_rank", "main_process_ip", "main_process_port")]
    assert told == ["2", "1", "a", "7777"], run.stderr


def test_a_lock_that_a_killed_build_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "fused_adam/lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (0, 0))
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    with pytest.raises(Mistake, match=f"{lock}: a build that was killed left it, .* minutes ago: rm {lock}"):
        environment.check_builds(variables)
    with lock.open():  # as a build has it
        environment.check_builds(variables)
    monkeypatch.setattr(environment.time, "sleep", lambda seconds: lock.unlink())
    os.utime(lock)
    environment.check_builds(variables)  # another machine's, which ends
    assert not lock.exists()


def test_only_deepspeed_builds(machine: Machine, tmp_path: Path) -> None:
    """A lock is no matter to a training without it."""
    script = render("cpu", tmp_path / "tree") / "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    lock = tmp_path / "it/lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (0, 0))
    extensions = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert machine.launch(script, **extensions).status == 0  # one process
    run = machine.launch(script, "--num_processors=2", **extensions)
    assert run.status == 2 and f"rm {lock}" in run.stderr and not run.argv
    config = script.with_name("bf16_accelerate_config.yaml")
    config.write_text(config.read_text().replace("'NO'", "MULTI_GPU"))
    assert machine.launch(script, "--num_processors=2", **extensions).status == 0


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """watch/launcher_saving.py, as a training of its own has it."""
    monkeypatch.setenv("LAUNCHER_STOP", str(tmp_path / "stop"))
    monkeypatch.setenv("LAUNCHER_SAVES", "every state")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", argparse.ArgumentParser.parse_known_args)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    sys.modules["torch"].distributed = types.ModuleType("distributed")  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("saving", OVERLAYS / "launcher/watch/launcher_saving.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


class Accelerator:
    """accelerate's, as far as it is looked at."""

    sync_gradients, num_processes, is_local_main_process = True, 1, True
    backward = wait_for_everyone = end_training = lambda *_: None


@pytest.mark.parametrize(("given", "usual"), [(["--every=3"], [3, 6]), ([], [])])
def test_a_save_that_is_asked_for(given: list[str], usual: list[int], saving: Any, tmp_path: Path) -> None:
    """The script's own condition holds at the step that it is asked for in, and the run ends before the next one."""
    saving.stepping(types.SimpleNamespace(Accelerator=type("Accelerator", (Accelerator,), {})))
    module = types.SimpleNamespace(Accelerator=type("Accelerator", (Accelerator,), {}))
    saving.stepping(module)
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int)
    parser.add_argument("--state", action="store_true")
    arguments = parser.parse_args(given)
    accelerator, saved = module.Accelerator(), []
    with pytest.raises(SystemExit) as ended:
        for step in range(1, 100):
            if step == 8:
                (tmp_path / "stop").write_text("save\n")
            accelerator.backward(None)
            if arguments.every is not None and step % arguments.every == 0:
                saved.append((step, arguments.state))
    assert saved == [*((step, False) for step in usual), (8, True)]
    assert ended.value.code == 0 and (tmp_path / "stop").read_text() == "save\nsaved\n"


def test_programs_that_do_not_save_are_left_alone(machine: Machine, tmp_path: Path) -> None:
    """The hooks wait for modules that never come."""
    script = render("cpu", tmp_path / "tree") / "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    body = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--x')\nprint(p.parse_args(['--x=1']).x)\n"
    (machine.root / "bin/accelerate").write_text(f"#!{sys.executable}\n{body}")
    words = ["bash", str(script), *GOOD]
    done = subprocess.run(words, cwd=machine.root / "work", env=machine.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "\n1\n" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (SLURM, ["2", "1", "10.99.0.1", "10012", "2"]),
        (SLURM | {"SLURM_GPUS_ON_NODE": "4"}, ["2", "1", "10.99.0.1", "10012", "8"]),
        (PET | {"PET_NPROC_PER_NODE": "8", "WORLD_SIZE": "16"}, ["2", "1", "job-master-0", "23456", "16"]),
        (MODELARTS | {"MA_NUM_GPUS": "8"}, ["2", "1", "job-worker-0.job", str(CHOSEN), "16"]),
        (ASCENDJOB, ["2", "1", "10.96.0.7", "2222", "16"]),
        (NNODES, ["2", "1", "10.0.0.1", "6000", "16"]),
        (PODS, ["3", "2", "job-master-0.job", "23456", "3"]),
        (VOLCANO, ["2", "1", "job-worker-0.job", str(CHOSEN), "2"]),
        ({"PET_NNODES": "1", "PET_MASTER_ADDR": "none", "RANK": "0"}, [None] * 5),
    ],
)
def test_what_accelerate_is_told(
    variables: dict[str, str], told: list[str | None], machine: Machine, tmp_path: Path
) -> None:
    """By the launch script, and that nothing of it is left for accelerate to be misled by."""
    script = render("cpu", tmp_path / "tree") / "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    scontrol = machine.root / "bin/scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$2" = hostnames ] && echo 10.99.0.1\n')
    scontrol.chmod(0o755)
    run = machine.launch(script, **variables)
    assert run.status == 0, run.stderr
    flags = ("num_machines", "machine_rank", "main_process_ip", "main_process_port", "num_processes")
    assert [run.value(f"--{name}") for name in flags] == told
    assert not [name for name in run.env if scheduler.MISLEADING.fullmatch(name)]
    assert ("Machines : " in run.stdout) == bool(told[0])
