"""Move a recipe's pin: what each fix becomes at another commit, the recipe's text, and the conflicts as a merge.

The base of a conflict is always known: it is the pin. So each one is a three-way merge that any git tool can show: the
file at the pin, the file with the fix at the pin, and the file at the new commit with the fixes that do apply there.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kit import git, series, store, workspace
from kit.cache import cache_dir
from kit.devices import Device
from kit.errors import KitError
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.recipe import FixStep, Recipe, Upstream, parse
from kit.schema import load_toml
from kit.series import Step


@dataclass(frozen=True)
class Moved:
    """A fix at the new pin, its ``count`` what it is there: ``kept``, ``taken`` (upstream has it now: it leaves the
    series) or ``conflict``; where it conflicts, the files and why (path: outcome, line and reason)."""

    fix: FixStep
    state: str
    why: Mapping[TreePath, str]


def at(recipe: Recipe, upstream: Upstream, pin: str, version: str) -> Recipe:
    """The recipe with another pin for ``upstream``; how many places its fixes have there is to be seen."""
    new = dataclasses.replace(upstream, pin=pin, version=version if upstream.version else "")
    upstreams = tuple(new if each == upstream else each for each in recipe.upstream)
    fixes = tuple(step.elsewhere if step.upstream == upstream.name else step for step in recipe.fix)
    return dataclasses.replace(recipe, upstream=upstreams, fix=fixes)


def run_series(
    recipe: Recipe, upstream: Upstream, device: Device, offline: bool, without: Collection[str] = ()
) -> tuple[list[Step], dict[TreePath, bytes]]:
    """The codemods (and the patches written by hand) on an upstream at its pin. Raises KitError."""
    patches = series.hand_written(recipe, upstream.name)
    entry = store.ensure(upstream, recipe.path.parent, offline)
    content = entry.files(recipe.sources(upstream.name, device.name))
    return series.apply(recipe, upstream.name, device, content, patches, without, generating=True)


def moved(old: Recipe, new: Recipe, name: str, offline: bool) -> list[Moved]:
    """What becomes of each fix of the upstream ``name`` between two pins, over all devices. Raises KitError."""
    before, after = (
        [run_series(each, upstream_of(each, name), each.device(device), offline)[0] for device in each.devices]
        for each in (old, new)
    )
    result = []
    for fix in old.fix:
        if fix.upstream != name:
            continue
        then = {file.outcome for steps in before for step in steps if step.fix.id == fix.id for file in step.outcomes}
        now = [file for steps in after for step in steps if step.fix.id == fix.id for file in step.outcomes]
        why = {
            file.path: f"{file.path}:{file.line or 1}: {file.outcome}: {file.reason}"
            for file in now
            if file.outcome in (Outcome.conflict, Outcome.gone)
        }
        taken = {file.outcome for file in now} == {Outcome.satisfied} and Outcome.applied in then
        places = {file.places for file in now if file.outcome is Outcome.applied and fix.module}
        if len(places) > 1:
            said = " and ".join(map(str, sorted(places)))
            why |= {path: f"{path}:1: {said} places, by file: give each file a step of its own" for path in fix.files}
        counted = fix if why else dataclasses.replace(fix, count=max(places, default=fix.count))
        result.append(Moved(counted, "conflict" if why else "taken" if taken else "kept", why))
    return result


def upstream_of(recipe: Recipe, name: str) -> Upstream:
    return next(each for each in recipe.upstream if each.name == name)


def rewritten(
    recipe: Recipe,
    upstream: Upstream,
    pin: str,
    version: str,
    dropped: Collection[str],
    counts: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """The recipe's text with another pin, without the fixes in ``dropped``, and with the ``counts`` of others, by id;
    all else stays, comments too."""
    source, _ = load_toml(recipe.path)
    lines = source.text.splitlines(keepends=True)
    number = recipe.upstream.index(upstream)
    for key, old, new in (("pin", upstream.pin, pin), ("version", upstream.version, version)):
        if old:
            place = source.line(("upstream", number, key)) - 1
            lines[place] = lines[place].replace(f'"{old}"', f'"{new}"')
    for index, fix in enumerate(recipe.fix):
        if (count := counts.get(fix.id, fix.count)) != fix.count:
            head, place, id = (source.line(("fix", index, *key)) - 1 for key in ((), ("count",), ("id",)))
            if place > head:
                lines[place] = lines[place].replace(str(fix.count), str(count), 1)
            else:
                lines[id] += f"count = {count}\n"
    reds = recipe.smoke.red if recipe.smoke else ()
    gone = [table(lines, "fix", index) for index, fix in enumerate(recipe.fix) if fix.id in dropped]
    gone += [table(lines, "smoke.red", index) for index, red in enumerate(reds) if red.fix in dropped]
    taken_out = {number for table in gone for number in table}
    return "".join(line for number, line in enumerate(lines) if number not in taken_out)


def table(lines: Sequence[str], kind: str, index: int) -> range:
    """The lines of the table ``[[kind]]`` with that index (from 0) and of those inside it, down to the next header or
    the comment above that."""
    heads = [number for number, line in enumerate(lines) if re.match(rf"\[\[\s*{re.escape(kind)}\s*\]\]", line)]
    start, stop = heads[index], heads[index] + 1
    while stop < len(lines) and not re.match(rf"\[(?!\[?{re.escape(kind)}\.)", lines[stop]):
        stop += 1
    while stop < len(lines) and lines[stop - 1].startswith("#"):
        stop -= 1
    return range(start, stop)


def write(recipe: Recipe, text: str, patches: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write a recipe's text and its patches, by upstream and name; the patches that are not among them go. What was
    there before comes back where the result is no recipe: then KitError is raised."""
    folder = recipe.root / "patches" / recipe.name
    kept = _read(recipe)
    try:
        for upstream, wanted in patches.items():
            place = folder / upstream
            for path in place.glob("*.patch"):
                path.unlink()
            for name, content in wanted.items():
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        recipe.path.write_text(text, encoding="utf-8")
        parse(recipe.path)
    except BaseException:
        _restore(recipe, kept)
        raise


