"""What every stand-in device package has in common: the backend's start, what it says of itself, counts of calls.

A stand-in is a device package that runs on the CPU, for trying out a device's code path where the device is not there.
`_backend` is backend.cpp, built by build.py for the torch that is imported. A package calls `start` once, as it is
imported, and puts `device`'s functions into its device module. It runs in the environment of the recipe: no newer
syntax than Python 3.8's.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from types import ModuleType

import torch

from . import _backend

COUNT = "KIT_STANDIN_DEVICES"  # environment variable: how many devices the machine has
CALLS = "KIT_STANDIN_CALLS"  # environment variable: a file to which each process adds a line of JSON as it ends
REPLACES = "KIT_STANDIN_REPLACES"  # environment variable: set, `.to()` replaces Parameters on any device
SAID = "KIT_STANDIN_SAID"  # environment variable: a parent process has said what this is

# What no stand-in computes in, and the operators that keep and convert such tensors all the same.
REFUSED = (torch.float64, torch.complex128)
KEEPS_REFUSED = (
    *("empty", "empty_strided", "new_empty_strided", "resize", "set", "copy", "_to_copy", "clone"),
    *("as_strided", "view", "_reshape_alias", "alias", "detach", "_local_scalar_dense"),
)

calls: Counter = Counter()  # how often each of the package's own operators was called in this process


def counted(operator):
    """Decorator: count the calls of an operator in `calls`. Its signature stays."""

    @functools.wraps(operator)
    def call(*args, **kwargs):
        calls[operator.__name__] += 1
        return operator(*args, **kwargs)

    return call


def report(package: str) -> None:
    """Add a line to the file that $KIT_STANDIN_CALLS names: package, process, rank, operators called, bytes at most."""
    peak = max(_backend.memory(index)[1] for index in range(_backend.device_count()) or [0])
    line = {"package": package, "pid": os.getpid(), "rank": os.environ.get("RANK", "0"), "calls": calls, "peak": peak}
    with open(os.environ[CALLS], "a") as file:  # noqa: PTH123
        file.write(json.dumps(line) + "\n")


def version() -> str:
    """The stand-in's version: the one of torch, which the real package follows, and a local part that gives it away."""
    return torch.__version__.split("+")[0] + "+kit.standin"


def count(visible: str) -> int:
    """Devices that a process sees: those of the machine, 8 unless $KIT_STANDIN_DEVICES says otherwise (16 at most), or
    those of them that the environment variable `visible` lists."""
    devices = int(os.environ.get(COUNT, "8"))
    listed = os.environ.get(visible)
    if listed is None:
        return devices
    return len([item for item in listed.split(",") if item.strip().isdigit() and int(item) < devices])


def announce(package: str) -> None:
    """Say once what this is, on stderr: not in the children of a process that said it, nor on ranks other than 0."""
    first = os.environ.get("RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
    if first and SAID not in os.environ and multiprocessing.parent_process() is None:
        limits = "it proves nothing about the device's numbers, speed or memory"
        print(
            f"{package}: this is kit's stand-in {version()}, running on the CPU: {limits}", file=sys.stderr, flush=True
        )
    os.environ[SAID] = "1"


def start(
    device: str,
    module: ModuleType,
    *,
    visible: str = "",
    collectives: str = "",
    keeps_parameters: bool = True,
    own_streams: bool = True,
    refused_except: Iterable[str] = (),
) -> None:
    """Make `device` a device of torch, with `module` as torch.<device> and a collective backend named `collectives`.

    `visible`: the variable that lists the devices a process sees. `keeps_parameters`: `.to()` changes Parameters in
    place, else it replaces them. `own_streams`: the device has random streams, else it draws from the CPU's.
    `refused_except`: operators (without namespace and trailing _) that take `REFUSED` dtypes all the same.
    """
    _backend.start(device, count(visible), keeps_parameters and REPLACES not in os.environ, own_streams)
    if CALLS in os.environ:
        atexit.register(report, f"torch_{device}")
    _backend.refuse(list(REFUSED), {*KEEPS_REFUSED, *refused_except})
    torch.utils.rename_privateuse1_backend(device)
    module.default_generators = tuple(_backend.default_generator(index) for index in range(_backend.device_count()))
    torch._register_device_module(device, module)
    sys.modules[f"torch.{device}"] = module
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)

    # torch prints numbers by way of float64, which a device may refuse
    printer = torch._tensor_str._tensor_str
    torch._tensor_str._tensor_str = lambda tensor, indent: printer(tensor.detach().cpu(), indent)

    def group(options, _):
        """The collective backend of one process group, over gloo."""
        timeout = options.timeout or timedelta(minutes=30)
        store, rank, size = options.store, options.group_rank, options.group_size
        gloo = torch.distributed.ProcessGroupGloo(store, rank, size, timeout=timeout)
        return _backend.Collectives(gloo, collectives)

    if collectives and torch.distributed.is_available():
        torch.distributed.Backend.register_backend(collectives, group, extended_api=True, devices=[device])
