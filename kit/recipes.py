"""How a recipe is read: found by its name or its path, validated key by key, checked, and frozen."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path

from kit import beside, recipecheck
from kit.errors import KitError
from kit.extending import Table, merged, without
from kit.recipe import Recipe
from kit.schema import Source, load_toml, nearest, read


def names() -> list[str]:
    """The recipes there are by name: one's own (:func:`kit.beside.own_recipes`), and those that come with kit."""
    folders = (*beside.own_recipes(), beside.shipped_root() / beside.RECIPES)
    return sorted({path.stem for folder in folders for path in folder.glob("*.toml")})


def mine() -> list[str]:
    """The recipes a command is about that names none: one's own; without any, kit's."""
    own = {path.stem for folder in beside.own_recipes() for path in folder.glob("*.toml")}
    return sorted(own) or names()


def load(name: str) -> Recipe:
    """Load a recipe by its name, or from a path ending in `.toml`. Raises KitError with file and line."""
    return parse(locate(name))


def locate(name: str) -> Path:
    """The file of a recipe, by its name or by a path ending in `.toml`. Raises KitError for an unknown name."""
    if name.endswith(".toml"):
        return Path(os.path.abspath(name))  # noqa: PTH100 - a link is not followed: what it brings is beside the link
    if not (path := beside.recipe_file(name)):
        known = f"known recipes: {', '.join(names())}; or give the path of a .toml"
        raise KitError(f"unknown recipe {name!r}{nearest(name, names())}", known)
    return path


def parse(path: Path) -> Recipe:
    """Read and check one recipe file, and those it extends. Raises KitError with file and line."""
    return _made(*_whole(path, ()))


def _whole(path: Path, above: tuple[Path, ...]) -> tuple[Source, Table, Recipe | None]:
    """A recipe's table, with what it takes over from the one it extends, and that one."""
    source, table = load_toml(path)
    if not table:
        raise KitError(f"{path}:1: the recipe is empty", "see CONTRIBUTING.md for a worked example")
    if "extends" in table:
        return _extended(source, table, (path, *above))
    return source, table, None


def _made(source: Source, table: Table, base: Recipe | None) -> Recipe:
    only = table.get("upstream")
    if isinstance(only, list) and len(only) == 1 and isinstance(only[0], dict):
        for kind in ("fix", "overlay"):
            for step in table.get(kind, []) if isinstance(table.get(kind), list) else []:
                if isinstance(step, dict):
                    step.setdefault("upstream", only[0].get("name", ""))
    recipe = dataclasses.replace(read(Recipe, table, source), path=source.path, base=base)
    recipecheck.check(recipe, source)
    return dataclasses.replace(recipe, fix=tuple(map(recipe.with_brought, recipe.fix)))


def _extended(source: Source, own: Table, above: tuple[Path, ...]) -> tuple[Source, Table, Recipe]:
    """A recipe's table over that of the one it extends, which is checked first: its faults are its own."""
    name = own["extends"]
    if not isinstance(name, str):
        raise source.complain(("extends",), "extends must be a string", 'name one recipe: `extends = "hidream"`')
    if "name" not in own:
        raise source.complain(("extends",), "missing key 'name'", f'add `name = "{source.path.stem}"`')
    place = source.path.parent / name if name.endswith(".toml") else None
    try:
        path = locate(str(place) if place else name)
    except KitError as error:
        raise source.complain(("extends",), error.message, error.hint) from None
    if path in above:
        raise source.complain(
            ("extends",), f"extends {name!r} leads back here", f"give this file another name than {path.name}"
        )
    whole, table, below = _whole(path, above)
    base = _made(whole, copy.deepcopy(table), below)
    if carried := [each.name for each in base.upstream if each.carried]:
        what = f"extends {name!r}, whose upstream {carried[0]} is carried with it"
        raise source.complain(("extends",), what, f"kit recipe copy {base.called} DIR")
    dropped = own.get("without", [])
    if not isinstance(dropped, list):
        raise source.complain(("without",), "without must be a list", f'write `without = ["{base.fix[0].id}"]`')
    known = [step.id for step in base.fix]
    for each in dropped:
        if each not in known:
            what = f"without {each!r}, which is no fix of {name}{nearest(str(each), known)}"
            raise source.complain(("without",), what, f"its fixes: {', '.join(known)}")
    inherited = {key: value for key, value in without(table, dropped).items() if key not in ("extends", "without")}
    made, places = merged(inherited, own)
    return dataclasses.replace(source, places=places), made, base