def _read(recipe: Recipe) -> dict[str, bytes]:
    """The recipe and its patches, by path below its root."""
    paths = [recipe.path, *(recipe.root / "patches" / recipe.name).rglob("*.patch")]
    return {path.relative_to(recipe.root).as_posix(): path.read_bytes() for path in paths}


def _restore(recipe: Recipe, kept: Mapping[str, bytes]) -> None:
    for path in (recipe.root / "patches" / recipe.name).rglob("*.patch"):
        path.unlink()
    for name, content in kept.items():
        (recipe.root / name).parent.mkdir(parents=True, exist_ok=True)
        (recipe.root / name).write_bytes(content)


@dataclass(frozen=True)
class State:
    """A rebase that was begun, in the cache: what it takes to go on, or back. ``tree`` is the folder with the conflicts
    ("": none), ``conflicts`` the fixes and ``files`` the paths in it, ``kept`` what was there before, by path."""

    upstream: str
    pin: str
    tree: str
    conflicts: list[str]
    files: list[str]
    kept: dict[str, str]


def begin(recipe: Recipe, upstream: str, pin: str, tree: str, conflicts: list[str], files: list[str]) -> None:
    kept = {name: base64.b64encode(content).decode() for name, content in _read(recipe).items()}
    place = _state(recipe.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    state = State(upstream, pin, tree, conflicts, files, kept)
    place.write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")


def begun(path: Path) -> State | None:
    """The rebase of the recipe at ``path`` that is under way."""
    place = _state(path)
    return State(**json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else None


def end(path: Path, state: State) -> None:
    """Forget a rebase, and remove its folder of conflicts."""
    if state.tree:
        tree = Path(state.tree)
        shutil.rmtree(tree, ignore_errors=True)
        with contextlib.suppress(OSError):  # something of the user's is beside it
            tree.parent.rmdir()
    _state(path).unlink()


def abort(recipe: Recipe, state: State) -> None:
    """Put recipe and patches back as they were."""
    _restore(recipe, {name: base64.b64decode(content) for name, content in state.kept.items()})
    end(recipe.path, state)


def _state(path: Path) -> Path:
    return cache_dir() / "rebase" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"


def leave_conflicts(
    old: Recipe, new: Recipe, name: str, conflicts: Sequence[Moved], place: Path, offline: bool
) -> list[str]:
    """Make a repository at ``place``: the new pin, a commit for each fix that applies, and on the branch `rebase` the
    conflicts as git leaves those of a merge: markers in the files, and base, ours and theirs in the index.

    Returns the paths in conflict. Raises KitError where ``place`` is taken.
    """
    if place.exists():
        raise KitError(f"{place} is in the way", f"remove it, or: kit rebase {old.name} --abort")
    ids = [each.fix.id for each in conflicts]
    device = next(
        new.device(device) for device in new.devices if any(step.id in ids for _, step in new.series(name, device))
    )
    upstream = upstream_of(new, name)
    entry = store.ensure(upstream, new.path.parent, offline)
    steps, theirs = run_series(new, upstream, device, offline)
    tree = entry.tree()
    modes = {path: int(tree[path][0], 8) if path in tree else 0o100644 for path in theirs}
    place.parent.mkdir(parents=True, exist_ok=True)
    workspace.make_repository(workspace.UpstreamPlan(upstream, entry, tuple(steps), {}, modes), place)
    git.run("checkout", "--quiet", "-b", "rebase", at=place)
    pinned = upstream_of(old, name)
    _, base = run_series(old, pinned, device, offline, ids)
    _, ours = run_series(old, pinned, device, offline)
    paths = sorted({path for each in conflicts for path in each.why})
    for path in paths:
        _merge(place, path, (base[path], ours[path], theirs[path]), modes[path], ", ".join(ids))
    return [str(path) for path in paths]


def _merge(place: Path, path: str, sides: tuple[bytes, bytes, bytes], mode: int, ids: str) -> None:
    """One file in conflict: three stages in the index, and the merge, with markers, in the tree."""
    blobs = [git.run("hash-object", "-w", "--stdin", stdin=side, at=place).decode().strip() for side in sides]
    stages = [f"{mode:o} {blob} {stage}\t{path}\n" for stage, blob in enumerate(blobs, 1)]
    git.run("update-index", "--index-info", stdin=f"0 {'0' * 40}\t{path}\n{''.join(stages)}".encode(), at=place)
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / name for name in ("base", "ours", "theirs")]
        for name, side in zip(names, sides, strict=True):
            name.write_bytes(side)
        labels = (f"the pin with {ids}", "the pin", "the new pin")
        marks = [word for label in labels for word in ("-L", label)]
        sorted_ = (names[1], names[0], names[2])
        merged = git.run("merge-file", "-p", "--diff3", *marks, *sorted_, statuses=range(128))
    (place / path).write_bytes(merged)


def resolved(state: State) -> dict[TreePath, tuple[bytes, bytes]]:
    """The files of a rebase's conflicts, as (the new pin with the fixes that apply, what they were made into); without
    those that nothing was done to. Raises KitError where conflict markers are left."""
    changes = {}
    for path in state.files:
        content = (Path(state.tree) / path).read_bytes()
        for number, line in enumerate(content.splitlines(), 1):
            if line.startswith((b"<<<<<<< ", b"||||||| ", b">>>>>>> ")):
                hint = "resolve it, then the same command again"
                raise KitError(f"{Path(state.tree) / path}:{number}: a conflict marker is left", hint)
        before = git.run("cat-file", "blob", f"HEAD:{path}", at=Path(state.tree))
        if before != content:
            changes[TreePath(path)] = (before, content)
    return changes
