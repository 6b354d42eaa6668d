"""Slurm itself, on two machines that are network namespaces here: `kit cluster` and the launch scripts under it.

Skipped where slurmctld, slurmd, munged or root are not there: apt-get install slurm-wlm munge iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit import environment, recipes
from kit.smoke import models
from kit.smoke import run as smoke

CONFIGURATION = """\
ClusterName=kit
SlurmctldHost=node1(10.99.0.1)
SlurmctldPort=16817
SlurmdPort=16820
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=5
ReturnToService=2
MpiDefault=none
NodeName=node1 NodeAddr=10.99.0.1 CPUs=2 State=UNKNOWN
NodeName=node2 NodeAddr=10.99.0.2 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""
# What runs on a node: in its network, under its name, with hosts that it knows the other one by.
ON = 'mount --bind "$1/hosts" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
DAEMONS = ("slurmctld", "slurmd", "munged", "nsenter")


@dataclass
class Slurm:
    """Two nodes. ``place`` holds their files."""

    place: Path
    networks: list[str]

    def on(self, node: int, *command: str | Path) -> list[str]:
        """The words of a command on a node, 1 or 2."""
        enter = ["nsenter", f"--net=/run/netns/{self.networks[node - 1]}", "unshare", "-um", "sh", "-c", ON, "sh"]
        return [*enter, str(self.place), f"node{node}", *map(str, command)]

    def said(self, *command: str | Path, **more: str) -> str:
        """What a command says on node 1, at its end."""
        variables = {**environment.variables(), "SLURM_CONF": str(self.place / "slurm.conf"), **more}
        done = subprocess.run(self.on(1, *command), capture_output=True, text=True, env=variables, timeout=300)
        return done.stdout + done.stderr

    def job(self, number: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self.said("scontrol", "show", "job", number)))

    def ended(self, number: str, within: float) -> dict[str, str]:
        """The job when it has ended."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            job = self.job(number)
            if job["JobState"] not in ("RUNNING", "PENDING", "COMPLETING", "CONFIGURING"):
                return job
            time.sleep(0.5)
        pytest.fail(f"job {number} is still {job['JobState']} after {within} s")


@pytest.fixture(scope="module")
def slurm(machines: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    lacking = [name for name in DAEMONS if not shutil.which(name)]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)} here: apt-get install slurm-wlm munge")
    place = tmp_path_factory.mktemp("slurm")
    for name in ("state", "node1", "node2"):
        (place / name).mkdir()
    (place / "hosts").write_text("127.0.0.1 localhost\n10.99.0.1 node1\n10.99.0.2 node2\n")
    (place / "slurm.conf").write_text(CONFIGURATION.format(place=place))
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o400)
    made = Slurm(place, [words[-1] for words in machines])
    variables = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}
    munge = ["munged", "--force", f"--socket={place}/munge.socket", f"--key-file={place}/munge.key"]
    munge += [f"--pid-file={place}/munged.pid", f"--log-file={place}/munged.log", f"--seed-file={place}/munge.seed"]
    try:
        subprocess.run(munge, check=True)
        for node, command in ((1, ["slurmctld"]), (1, ["slurmd", "-N", "node1"]), (2, ["slurmd", "-N", "node2"])):
            subprocess.run(made.on(node, *command), check=True, env=variables)
        yield made
    finally:
        for file in ("node1.pid", "node2.pid", "slurmctld.pid", "munged.pid"):
            if (place / file).is_file():
                subprocess.run(["kill", (place / file).read_text().strip()], check=False)


@pytest.fixture(autouse=True)
def idle(slurm: Slurm) -> None:
    """Both nodes are up, and done with the job of the test before."""
    deadline = time.monotonic() + 60
    while slurm.said("sinfo", "-h", "-t", "idle", "-o", "%D").strip() != "2":
        assert time.monotonic() < deadline, (slurm.place / "slurmctld.log").read_text()[-2000:]
        time.sleep(0.1)


@dataclass
class Training:
    """A recipe's launch script on a tiny model, in the recipe's environment."""

    name: str
    place: Path
    python: Path
    script: Path
    words: list[str]
    variables: dict[str, str]

    def losses(self, output: Path) -> dict[str, float]:
        code = "import sys; sys.path.insert(0, sys.argv[1]); import look; print(look.losses(sys.argv[2]))"
        command = [str(self.python), "-c", code, str(smoke.HERE), str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment.variables())
        found: dict[str, float] = eval(done.stdout.splitlines()[-1])
        return found

    def alone(self, output: Path, *words: str) -> subprocess.Popen[bytes]:
        """Two processes on this machine."""
        command = ["bash", str(self.script), *self.words, f"--output_dir={output}", *words]
        with Path(f"{output}.log").open("wb") as log:
            return subprocess.Popen(command, env=self.variables, stdout=log, stderr=log)


def training(name: str, script: str, place: Path, tiny: Path, words: list[str]) -> Training:
    found = recipes.load(name)
    made = environment.ensure(found, found.device("cpu"), place)
    models.build(name, made.python, tiny)
    variables = {
        **environment.variables(),
        "PATH": f"{made.python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tiny / "modules") if (tiny / "modules").is_dir() else "",
        "TORCH_EXTENSIONS_DIR": str(made.extensions),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    assert found.smoke
    small = [word.replace("{tiny}", str(tiny)) for word in [*words, *found.smoke.words["small"]]]
    return Training(name, place, made.python, place / script, small, variables)


@pytest.fixture(scope="module")
def hidream(hidream_workspace: Path, hidream_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    from kit.smoke import extensions

    found = recipes.load("hidream")
    extensions.build(found, environment.ensure(found, found.device("cpu"), hidream_workspace))
    words = ["--model_name={tiny}/model", "--pretrained4_path={tiny}/llama", "--dataset_name={tiny}/data", "--seed=1"]
    script = "diffusers/examples/dreambooth/finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
    words += ["--batch_size=2", "--mixed_precision=no", "--max_train_steps=5"]
    return training("hidream", script, hidream_workspace, tmp_path_factory.mktemp("tiny-hidream") / "tiny", words)


@pytest.fixture(scope="module")
def sdxl(prepared: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Training:
    words = ["--model_name={tiny}/model", "--dataset_name={tiny}/data", "--train_batch_size=2", "--mixed_precision=no"]
    script = "sd-scripts/test/pretrain_full_nm_np_sdxl.sh"
    words += ["--max_train_steps=4"]
    return training("sdxl", script, prepared("sdxl", "cpu"), tmp_path_factory.mktemp("tiny-sdxl") / "tiny", words)


def submitted(slurm: Slurm, of: Training, output: Path, *words: str) -> str:
    """`kit cluster`, and what it says to type: the job's number."""
    folder = output.parent
    command = [sys.executable, "-c", "from kit.cli import main; main()"]
    command += ["cluster", str(of.place), "--for", "slurm"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    given = [*of.words, f"--output_dir={output}", *words]
    said = slurm.said(
        "sbatch", "--parsable", f"--chdir={folder}", "-N2", folder / "kit-slurm.sh", *given, **of.variables
    )
    assert said.strip().isdigit(), said
    return said.strip()


def wait_for(what: Callable[[], object], within: float = 240) -> None:
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def logs(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.log")))


def ends(folder: Path, job: dict[str, str]) -> str:
    """How a job and what ran beside it ended, short enough for a report."""
    last = "\n".join(f"{path.name}:\n{path.read_text('utf-8', 'replace')[-1500:]}" for path in folder.glob("*.log"))
    return f"{job}\n{last}"


def test_told_requeued_resumed(slurm: Slurm, hidream: Training, tmp_path: Path) -> None:
    """Told while it starts it saves at its second step, and comes back; the checkpoint of a kill does not stop it. The
    losses are those of two processes on one machine, to the bit."""
    output = tmp_path / "out"
    number = submitted(slurm, hidream, output)
    alone = hidream.alone(tmp_path / "alone", "--num_processors=2")
    wait_for(lambda: len(list(output.glob("train_*_machine*.log"))) == 2)
    slurm.said("scancel", "--batch", "--signal=USR1", number)
    wait_for(lambda: slurm.job(number).get("Restarts") == "1" or "COMPLETED" in str(slurm.job(number)))
    assert (output / "checkpoint-2/latest").is_file(), logs(tmp_path)
    shutil.copytree(output / "checkpoint-2", output / "checkpoint-3")
    (output / "checkpoint-3/random_states_1.pkl").write_bytes(b"")
    # Not after the two minutes of a requeue, but when the nodes are done with the first run: before, they revoke it.
    slurm.said("scontrol", "update", f"JobId={number}", "StartTime=now+5")
    job = slurm.ended(number, within=300)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), ends(tmp_path, job)
    assert "checkpoint-3 is now cut-3: random_states_1.pkl is cut short" in logs(tmp_path)
    assert "Resuming from checkpoint checkpoint-2" in logs(tmp_path)
    assert alone.wait(timeout=300) == 0
    found = hidream.losses(output)
    assert len(found) == 5 and found == hidream.losses(tmp_path / "alone")


def test_a_machine_that_fails_ends_the_job(slurm: Slurm, hidream: Training, tmp_path: Path) -> None:
    output = tmp_path / "out"
    number = submitted(slurm, hidream, output, "--max_train_steps=2000", "--log_file=train.log")
    wait_for(lambda: " 1/2000" in logs(tmp_path))
    trainers = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words, variables = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
            if str(output).encode() in words and b"launch" not in words and b"SLURM_NODEID=1\0" in variables:
                trainers.append(int(place.name))
    os.kill(trainers[0], 9)
    began = time.monotonic()
    job = slurm.ended(number, within=60)
    assert job["JobState"] == "FAILED", ends(tmp_path, job)
    print(f"the job ended {time.monotonic() - began:.0f} s after one process was killed")


def test_sdxl(slurm: Slurm, sdxl: Training, tmp_path: Path) -> None:
    output = tmp_path / "out"
    number = submitted(slurm, sdxl, output)
    alone = sdxl.alone(tmp_path / "alone", "--nnodes=1", "--nproc_per_node=2")
    job = slurm.ended(number, within=400)
    assert job["JobState"] == "COMPLETED", ends(tmp_path, job)
    assert alone.wait(timeout=300) == 0, ends(tmp_path, job)
    found = sdxl.losses(output)
    assert len(found) == 4 and found == sdxl.losses(tmp_path / "alone")


def test_wrong_shapes_are_one_line(slurm: Slurm, hidream: Training, tmp_path: Path) -> None:
    words = ["bash", hidream.script, *hidream.words, f"--output_dir={tmp_path}/out"]
    said = slurm.said("srun", "-N2", "-n4", "--overcommit", *words, **hidream.variables)
    assert said.count("error: Slurm: 4 tasks on 2 nodes: start one a node: srun --ntasks-per-node=1") == 4, said[-3000:]
    listen = "import socket, time; s = socket.create_server(('', 9999)); print(flush=True); time.sleep(99)"
    with subprocess.Popen(slurm.on(1, sys.executable, "-c", listen), stdout=subprocess.PIPE) as taken:
        assert taken.stdout and taken.stdout.readline()
        said = slurm.said("srun", "-W9", "-N2", *words, "--main_port=9999", **hidream.variables)
        taken.kill()
    assert "error: --main_port: port 9999 is taken on this machine: give another one" in said, said[-3000:]
