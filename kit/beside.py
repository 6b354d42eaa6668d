"""What a recipe brings is found beside it first, then in kit: one rule for recipes and for all that they bring.

The folders `overlays/`, `patches/`, `tiny/`, `fixes/` and `profiles/` stand in the recipe's root: the folder that its
folder `recipes/` is in, or, where that has another name, the recipe's own folder. To find a thing runs nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from kit import output
from kit.errors import KitError
from kit.paths import no_link

RECIPES = "recipes"
VARIABLE = "KIT_RECIPES"  # folders of recipes, as on PATH
_HERE = Path(__file__).parent
_IN_KIT = {
    "fixes": (_HERE / "fixes", _HERE / "fixes" / "programs"),
    "profiles": (_HERE / "profiles",),
    "tiny": (_HERE / "smoke" / "tiny",),
}


def shipped_root() -> Path:
    """The folder with recipes/, patches/ and overlays/: inside an installed kit, or the checkout it runs from."""
    return _HERE / "_data" if installed() else _HERE.parent


def installed() -> bool:
    """Whether this kit was installed, so that its recipes are not to be written to."""
    return (_HERE / "_data").is_dir()


def root_of(recipe: Path) -> Path:
    """The root of a recipe's file: what it brings stands there."""
    return recipe.parent.parent if recipe.parent.name == RECIPES else recipe.parent


def folders(kind: str, roots: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Where things of a ``kind`` (one of the folders above) are: below each of the ``roots``, then in kit."""
    in_kit = _IN_KIT.get(kind) or (shipped_root() / kind,)
    return tuple(dict.fromkeys([*(root / kind for root in roots), *in_kit]))


def find(kind: str, name: str, roots: Sequence[Path] = ()) -> Path | None:
    """The first file or folder ``name`` of a kind; None where there is none. Raises KitError for a symbolic link."""
    for folder in folders(kind, roots):
        no_link(folder / name, folder)
        if (folder / name).exists():
            return folder / name
    return None


def stems(kind: str, suffix: str, roots: Sequence[Path] = ()) -> set[str]:
    """What the files of a kind with a suffix are called, without it; tests, which may stand there, are left out."""
    found = {path.name.removesuffix(suffix) for folder in folders(kind, roots) for path in folder.glob(f"*{suffix}")}
    return {name for name in found if not name.startswith(("_", "test_", "conftest"))}


def families(roots: Sequence[Path] = ()) -> set[str]:
    """The model families there is a tiny model of, as a script or as a table."""
    return (stems("tiny", ".py", roots) | stems("tiny", ".toml", roots)) - {"parts"}


def own_recipes() -> list[Path]:
    """The folders of recipes that are not kit's: those that the variable KIT_RECIPES names, and `recipes/` here."""
    named = [Path(part).absolute() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    shipped = shipped_root() / RECIPES
    every = dict.fromkeys([*named, Path.cwd() / RECIPES])
    return [folder for folder in every if folder.is_dir() and not (shipped.is_dir() and folder.samefile(shipped))]


def recipe_file(name: str) -> Path | None:
    """The file of the recipe called ``name``: one's own first, then kit's; None where there is none."""
    places = (folder / f"{name}.toml" for folder in (*own_recipes(), shipped_root() / RECIPES))
    return next((path for path in places if path.is_file()), None)


def called(recipe: Path) -> str:
    """The word to type for a recipe's file: its name where that finds it, else its path as seen from here."""
    found = recipe_file(recipe.stem)
    return quote(recipe.stem if found and found == recipe else output.place(recipe))


def check_ours(recipe: Path) -> None:
    """Raises KitError for a recipe that came with an installed kit: the next one would undo what is written there."""
    if installed() and recipe.is_relative_to(shipped_root()):
        name = recipe.stem
        hint = f"take it out first: kit recipe copy {name} DIR, then the same for DIR/recipes/{recipe.name}"
        raise KitError(f"{name} comes with the installed kit, where nothing is written", hint)
