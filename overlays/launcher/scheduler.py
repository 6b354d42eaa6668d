"""Machines as the environment has them in which a launch script was started: Slurm, Kubernetes, ModelArts and others.

Each reader knows the variables of one environment and gives a Place, None where they are not there; a set that is there
in part is a mistake that names what lacks. `RANK` is the machine's in all of them; `WORLD_SIZE` counts machines in some
and devices in others.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.mistake import Mistake

# What torchrun and accelerate take for their own options, and so would be misled by: PET_* is every option of torchrun.
MISLEADING = re.compile(
    r"PET_\w+|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_\w+|MASTER_ADDR|MASTER_PORT|NODE_RANK|NNODES"
)
NAMES = ("NPUS_PER_NODE", "NPROC_PER_NODE", "GPUS_PER_NODE")
LOWEST, PORTS = 10000, 20000  # below the ephemeral ports and Kubernetes' node ports, clear of HCCL's


@dataclass(frozen=True)
class Place:
    """Machines in all, which of them this is, where machine 0 is; processes on each, 0 where that is not said."""

    source: str
    machines: int
    rank: int
    ip: str
    port: int
    local: int = 0


def find(environment: Mapping[str, str]) -> Place | None:
    """What the environment says of several machines, None where there is one, or nothing is said. Raises Mistake."""
    if "TORCHELASTIC_RUN_ID" in environment:  # inside of torchrun, whose variables these are
        return None
    for reader in (slurm, kubeflow, modelarts, ascendjob, by_name, pods, volcano):
        place = reader(environment)
        if place:
            if place.rank >= place.machines:
                counted = f"{place.machines} machines count from 0 to {place.machines - 1}"
                raise Mistake(f"{place.source}: this is machine {place.rank}, but {counted}")
            return place if place.machines > 1 else None
    return None


def without_misleading(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would mislead torchrun and accelerate; inside of torchrun as it is."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return dict(environment)
    return {name: value for name, value in environment.items() if not MISLEADING.fullmatch(name)}


def slurm(env: Mapping[str, str]) -> Place | None:
    """A step of srun's (srun(1), OUTPUT ENVIRONMENT VARIABLES). The job's own variables are there in a batch script
    too, where only one machine runs."""
    if "SLURM_STEP_NUM_NODES" not in env:
        return None
    machines, tasks = (_number(env, name, "Slurm") for name in ("SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"))
    if machines == 1:
        return None
    if tasks != machines:
        raise Mistake(f"Slurm: {tasks} tasks on {machines} nodes: start one a node: srun --ntasks-per-node=1")
    _need(env, "Slurm", "SLURM_NODEID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
    job, step = _number(env, "SLURM_JOB_ID", "Slurm"), int(env.get("SLURM_STEP_ID") or 0)
    first = _first_node(env["SLURM_STEP_NODELIST"])
    port = LOWEST + (job + 97 * step) % PORTS
    local = int(env.get("SLURM_GPUS_ON_NODE") or 0)
    return Place(f"Slurm, step {job}.{step}", machines, _number(env, "SLURM_NODEID", "Slurm"), first, port, local)


def _first_node(nodes: str) -> str:
    """The first host of a list such as node[1-2], as an address where its name does not resolve."""
    first = _said(["scontrol", "show", "hostnames", nodes]).split()
    if not first:
        raise Mistake(f"Slurm: scontrol does not say which hosts {nodes} are: give --main_ip")
    try:
        socket.gethostbyname(first[0])
    except OSError:
        found = re.search(r"NodeAddr=(\S+)", _said(["scontrol", "show", "node", first[0]]))
        return found[1] if found else first[0]
    return first[0]


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def kubeflow(env: Mapping[str, str]) -> Place | None:
    """Kubeflow's PyTorchJob (training-operator 1.9, pkg/controller.v1/pytorch/envvar.go) and TrainJob (trainer,
    pkg/runtime/framework/plugins/torch)."""
    if "PET_NNODES" not in env:
        return None
    if not env["PET_NNODES"].isdigit():
        raise Mistake(f"Kubeflow: PET_NNODES={env['PET_NNODES']}: an elastic job; give the number of machines")
    if int(env["PET_NNODES"]) == 1:
        return None
    _need(env, "Kubeflow", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    local = env.get("PET_NPROC_PER_NODE", "")
    rank, port = (_number(env, name, "Kubeflow") for name in ("PET_NODE_RANK", "PET_MASTER_PORT"))
    return Place(
        "Kubeflow", int(env["PET_NNODES"]), rank, env["PET_MASTER_ADDR"], port, int(local) if local.isdigit() else 0
    )


def modelarts(env: Mapping[str, str]) -> Place | None:
    """ModelArts (support.huaweicloud.com, usermanual-standard-modelarts, develop-modelarts-0104)."""
    if "MA_NUM_HOSTS" not in env or _number(env, "MA_NUM_HOSTS", "ModelArts") == 1:
        return None
    _need(env, "ModelArts", "VC_TASK_INDEX", "VC_WORKER_HOSTS")
    first, rank = env["VC_WORKER_HOSTS"].split(",")[0], _number(env, "VC_TASK_INDEX", "ModelArts")
    local = int(env.get("MA_NUM_GPUS") or 0)
    return Place("ModelArts", _number(env, "MA_NUM_HOSTS", "ModelArts"), rank, first, port_for(first), local)


def ascendjob(env: Mapping[str, str]) -> Place | None:
    """MindCluster's AscendJob (Ascend/mind-cluster, ascend-operator, pkg/controllers/v1/env.go): WORLD_SIZE counts
    NPUs, LOCAL_RANK is a list, and only the port it names is forwarded."""
    if not {"LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "MASTER_ADDR"} <= env.keys():
        return None
    world, local = (_number(env, name, "AscendJob") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if not local or world % local:
        raise Mistake(f"AscendJob: WORLD_SIZE={world} is no multiple of LOCAL_WORLD_SIZE={local}")
    _need(env, "AscendJob", "MASTER_PORT")
    rank, port = (_number(env, name, "AscendJob") for name in ("RANK", "MASTER_PORT"))
    return Place("AscendJob", world // local, rank, env["MASTER_ADDR"], port, local)


def by_name(env: Mapping[str, str]) -> Place | None:
    """NNODES and NODE_RANK, as scripts for torchrun have them (MindSpeed-MM's, and many clusters')."""
    if "NNODES" not in env or not env["NNODES"].isdigit() or int(env["NNODES"]) == 1:
        return None
    _need(env, "NNODES", "NODE_RANK", "MASTER_ADDR")
    local = next((int(env[name]) for name in NAMES if env.get(name, "").isdigit()), 0)
    port = _number(env, "MASTER_PORT", "NNODES") if env.get("MASTER_PORT") else port_for(env["MASTER_ADDR"])
    return Place("NNODES", int(env["NNODES"]), _number(env, "NODE_RANK", "NNODES"), env["MASTER_ADDR"], port, local)


def pods(env: Mapping[str, str]) -> Place | None:
    """WORLD_SIZE pods, this one number RANK: Volcano's plugin pytorch, Aliyun PAI-DLC, Baidu AIHC, older Kubeflow."""
    if not {"WORLD_SIZE", "RANK", "MASTER_ADDR"} <= env.keys() or "LOCAL_RANK" in env:
        return None
    machines, rank = (_number(env, name, "WORLD_SIZE") for name in ("WORLD_SIZE", "RANK"))
    port = _number(env, "MASTER_PORT", "WORLD_SIZE") if env.get("MASTER_PORT") else port_for(env["MASTER_ADDR"])
    local = next((int(env[name]) for name in NAMES if env.get(name, "").isdigit()), 0)
    return Place("WORLD_SIZE pods", machines, rank, env["MASTER_ADDR"], port, local)


