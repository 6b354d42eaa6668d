"""`kit tiny FAMILY DIR`: a tiny random-weight model with its tokenizers and data, in the published layout."""

from __future__ import annotations

from pathlib import Path

from kit import beside, output
from kit.environment import installed
from kit.errors import KitError
from kit.schema import nearest
from kit.smoke import models


def run(family: str, folder: str, python: str) -> int:
    roots = [beside.root_of(folder / "any.toml") for folder in beside.own_recipes()]
    known = sorted(beside.families(roots))
    if family not in known:
        raise KitError(f"no tiny model of {family!r}{nearest(family, known)}", f"there are: {', '.join(known)}")
    place = Path(folder)
    if place.exists() and any(place.iterdir()):
        raise KitError(f"{place} is not empty", "give a new folder")
    if not python:
        fitting = [made for made in installed() if made.recipe.partition("-")[0] == family.partition("-")[0]]
        if not fitting:
            hint = f"kit prepare {family} --device cpu && kit env {family} --device cpu, or --python PATH"
            raise KitError(f"no reference environment to build {family} in", hint)
        python = str(fitting[-1].python)
    models.build(family, Path(python), place, roots=roots)
    output.line(f"{place}: {', '.join(sorted(path.name for path in place.iterdir()))}")
    return 0
