"""Move a recipe's pin: what each fix becomes at another commit, the recipe's text, and the conflicts as a merge.

The base of a conflict is always known: it is the pin. So each one is a three-way merge that any git tool can show: the
file at the pin, the file with the fix at the pin, and the file at the new commit with the fixes that do apply there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kit import collisions, edits, git, planning, repository, series, store, underway
from kit.devices import Device
from kit.errors import KitError
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.recipe import FixStep, Recipe, Upstream
from kit.recipes import parse
from kit.schema import load_toml, tomllib
from kit.series import Step
from kit.underway import State


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
    collisions.check(recipe, upstream.name, device.name, entry.tree)
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
        counted = fix if len(places) > 1 else dataclasses.replace(fix, count=max(places, default=fix.count))
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
    files: Mapping[str, Sequence[TreePath]] = MappingProxyType({}),
    heirs: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The recipe's text with another pin, without the fixes in ``dropped``, and with the ``counts`` and ``files`` of
    others, by id. What names a fix that has an heir names that, a red without one goes; all else stays, comments too.
    """
    if recipe.base:
        what = f"{recipe.path}: its series is that of {recipe.base.called}, which it extends"
        raise KitError(what, f"move that: kit rebase {recipe.base.called}; or write a pin of its own, then kit refresh")
    source, _ = load_toml(recipe.path)
    lines = source.text.splitlines(keepends=True)
    number = recipe.upstream.index(upstream)
    for key, old, new in (("pin", upstream.pin, pin), ("version", upstream.version, version)):
        if old:
            place = source.line(("upstream", number, key)) - 1
            lines[place] = lines[place].replace(f'"{old}"', f'"{new}"')
    for index, fix in enumerate(recipe.fix):
        head, place, id, listed = (
            source.line(("fix", index, *key)) - 1 for key in ((), ("count",), ("id",), ("files",))
        )
        if (left := files.get(fix.id)) is not None:
            end = next(end for end in range(listed + 1, len(lines) + 1) if _is_toml("".join(lines[listed:end])))
            lines[listed:end] = [f"files = {json.dumps(list(left))}\n", *[""] * (end - listed - 1)]
        if (count := counts.get(fix.id, fix.count)) != fix.count:
            if place > head:
                lines[place] = lines[place].replace(str(fix.count), str(count), 1)
            else:
                lines[id] += f"count = {count}\n"
    reds = recipe.smoke.red if recipe.smoke else ()
    gone = [table(lines, "fix", index) for index, fix in enumerate(recipe.fix) if fix.id in dropped]
    gone += [
        table(lines, "smoke.red", index)
        for index, red in enumerate(reds)
        if red.fix in dropped and red.fix not in heirs
    ]
    taken_out = {number for table in gone for number in table}
    named = re.compile(rf'(\s*(?:fix|extra)\s*=\s*)"({"|".join(map(re.escape, heirs))})"')
    return "".join(
        named.sub(lambda found: f'{found[1]}"{heirs[found[2]]}"', line) if heirs and named.match(line) else line
        for number, line in enumerate(lines)
        if number not in taken_out
    )


def _is_toml(text: str) -> bool:
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return bool(tomllib.loads(text))
    return False


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


