"""What a recipe puts into a tree must not meet anything there: upstream's, a fix's, or another overlay's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import Overlay, Recipe
from kit.schema import load_toml

ELSEWHERE = "give one of them another path"
HINTS = {
    "fix": "take `derive_from` out, and see whether the fix still holds",
    "overlay": "rename it, or list it under `replace` of the overlay",
}


def above(path: str) -> set[str]:
    """The folders a path lies in."""
    parts = path.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}


def check(
    recipe: Recipe,
    upstream: str,
    device: str,
    tree: Iterable[str],
    overlays: Sequence[tuple[Overlay, Mapping[TreePath, object]]] = (),
) -> None:
    """Raise KitError, with the recipe's line, where a file that a fix derives or an overlay brings has the path of
    another one in ``tree``, of another fix or overlay, or one of the two would be a folder of the other's; and where an
    overlay replaces a file that a fix changes."""
    files = dict.fromkeys(tree, upstream)  # path: whose it is
    folders = {folder: path for path in files for folder in above(path)}
    fixed = {path: step.id for _, step in recipe.series(upstream, device) for path in step.files}

    def put(path: TreePath, whose: str, key: tuple[str, int], replace: Iterable[str] = ()) -> None:
        hint = ELSEWHERE
        nested = next((other for other in above(path) if other in files), folders.get(path))
        if path in replace and path in fixed:
            what = f"{path} is changed by fix {fixed[path]}, which it would undo"
            hint = "take it out of `replace`, or the file out of the fix"
        elif nested:
            what = f"{path} cannot be beside {nested} of {files[nested]}"
        elif path in files and path not in replace:
            what = f"{path} is already in {files[path]}"
            if files[path] == upstream:
                hint = HINTS[key[0]]
        else:
            files[path] = whose
            folders.update(dict.fromkeys(above(path), path))
            return
        line = load_toml(recipe.path)[0].line(key)
        raise KitError(f"{recipe.path}:{line}: {whose}: {what}", hint)

    for number, step in recipe.series(upstream, device):
        if step.derive_from:
            put(step.files[0], f"fix {step.id}", ("fix", number - 1))
    for part, brought in overlays:
        for path in brought:
            put(path, f"overlay {part.source}", ("overlay", recipe.overlay.index(part)), part.replace)
