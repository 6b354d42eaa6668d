"""Devices that are not there: the stand-in packages of `standins/`, built for an environment's torch."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kit import environment
from kit.cache import cache_dir
from kit.devices import Device
from kit.errors import KitError, last_line

BUILD = Path(__file__).parent / "standins" / "build.py"
TOOLKITS = {"npu": ("ASCEND_HOME_PATH",), "tpu": ()}  # the devices with a stand-in, and what names a toolkit's folder


def variables(device: Device, python: Path) -> dict[str, str]:
    """What a program run by ``python`` needs in its environment to see the stand-in for ``device``; built on first use
    (half a minute). Raises KitError where there is no stand-in, or with the builder's own last line."""
    if device.name not in TOOLKITS:
        raise KitError(f"there is no {device.title} here, and no stand-in for one", "run it on a machine that has one")
    cache = cache_dir() / "standins"
    toolkit = cache / "toolkit"  # DeepSpeed looks whether the toolkit's folder is there, not into it
    toolkit.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(BUILD), "--device", device.name, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment.variables())
    if done.returncode:
        raise KitError(
            f"the stand-in for {device.title} could not be built: {last_line(done.stderr)}", " ".join(command)
        )
    return {"PYTHONPATH": done.stdout.splitlines()[-1], **dict.fromkeys(TOOLKITS[device.name], str(toolkit))}
