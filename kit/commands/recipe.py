"""`kit recipe copy NAME DIR`: a recipe and all it brings, in a folder of one's own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from kit import beside, output, recipes
from kit.errors import KitError
from kit.paths import regular_files
from kit.recipe import Recipe


def run(recipe_name: str, folder: str) -> int:
    found = recipes.load(recipe_name)
    if found.base:
        hint = f"copy that, then this file: kit recipe copy {found.base.called} {quote(folder)}"
        raise KitError(f"{found.name} is a few lines: the rest is {found.extends}'s", hint)
    place = Path(folder).absolute()
    files = dict(_files(found))
    if taken := [name for name in files if (place / name).exists()]:
        raise KitError(f"{output.place(place / taken[0])} exists", "give another folder, or move it away")
    for name, source in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place / name)
    written = place / beside.RECIPES / f"{found.name}.toml"
    output.line(f"copied: {len(files)} files into {output.place(place)}; its fixes and devices stay kit's")
    output.line("next:")
    called = beside.called(written)
    for command in (f"kit show {called}", f"kit prepare {called} --device {found.devices[0]}"):
        output.line(f"  {command}")
    return 0


def _files(found: Recipe) -> Iterator[tuple[str, Path]]:
    """All that a recipe is made of but code of kit's, by path below its root: the file, what stands beside it under its
    name, its patches and tiny model, its overlays and those whose templates they include."""
    for path in (found.path, found.path.with_suffix(".md")):
        if path.is_file():
            yield f"{beside.RECIPES}/{path.name}", path
    folders = {f"{beside.RECIPES}/{found.name}": found.path.with_suffix("")}
    folders[f"patches/{found.name}"] = found.root / "patches" / found.name
    for name in _overlays(found):
        if folder := beside.find("overlays", name, found.roots):
            folders[f"overlays/{name}"] = folder
    for name, folder in folders.items():
        for path in regular_files(folder) if folder.is_dir() else ():
            yield f"{name}/{path.relative_to(folder).as_posix()}", path
    for suffix in (".py", ".toml"):
        tiny = found.smoke and beside.find("tiny", f"{found.smoke.tiny}{suffix}", found.roots)
        if tiny:
            yield f"tiny/{tiny.name}", tiny
    for step in found.fix:
        if step.brought:
            yield f"fixes/{step.brought.name}", step.brought


def _overlays(found: Recipe) -> set[str]:
    """The overlays of a recipe, and those that hold what their templates include."""
    wanted, seen = {str(each.source) for each in found.overlay}, set[str]()
    while left := wanted - seen:
        name = left.pop()
        seen.add(name)
        folder = beside.find("overlays", name, found.roots)
        for path in folder.rglob("*.j2") if folder else ():
            wanted |= set(re.findall(r"""\{%[^%]*["']([a-z0-9][\w.-]*)/[^"']+["']""", path.read_text("utf-8")))
    return {name for name in seen if beside.find("overlays", name, found.roots)}
