"""`kit env RECIPE --device DEVICE [WORKSPACE]`: the reference environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from shlex import quote

from kit import environment, lock, output, recipes, workspace
from kit.errors import KitError


def run(
    recipe_name: str,
    device: str | None,
    workspace_path: str | None,
    python: str,
    list_: bool,
    remove: bool,
    write_lock: bool,
    as_json: bool,
) -> int:
    found = recipes.load(recipe_name)
    mine = [each for each in environment.installed() if each.recipe == found.name and device in (None, each.device)]
    if list_ or remove:
        for each in mine:
            if remove:
                environment.remove(each)
            if not as_json:
                verb = "removed " if remove else ""
                output.line(f"{verb}{each.path}: {each.device}, {each.packages} packages, for {each.workspace}")
        if as_json:
            output.as_json([{**dataclasses.asdict(each), "path": str(each.path)} for each in mine])
        elif not mine:
            output.line(f"there is no environment of {found.name}{f' for {device}' if device else ''}")
        return 0
    if device is None and write_lock:  # it is the same for all: the first that has a workspace here will do
        device = next((each for each in found.devices if Path(f"{found.name}-{each}").is_dir()), None)
    if device is None:
        hint = f"kit env {found.called} --device {found.devices[0]}{' --lock' * write_lock}"
        raise KitError(f"which device? {found.name} supports {', '.join(found.devices)}", hint)
    folder = Path(workspace_path or f"{found.name}-{device}")
    if not folder.exists():
        hint = f"make it: kit prepare {found.called} --device {device} {quote(str(folder))}"
        raise KitError(f"there is no workspace {folder}", hint)
    place = workspace.find(folder)[0]
    found = found.at(device, lock.read(place).options)
    if write_lock:
        environment.write_lock(found, place)
        output.line(f"wrote {environment.lock_path(found)}")
        return 0
    made = environment.ensure(found, found.device(device), place, python)
    if as_json:
        output.as_json({**dataclasses.asdict(made), "path": str(made.path), "python": str(made.python)})
        return 0
    output.line(f"{made.path}: {made.packages} packages; upstream trees of {made.workspace}, editable")
    output.line(f"next: source {quote(str(made.path))}/bin/activate")
    return 0
