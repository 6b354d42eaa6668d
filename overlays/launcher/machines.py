"""Machines, processes and ports: what the settings and the accelerate config say, checked before anything starts."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import scheduler
from launcher.mistake import Mistake
from launcher.options import Program, Settings
from launcher.output import say


@dataclass(frozen=True)
class Cluster:
    """How many processes on how many machines, and which of them this is."""

    processes: int
    machines: int = 1
    rank: int = 0
    ip: str = ""
    port: str = ""

    @property
    def local(self) -> int:
        """Processes on this machine."""
        return self.processes // self.machines


def value(config: Path, key: str) -> str:
    """The value of a key at the top of an accelerate config, "" where it is not there. These files are flat but for
    deepspeed_config, and accelerate may not be installed where this is asked."""
    text = config.read_text(encoding="utf-8-sig", errors="replace") if config.is_file() else ""
    found = re.search(rf"^{key}:(.*)$", text, re.MULTILINE)
    said = re.sub(r" *#.*", "", found[1]).strip(" \t\"'\r") if found else ""
    return "" if said in ("null", "~") else said


def config_file(program: Program, settings: Settings, here: Path) -> Path:
    """The accelerate config: the one given, else the recipe's, in the folder of configs or beside the script."""
    folders = [settings[option.name] for option in program.named("configs") if settings[option.name]]
    return Path(settings["config_file"] or os.path.join(folders[0] if folders else here, program.config))


SETTINGS = {  # the settings of machines, which of them this is, machine 0's address and port, and processes
    "accelerate": ("machines", "machine_rank", "main_ip", "main_port", "num_processors"),
    "torchrun": ("nnodes", "node_rank", "master_ip", "master_port", "nproc_per_node"),
}


def from_environment(program: Program, settings: Settings, config: Path | None) -> None:
    """Fill the settings of machines from the environment, and say so, where neither a setting nor the config names
    several. Raises Mistake where the environment has several and this launch script is for one."""
    names = SETTINGS.get(program.starts, ())
    place = scheduler.hostfile(settings["hostfile"]) if settings.get("hostfile") else None
    unsaid = not any(name in settings.given for name in names[:3]) and not settings.get(names[2] if names else "", "")
    if not place and unsaid:
        place = scheduler.find(os.environ) if not config or value(config, "num_machines") in ("", "1") else None
    if not place or place.machines == 1:
        return
    if not names or names[0] not in settings:
        raise Mistake(f"{place.source}: {place.machines} machines, but this launch script is for one: start it on one")
    usual = value(config, "num_processes") if config else settings[names[4]]
    local = visible(program.device) or place.local or int(usual or 1)
    taken = (place.machines, place.rank, place.ip, place.port, local * place.machines if config else local)
    for name, found in zip(names, taken):
        if name not in settings.given:
            settings[name] = str(found)
    where = f"machine 0 is {settings[names[2]]}, port {settings[names[3]]}"
    say(f"Machines : {place.machines}, this is {place.rank}, {local} processes on each; {where} ({place.source})")


def network(cluster: Cluster, device: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
    """The variables with those of the network card that leads to machine 0, where there are several; says which."""
    found = scheduler.network(cluster.ip, device["device"], before) if cluster.machines > 1 else {}
    if found:
        say(f"Network : {' '.join(f'{name}={item}' for name, item in found.items())}")
    return {**before, **found}


def by_accelerate(settings: Settings, config: Path) -> Cluster:
    """What `accelerate launch` will make of settings and config. Raises Mistake."""
    if not config.is_file():
        raise Mistake(f"--config_file: no file {config} (from {os.getcwd()})")
    found = {
        name: settings.get(name) or value(config, key)
        for name, key in (
            ("num_processors", "num_processes"),
            ("machines", "num_machines"),
            ("machine_rank", "machine_rank"),
            ("main_ip", "main_process_ip"),
            ("main_port", "main_process_port"),
        )
    }
    if not found["num_processors"]:
        raise Mistake(f"{config} has no num_processes: give --num_processors")
    for name, least in (("num_processors", 1), ("machines", 1), ("machine_rank", 0), ("main_port", 0)):
        if found[name] and (not re.fullmatch("[0-9]+", found[name]) or int(found[name]) < least):
            raise Mistake(f"--{name} is a whole number from {least}, not '{found[name]}' as {config} has it")
    made = Cluster(
        int(found["num_processors"]),
        int(found["machines"] or 1),
        int(found["machine_rank"] or 0),
        found["main_ip"],
        found["main_port"],
    )
    if made.processes % made.machines:
        raise Mistake(f"--num_processors is {made.processes}, which {made.machines} machines cannot share evenly")
    _check(made, "machine_rank", "main_ip", "main_port")
    return made


def by_torchrun(settings: Settings) -> Cluster:
    """What torchrun is told. Raises Mistake."""
    machines = int(settings.get("nnodes") or 1)
    local = int(settings["nproc_per_node"] or 1)
    made = Cluster(
        machines * local,
        machines,
        int(settings.get("node_rank") or 0),
        settings.get("master_ip", ""),
        settings.get("master_port", ""),
    )
    _check(made, "node_rank", "master_ip", "master_port")
    return made


def _check(made: Cluster, rank: str, ip: str, port: str) -> None:
    if made.rank >= made.machines:
        counted = f"{made.machines} machines count from 0 to {made.machines - 1}"
        raise Mistake(f"--{rank} is {made.rank}, but {counted}")
    if made.machines > 1 and not made.ip:
        raise Mistake(f"{made.machines} machines need --{ip}, the address of machine 0")
    if made.machines > 1 and not made.port:
        raise Mistake(f"{made.machines} machines need --{port}, a free port on machine 0")
    if made.port and int(made.port) > 65535:
        raise Mistake(f"--{port} is {made.port}, but ports end at 65535: give another one, such as {free_port()}")
    if made.rank == 0 and made.port and made.port != "0" and made.processes > 1 and not is_free(int(made.port)):
        raise Mistake(f"--{port}: port {made.port} is taken on this machine: give another one, such as {free_port()}")


def is_free(port: int) -> bool:
    """Whether a program of this machine may listen there."""
    try:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("", port))
    except (OSError, OverflowError):
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on. torchrun's own choice is the same for every run on a machine (29400 with
    --standalone in torch 1.11, 29500 otherwise), and a second run ends the first."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def visible(device: dict[str, Any]) -> int:
    """How many devices the device's own variable shows to programs, 0 where it is not set."""
    shown = os.environ.get(device["visible_devices"] or "", "")
    return len(shown.split(",")) if shown else 0


def check_visible(cluster: Cluster, device: dict[str, Any], option: str) -> None:
    """There are as many devices to see as processes on this machine. Raises Mistake."""
    shown, variable = visible(device), device["visible_devices"]
    if shown and cluster.local > shown:
        count = shown * (cluster.machines if option == "num_processors" else 1)
        devices = f"{variable}={os.environ[variable]} shows {shown} devices"
        what = f"{cluster.local} processes on this machine, but {devices}"
        raise Mistake(f"{what}: give --{option}={count}")


def several(cluster: Cluster, config: Path, words: list[str]) -> list[str]:
    """What accelerate, or its config, must be told where the config is one of a single process."""
    return list(words) if cluster.processes > 1 and value(config, "distributed_type") == "NO" else []


def by_deepspeed(config: Path | None, words: list[str]) -> bool:
    """Whether accelerate, started with these words, trains under DeepSpeed."""
    return bool(config) and (value(config or Path(), "distributed_type") == "DEEPSPEED" or "--use_deepspeed" in words)
