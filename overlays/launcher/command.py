"""What is started: the words of `accelerate launch`, of torchrun or of Python, and of the training script."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from launcher import machines
from launcher.machines import Cluster
from launcher.mistake import Mistake
from launcher.options import Program, Settings

FIRST = ("model", "encoder", "output", "precision")  # flags that are always given, in the order of the settings


def python() -> str:
    """The Python that is first on PATH, as the launch script found it."""
    return shutil.which("python3") or shutil.which("python") or "python3"


def training(program: Program, settings: Settings, here: Path) -> list[str]:
    """The training script and its flags."""
    first = () if program.starts == "torchrun" else FIRST if program.named("images") else (*FIRST, "dataset")
    ordered = [option for option in program.options if option.kind in first]
    ordered += [option for option in program.options if option.kind not in first]
    words = [os.path.join(str(here), program.script)]
    for option in ordered:
        value = settings[option.name]
        for flag in option.flags:
            if option.kind == "switch":
                words += [f"--{flag}"] * (value == "true")
            elif value or option.kind in first:
                words.append(f"--{flag}={value}")
    return [*words, *settings.more]


def by_accelerate(program: Program, settings: Settings, cluster: Cluster, config: Path, here: Path) -> list[str]:
    """`accelerate launch` with the config; of the settings only those that are given win over it."""
    roles = program.roles
    words = ["accelerate", "launch", f"--config_file={config}"]
    words.append(f"--mixed_precision={settings[roles['precision']]}")
    words.append(f"--gradient_accumulation_steps={settings[roles['accumulation']]}")
    clipping = settings.get(roles.get("clipping", ""), "")
    if clipping:  # under DeepSpeed only this clips
        words.append(f"--gradient_clipping={clipping}")
    for option in program.options:
        if option.key and settings[option.name]:
            words.append(f"--{option.key}={settings[option.name]}")
    words += [word.replace("{here}", str(here)) for word in machines.several(cluster, config, list(program.several))]
    if cluster.machines > 1:
        words.append("--deepspeed_multinode_launcher=standard")
    elif cluster.processes > 1 and not cluster.port:
        words.append(f"--main_process_port={machines.free_port()}")
    return words


def by_torchrun(cluster: Cluster) -> list[str]:
    """Python for one process, else torch.distributed.run with an address of its own on one machine."""
    if cluster.processes == 1:
        return [python()]
    ip, port = cluster.ip, cluster.port
    if cluster.machines == 1:
        ip, port = "127.0.0.1", str(machines.free_port())
    return [
        *(python(), "-m", "torch.distributed.run"),
        *(f"--nnodes={cluster.machines}", f"--nproc_per_node={cluster.local}", f"--node_rank={cluster.rank}"),
        *(f"--master_addr={ip}", f"--master_port={port}"),
    ]


def with_deepspeed_file(config: Path, here: Path) -> Path:
    """The config, or where it names a file of DeepSpeed's own settings a copy for this run in which that path is
    absolute. accelerate takes it from the config alone, whatever its options say (0.33.0, commands/launch.py), and from
    where it is started; a relative one counts from the folder above the launch script's. Raises Mistake."""
    text = config.read_text(encoding="utf-8")
    found = re.search(r"^( *deepspeed_config_file:)(.*)$", text, re.MULTILINE)
    if not found:
        return config
    path = re.sub(r" +#.*", "", found[2]).strip(" \t\"'\r")
    place = Path(path) if path.startswith("/") else here.parent / path
    if not place.is_file():
        raise Mistake(f"{config}: no file {place}: mend deepspeed_config_file there")
    quoted = "'" + str(place).replace("'", "''") + "'"
    handle, name = tempfile.mkstemp(suffix=".yaml")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"{text[: found.end(1)]} {quoted}{text[found.end() :]}")
    return Path(name)
