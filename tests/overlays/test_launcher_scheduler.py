"""overlays/launcher/scheduler.py: a row of variables for each environment, what is taken of it, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from launcher import scheduler
from launcher.mistake import Mistake
from launcher.scheduler import Place

SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NODEID": "1",
    "SLURM_NNODES": "2",
}
PET = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-master-0", "PET_MASTER_PORT": "23456"}
MODELARTS = {"MA_NUM_HOSTS": "2", "VC_TASK_INDEX": "1", "VC_WORKER_HOSTS": "job-worker-0.job,job-worker-1.job"}
ASCENDJOB = {
    "WORLD_SIZE": "16",
    "LOCAL_WORLD_SIZE": "8",
    "LOCAL_RANK": "0,1,2,3,4,5,6,7",
    "RANK": "1",
    "MASTER_ADDR": "10.96.0.7",
    "MASTER_PORT": "2222",
}
NNODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "6000", "NPUS_PER_NODE": "8"}
PODS = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "job-master-0.job", "MASTER_PORT": "23456"}
VOLCANO = {"VC_WORKER_HOSTS": "job-worker-0.job,job-worker-1.job", "VC_TASK_INDEX": "1", "VC_WORKER_NUM": "2"}
CHOSEN = scheduler.port_for("job-worker-0.job")


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's own, for a cluster whose nodes have no names that resolve."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(
        '#!/bin/sh\n[ "$2" = hostnames ] && printf "node1\\nnode2\\n" || echo "NodeName=$3 NodeAddr=10.99.0.1 Port=1"\n'
    )
    (tmp_path / "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (SLURM, Place("Slurm, step 12.0", 2, 1, "10.99.0.1", 10012)),
        (
            SLURM | {"SLURM_GPUS_ON_NODE": "4", "SLURM_STEP_ID": "1"},
            Place("Slurm, step 12.1", 2, 1, "10.99.0.1", 10109, 4),
        ),
        (PET, Place("Kubeflow", 2, 1, "job-master-0", 23456)),
        (
            PET | {"PET_NPROC_PER_NODE": "8", "RANK": "1", "WORLD_SIZE": "16"},
            Place("Kubeflow", 2, 1, "job-master-0", 23456, 8),
        ),
        (PET | {"PET_NPROC_PER_NODE": "auto"}, Place("Kubeflow", 2, 1, "job-master-0", 23456)),
        (MODELARTS | {"MA_NUM_GPUS": "8"}, Place("ModelArts", 2, 1, "job-worker-0.job", CHOSEN, 8)),
        (ASCENDJOB, Place("AscendJob", 2, 1, "10.96.0.7", 2222, 8)),
        (NNODES, Place("NNODES", 2, 1, "10.0.0.1", 6000, 8)),
        ({**NNODES, "MASTER_PORT": ""}, Place("NNODES", 2, 1, "10.0.0.1", scheduler.port_for("10.0.0.1"), 8)),
        (PODS, Place("WORLD_SIZE pods", 3, 2, "job-master-0.job", 23456)),
        (VOLCANO, Place("Volcano", 2, 1, "job-worker-0.job", CHOSEN)),
        (SLURM | PODS, Place("Slurm, step 12.0", 2, 1, "10.99.0.1", 10012)),
    ],
)
def test_what_is_taken(environment: dict[str, str], place: Place) -> None:
    assert scheduler.find(environment) == place


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "12", "SLURM_NNODES": "2", "SLURM_NODEID": "0"},  # a batch script, or under salloc
        SLURM | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"},
        PET | {"PET_NNODES": "1"},
        MODELARTS | {"MA_NUM_HOSTS": "1", "VC_WORKER_HOSTS": "job-worker-0.job"},
        {"NNODES": "1", "NODE_RANK": "0"},
        PODS | {"WORLD_SIZE": "1", "RANK": "0"},
        PODS | {"LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},  # inside of torchrun
        {"VC_WORKER_HOSTS": "job-worker-0.job", "VC_TASK_INDEX": "0"},
    ],
)
def test_one_machine(environment: dict[str, str]) -> None:
    assert scheduler.find(environment) is None


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "4"},
            "Slurm: 4 tasks on 2 nodes: start one a node: srun --ntasks-per-node=1",
        ),
        ({k: v for k, v in SLURM.items() if k != "SLURM_NODEID"}, "Slurm: the environment has no SLURM_NODEID"),
        ({"PET_NNODES": "2"}, "Kubeflow: the environment has no PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT"),
        (PET | {"PET_NNODES": "1:4"}, "Kubeflow: PET_NNODES=1:4: an elastic job"),
        ({"MA_NUM_HOSTS": "2"}, "ModelArts: the environment has no VC_TASK_INDEX, VC_WORKER_HOSTS"),
        (ASCENDJOB | {"WORLD_SIZE": "15"}, "AscendJob: WORLD_SIZE=15 is no multiple of LOCAL_WORLD_SIZE=8"),
        (NNODES | {"NODE_RANK": "2"}, "NNODES: this is machine 2, but 2 machines count from 0 to 1"),
        ({"NNODES": "2"}, "NNODES: the environment has no NODE_RANK, MASTER_ADDR"),
        (PODS | {"RANK": "x"}, "WORLD_SIZE: RANK=x is no whole number"),
        ({"VC_WORKER_HOSTS": "a,b", "VC_MASTER_HOSTS": "c"}, "which machine this is cannot be told; make it one task"),
        ({"VC_WORKER_HOSTS": "a,b"}, "Volcano: no VC_TASK_INDEX: give the job the plugin env"),
    ],
)
def test_what_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(Mistake) as raised:
        scheduler.find(environment)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_what_would_mislead_is_taken_out() -> None:
    """Every PET_ variable is an option of torchrun: with them a launch on one machine waits for ever."""
    kept = {"PATH": "/bin", "PETS": "2", "HCCL_IF_IP": "10.0.0.1"}
    assert scheduler.without_misleading({**kept, **PET, **ASCENDJOB, **NNODES} | kept) == {**kept, "NPUS_PER_NODE": "8"}
    inside = {**PODS, "TORCHELASTIC_RUN_ID": "none"}
    assert scheduler.without_misleading(inside) == inside


def test_the_card_that_leads_to_machine_0() -> None:
    assert scheduler.own_address("127.0.0.1") == ("127.0.0.1", "lo")
    assert scheduler.own_address("no.such.host.example") == ("", "")
    assert scheduler.network("127.0.0.1", "npu", {}) == {
        "GLOO_SOCKET_IFNAME": "lo",
        "HCCL_IF_IP": "127.0.0.1",
        "HCCL_SOCKET_IFNAME": "=lo",
    }
    assert scheduler.network("127.0.0.1", "cuda", {"GLOO_SOCKET_IFNAME": "eth0"}) == {"NCCL_SOCKET_IFNAME": "=lo"}
    assert scheduler.network("no.such.host.example", "cpu", {}) == {}