def volcano(env: Mapping[str, str]) -> Place | None:
    """Volcano's plugins env and svc (volcano-sh/volcano, pkg/controllers/job/plugins): a list of hosts for each task,
    and the index within one's own. A job of one task is what can be told apart."""
    tasks = [name for name in env if re.fullmatch(r"VC_\w+_HOSTS", name)]
    if not tasks:
        return None
    if len(tasks) > 1:
        raise Mistake(f"Volcano: {', '.join(sorted(tasks))}: which machine this is cannot be told; make it one task")
    hosts = [host for host in env[tasks[0]].split(",") if host]
    if len(hosts) == 1:
        return None
    index = next((env[name] for name in ("VC_TASK_INDEX", "VK_TASK_INDEX") if env.get(name, "").isdigit()), "")
    if not index:
        raise Mistake("Volcano: no VC_TASK_INDEX: give the job the plugin env")
    return Place("Volcano", len(hosts), int(index), hosts[0], port_for(hosts[0]))


def hostfile(path: str) -> Place:
    """DeepSpeed's hostfile, a line `host slots=8` for each machine (MindSpeed-MM's has hosts alone): this one's is the
    line whose host is its name, or has an address of its own. Raises Mistake."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split("#")[0].split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"--hostfile: {path} cannot be read: {error}") from None
    hosts = [line[0] for line in lines if line]
    slots = {next((word[6:] for word in line[1:] if word.startswith("slots=")), "0") for line in lines if line}
    if not hosts or len(slots) > 1 or not all(each.isdigit() for each in slots):
        counted = f"slots of {', '.join(sorted(slots))}: as many on each machine" if hosts else "no line: host slots=8"
        raise Mistake(f"--hostfile: {path} has {counted}")
    own = [rank for rank, host in enumerate(hosts) if host == socket.gethostname()]
    own = own or [rank for rank, host in enumerate(hosts) if _is_own(host)]
    if not own:
        raise Mistake(f"--hostfile: no line of {path} is this machine, {socket.gethostname()}: {', '.join(hosts[:8])}")
    return Place(path, len(hosts), own[0], hosts[0], port_for(hosts[0]), int(slots.pop()))


def _is_own(host: str) -> bool:
    """Whether a host's address is one of this machine's: only such can be bound to."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.bind((host, 0))
        return True
    except OSError:
        return False


