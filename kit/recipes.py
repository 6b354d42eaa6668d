"""How a recipe is read: found by its name or its path, validated key by key, checked, and frozen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kit import recipecheck
from kit.errors import KitError
from kit.recipe import Recipe
from kit.schema import load_toml, nearest, read


def shipped_root() -> Path:
    """The folder with recipes/, patches/ and overlays/: inside an installed kit, or the checkout it runs from."""
    here = Path(__file__).parent
    return here / "_data" if (here / "_data").is_dir() else here.parent


def names() -> list[str]:
    """The recipes that come with kit."""
    return sorted(path.stem for path in (shipped_root() / "recipes").glob("*.toml"))


def load(name: str) -> Recipe:
    """Load a recipe by its name, or from a path ending in `.toml`. Raises KitError with file and line."""
    return parse(locate(name))


def locate(name: str) -> Path:
    """The file of a recipe, by its name or by a path ending in `.toml`. Raises KitError for an unknown name."""
    if name.endswith(".toml"):
        return Path(name).absolute()
    if name not in names():
        known = f"known recipes: {', '.join(names())}; or give the path of a .toml"
        raise KitError(f"unknown recipe {name!r}{nearest(name, names())}", known)
    return shipped_root() / "recipes" / f"{name}.toml"


def parse(path: Path) -> Recipe:
    """Read and check one recipe file. Raises KitError with file and line."""
    source, table = load_toml(path)
    if not table:
        raise KitError(f"{path}:1: the recipe is empty", "see CONTRIBUTING.md for a worked example")
    only = table.get("upstream")
    if isinstance(only, list) and len(only) == 1 and isinstance(only[0], dict):
        for kind in ("fix", "overlay"):
            for step in table.get(kind, []) if isinstance(table.get(kind), list) else []:
                if isinstance(step, dict):
                    step.setdefault("upstream", only[0].get("name", ""))
    recipe = dataclasses.replace(read(Recipe, table, source), path=path)
    recipecheck.check(recipe, source)
    return recipe
