"""Checkpoints: which are whole, and which one a run goes on from; whether all machines see the same ones."""

from __future__ import annotations

import itertools
import os
import re
import socket
import time
from pathlib import Path

from launcher import model
from launcher.mistake import Mistake
from launcher.options import Option
from launcher.output import say

NAME = re.compile(r"checkpoint-(\d+)")


def steps(output: Path) -> list[tuple[int, Path]]:
    """The checkpoints in an output folder, the newest first, each with its step."""
    found = [(int(match[1]), path) for path in _entries(output) if (match := NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def complaint(folder: Path) -> str:
    """Why a saved state is not whole, "" where it is. accelerate writes the random states last, each process its own
    (checkpointing.py, save_accelerator_state), DeepSpeed a file `latest` after its folders, in which each process has a
    part of the optimizer; a disk that fills up, or a kill, leaves files that end early."""
    names = (path.stem.rpartition("_")[2] for path in folder.glob("random_states_*.pkl"))
    ranks = {int(name) for name in names if name.isdigit()}
    if not ranks:
        return "no random_states_*.pkl: it was not written to its end"
    parts = len(list(folder.glob("*/*_optim_states.pt")))
    if parts and not (folder / "latest").is_file():
        return "no latest, which DeepSpeed writes last"
    lacking = set(range(max(parts, *ranks, 1))) - ranks
    if lacking:
        return f"no random_states_{min(lacking)}.pkl: process {min(lacking)} did not write its part to its end"
    try:
        cut = next((path for path in sorted(folder.rglob("*")) if path.is_file() and not model.is_whole(path)), None)
    except FileNotFoundError as error:  # another machine is setting it aside
        return f"{Path(error.filename).name} is gone"
    return f"{cut.name} is cut short" if cut else ""


def set_aside(output: Path) -> list[str]:
    """Give checkpoints that are cut, and newer than the newest whole one, a name that no script takes for a checkpoint:
    it would count them, and save into them. Says what was done."""
    said = []
    for step, path in steps(output):
        problem = complaint(path)
        if not problem:
            break
        names = (f"cut-{step}{f'.{number}' if number else ''}" for number in itertools.count())
        name = next(each for each in names if not (output / each).exists())
        path.rename(output / name)
        said.append(f"{path} is now {name}: {problem}")
    return said


def _newest_whole(newest_first: list[Path]) -> tuple[Path | None, list[str]]:
    """The first that is whole, and what is to be said of those before it."""
    said: list[str] = []
    for path in newest_first:
        problem = complaint(path)
        if not problem:
            return path, said
        said.append(f"{path} is skipped: {problem}")
    return None, said


def chosen(option: str, value: str, output: Path) -> tuple[str, list[str]]:
    """What a run goes on from, and what is to be said: ``value``, but for `latest` the newest checkpoint that is whole
    where newer ones are not. Raises Mistake where the checkpoint that is asked for is not there, or cut."""
    value = value.rstrip("/")
    if not value:
        return "", []
    found = steps(output)
    if value == "latest":
        newest, said = _newest_whole([path for _, path in found])
        return (value if not said else newest.name if newest else ""), said
    name = os.path.basename(value)
    place = output / name
    if not place.is_dir():
        there = f": give latest, or one of {', '.join(path.name for _, path in found)}" if found else ""
        raise Mistake(f"--{option}: no {name} in {output}{there or ': give latest, or the name of a checkpoint there'}")
    problem = complaint(place)
    if problem:
        raise Mistake(f"--{option}: {place}: {problem}: give latest, or another checkpoint")
    return value, []


def chosen_state(option: Option, value: str, output: Path) -> tuple[str, list[str]]:
    """The same for a folder that a training's whole state was saved to, wherever that is; `latest` is the newest whole
    one in the output folder, "" where there is none. Raises Mistake."""
    if value == "latest":
        states = sorted(output.glob(option.states), key=lambda path: path.stat().st_mtime, reverse=True)
        newest, said = _newest_whole(states)
        return str(newest or ""), said
    if not os.path.isdir(value):
        raise Mistake(
            f"--{option.name}: no folder {value} (from {os.getcwd()}): give latest, or a folder that is there"
        )
    problem = complaint(Path(value))
    if problem:
        raise Mistake(f"--{option.name}: {value}: {problem}: give another one, or latest")
    return value, []


def check_shared(option: str, output: Path, rank: int, own: str = "", patience: float = 600) -> None:
    """All machines see one output folder: machine 0 leaves its name there, the others look for a name that is not their
    ``own`` (the host's and its network's), for ``patience`` seconds. Raises Mistake.

    With folders of their own machine 0 would go on from a checkpoint and the others start anew."""
    own = own or f"{socket.gethostname()} {os.readlink('/proc/self/ns/net')}"
    output.mkdir(parents=True, exist_ok=True)
    mark, deadline = output / ".machine0", time.monotonic() + patience
    if rank == 0:
        mark.write_text(own)
        return
    said = False
    while mark.name not in os.listdir(output) or mark.read_text() in ("", own):  # a list is what a network disk renews
        if not said:
            say(f"waiting for machine 0 in {output}, which all machines must see")
        said = True
        if time.monotonic() > deadline:
            raise Mistake(
                f"--{option}: {output} here is not the folder that machine 0 has: give one that all machines see"
            )
        time.sleep(0.2)