def port_for(ip: str) -> int:
    """A port that every machine finds alike, where nothing names one."""
    return LOWEST + zlib.crc32(ip.encode()) % PORTS


def _number(env: Mapping[str, str], name: str, source: str) -> int:
    _need(env, source, name)
    if not env[name].isdigit():
        raise Mistake(f"{source}: {name}={env[name]} is no whole number")
    return int(env[name])


def _need(env: Mapping[str, str], source: str, *names: str) -> None:
    lacking = [name for name in names if not env.get(name)]
    if lacking:
        raise Mistake(
            f"{source}: the environment has no {', '.join(lacking)}: give the machines as settings, or mend the job"
        )


def own_address(ip: str) -> tuple[str, str]:
    """The address and the network card that lead to machine 0, ("", "") where that cannot be told. Nothing is sent: a
    socket of UDP only chooses its way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((ip, 9))
            address = str(way.getsockname()[0])
            return address, next((name for _, name in socket.if_nameindex() if _address_of(way, name) == address), "")
    except OSError:
        return "", ""


def _address_of(way: socket.socket, name: str) -> str:
    """The IPv4 address of a network card (SIOCGIFADDR, netdevice(7))."""
    try:
        packed = fcntl.ioctl(way.fileno(), 0x8915, struct.pack("256s", name[:15].encode()))
    except OSError:
        return ""
    return socket.inet_ntoa(packed[20:24])


def network(ip: str, device: str, before: Mapping[str, str]) -> dict[str, str]:
    """The variables by which the machines find each other over the card that leads to machine 0, where they are not
    set: gloo's always, HCCL's on an NPU, NCCL's on CUDA."""
    address, card = own_address(ip)
    wanted = {"GLOO_SOCKET_IFNAME": card}
    if device == "npu":
        wanted.update(HCCL_IF_IP=address, HCCL_SOCKET_IFNAME=f"={card}" if card else "")
    elif device == "cuda":
        wanted["NCCL_SOCKET_IFNAME"] = f"={card}" if card else ""
    return {name: value for name, value in wanted.items() if value and name not in before}
