"""Checkpoints: which are whole, and which one a run goes on from."""

from __future__ import annotations

import os
import re
from pathlib import Path

from launcher import model
from launcher.mistake import Mistake

NAME = re.compile(r"checkpoint-(\d+)")


def steps(output: Path) -> list[tuple[int, Path]]:
    """The checkpoints in an output folder, the newest first, each with its step."""
    found = [(int(match[1]), path) for path in _entries(output) if (match := NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def complaint(folder: Path) -> str:
    """Why a saved state is not whole, "" where it is. accelerate writes the random states last (checkpointing.py,
    save_accelerator_state), DeepSpeed a file `latest` after its folders; a disk that fills up, or a kill, leaves files
    that end early."""
    if not any(folder.glob("random_states_*.pkl")):
        return "no random_states_*.pkl: it was not written to its end"
    if any(folder.glob("*/*_optim_states.pt")) and not (folder / "latest").is_file():
        return "no latest, which DeepSpeed writes last"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not model.is_whole(path):
            return f"{path.name} is cut short"
    return ""


def chosen(option: str, value: str, output: Path) -> tuple[str, list[str]]:
    """What a run goes on from, and what is to be said: ``value``, but for `latest` the newest checkpoint that is whole
    where newer ones are not. Raises Mistake where the checkpoint that is asked for is not there, or cut."""
    value = value.rstrip("/")
    if not value:
        return "", []
    found = steps(output)
    if value == "latest":
        said: list[str] = []
        for _, path in found:
            problem = complaint(path)
            if not problem:
                return (value if not said else path.name), said
            said.append(f"{path} is skipped: {problem}")
        return ("" if said else value), said
    name = os.path.basename(value)
    place = output / name
    if not place.is_dir():
        there = f": give latest, or one of {', '.join(path.name for _, path in found)}" if found else ""
        raise Mistake(f"--{option}: no {name} in {output}{there or ': give latest, or the name of a checkpoint there'}")
    problem = complaint(place)
    if problem:
        raise Mistake(f"--{option}: {place}: {problem}: give latest, or another checkpoint")
    return value, []


def check_state(option: str, value: str) -> None:
    """A folder that a training's whole state was saved to. Raises Mistake."""
    if not os.path.isdir(value):
        raise Mistake(f"--{option}: no folder {value} (from {os.getcwd()})")
    problem = complaint(Path(value))
    if problem:
        raise Mistake(f"--{option}: {value}: {problem}: give another one")
