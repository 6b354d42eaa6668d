"""Tiny random-weight models, each built in a reference environment: by a script of `tiny/`, or from a table there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit import beside, environment
from kit.errors import KitError, last_line
from kit.schema import load_toml


def build(
    family: str,
    python: Path,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
) -> None:
    """Write the tiny model of ``family``, found in the ``roots`` of a recipe or in kit, to ``folder``. Raises KitError
    with the builder's own last line."""
    (kits,) = beside.folders("tiny")
    places = [folder / family for folder in beside.folders("tiny", roots)]
    place = next(each for each in places if each.with_suffix(".toml").exists() or each.with_suffix(".py").exists())
    script, given = place.with_suffix(".py"), ""
    if (table := place.with_suffix(".toml")).exists():
        own = str(script) if script.exists() else ""
        given = json.dumps({"table": _table(table), "known": known(), "own": own})
        script = kits / "_table.py"
    command = [str(python), str(script), str(folder)]
    start = {**(variables or environment.variables())}
    start["PYTHONPATH"] = ":".join(filter(None, [str(kits), start.get("PYTHONPATH", "")]))
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=start)
    if done.returncode:
        raise KitError(f"the tiny {family} could not be built: {last_line(done.stderr)}", " ".join(command))


def known() -> dict[str, Any]:
    """The tiny configurations that kit has, by class."""
    return load_toml(beside.folders("tiny")[0] / "_classes.toml")[1]


def _table(path: Path) -> dict[str, Any]:
    """A family's table. Raises KitError with file and line for one that cannot be built from."""
    source, table = load_toml(path)
    if not isinstance(table.get("pipeline"), str) or not isinstance(table.get("model"), dict):
        hint = 'write `pipeline = "FluxPipeline"`, and a table [model.NAME] with a `class` for each of its components'
        raise source.complain((), "a tiny model is a pipeline and its components", hint)
    for name, component in table["model"].items():
        if not isinstance(component, dict) or not isinstance(component.get("class", ""), str):
            raise source.complain(("model", name), f"component {name} has no class", 'write `class = "library.Class"`')
    for name, data in table.get("data", {}).items():
        if not isinstance(data, dict) or not isinstance(data.get("part"), str):
            raise source.complain(("data", name), f"data {name} has no part", 'write `part = "image_folder"`')
    return table