def files(recipe: Recipe, text: str, patches: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """A recipe's patches, by upstream and name, and its text: by path below its root, the recipe last."""
    made = {
        _below(recipe, recipe.root / "patches" / recipe.name / upstream / name): content
        for upstream, wanted in patches.items()
        for name, content in wanted.items()
    }
    return {**made, _below(recipe, recipe.path): text.encode()}


def present(recipe: Recipe) -> dict[str, bytes]:
    """The recipe and its patches as they are, by path below its root, the recipe last."""
    paths = [*sorted((recipe.root / "patches" / recipe.name).rglob("*.patch")), recipe.path]
    return {_below(recipe, path): path.read_bytes() for path in paths}


def _below(recipe: Recipe, path: Path) -> str:
    return path.relative_to(recipe.root).as_posix()


def write(recipe: Recipe, wanted: Mapping[str, bytes]) -> None:
    """Write a recipe's text and its patches (see :func:`files`); the patches that are not among them go. What was there
    before comes back where the result is no recipe: then KitError is raised."""
    before = present(recipe)
    try:
        underway.put(recipe.root, wanted, before)
        parse(recipe.path)
    except BaseException:
        underway.put(recipe.root, before, wanted)
        raise


def leave_conflicts(
    old: Recipe, new: Recipe, name: str, conflicts: Sequence[Moved], place: Path, offline: bool
) -> tuple[str, dict[str, str]]:
    """Make a repository at ``place``: the new pin, a commit for each fix that applies, and on the branch `rebase` the
    conflicts as git leaves those of a merge: markers in the files, and base, ours and theirs in the index. Returns the
    commit, and the digests of the files in conflict as they are left, by path."""
    ids = [each.fix.id for each in conflicts]
    device = next(
        new.device(device) for device in new.devices if any(step.id in ids for _, step in new.series(name, device))
    )
    upstream = upstream_of(new, name)
    entry = store.ensure(upstream, new.path.parent, offline)
    steps, theirs = run_series(new, upstream, device, offline)
    tree = entry.tree
    modes = {path: int(tree[path][0], 8) if path in tree else 0o100644 for path in theirs}
    place.parent.mkdir(parents=True, exist_ok=True)
    repository.make(planning.UpstreamPlan(upstream, entry, tuple(steps), {}, modes), place)
    git.run("checkout", "--quiet", "-b", "rebase", at=place)
    pinned = upstream_of(old, name)
    _, base = run_series(old, pinned, device, offline, ids)
    _, ours = run_series(old, pinned, device, offline)
    lost = losses(conflicts)
    for path, fixes in lost.items():
        _merge(place, path, (base[path], ours[path], theirs[path]), modes[path], ", ".join(fixes))
    left = {str(path): underway.digest((place / path).read_bytes()) for path in lost}
    return git.text("rev-parse", "HEAD", at=place), left


def losses(conflicts: Sequence[Moved]) -> dict[TreePath, list[str]]:
    """The fixes that each file loses to a conflict: that file alone."""
    paths = sorted({path for each in conflicts for path in each.why})
    return {path: [each.fix.id for each in conflicts if path in each.why] for path in paths}


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
    """All that was changed in the folder of conflicts, committed or not, as (the new pin with the fixes that apply,
    what it was made into). Raises KitError where conflict markers are left, and for what cannot become a patch: a file
    that is new or gone."""
    place = Path(state.tree)
    again = "then the same command again"
    for path in state.lost:
        content = (place / path).read_bytes() if (place / path).is_file() else b""
        for number, line in enumerate(content.splitlines(), 1):
            if line.startswith((b"<<<<<<< ", b"||||||| ", b">>>>>>> ")):
                raise KitError(f"{place / path}:{number}: a conflict marker is left", f"resolve it, {again}")
    changes = {}
    with tempfile.TemporaryDirectory() as folder:  # an index of our own: git looks at every file
        index = Path(folder) / "index"
        git.run("read-tree", state.base, at=place, index=index)
        git.run("update-index", "-q", "--really-refresh", at=place, index=index, statuses=(0, 1))
        listing = git.run("diff-files", "--name-status", "--no-renames", "-z", at=place, index=index).split(b"\0")
        new = [
            path for kind, path in edits.of(place, state.base) if kind in ("untracked", "added") and path[:5] != ".git/"
        ]
    cone = git.text("sparse-checkout", "list", at=place, statuses=(0, 128)).splitlines()
    for kind, raw in zip(listing[::2], listing[1::2], strict=False):
        path = raw.decode("utf-8", "surrogateescape")
        if kind == b"D" and not store.in_cone(path, cone):
            continue
        before = git.run("cat-file", "blob", f"{state.base}:{path}", at=place)
        if kind != b"M" or (place / path).read_bytes() == before:
            what = "is gone" if kind == b"D" else "has another mode"
            raise KitError(f"{place / path}: {what}, which no patch can say", f"bring it back, {again}")
        changes[TreePath(path)] = (before, (place / path).read_bytes())
    for path in new:
        raise KitError(f"{place / path}: a new file belongs into an overlay", f"move it there, {again}")
    return changes
