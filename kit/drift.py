"""A series against other commits of its upstream: for each fix, where its outcome changed, and why.

Work is done once for each distinct blob of a file, in as many processes as there are cores, and remembered on disk by
what it depends on: the blob, the series on that file, and the code of the fixes.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from shlex import quote

from kit import output, patchfile, series
from kit.cache import cache_dir
from kit.devices import Device
from kit.errors import KitError
from kit.fixes import Outcome
from kit.history import History, Version
from kit.paths import TreePath
from kit.recipe import NOWHERE, FixStep, Recipe, Upstream

ABSENT = "absent"  # beside the outcomes of a fix: the file is not there
Result = tuple[str, str, int]  # outcome, reason, line (from 1; 0: none)
Found = dict[str, dict[str, Result]]  # by path, then by fix
Link = tuple[Version, str, bool]  # a version, the file's blob in it ("": none), and whether it is the pin's


@dataclass(frozen=True)
class Segment:
    """Versions of a file, one after another, with the same outcome of a fix for the same reason. ``commit``, ``time``
    (seconds since 1970) and ``subject`` are of the first; ``reason`` and ``line`` too."""

    outcome: str
    reason: str
    line: int
    commit: str
    time: int
    subject: str
    versions: int
    pinned: bool  # the pin's version is among them


@dataclass(frozen=True)
class Timeline:
    """What became of a fix on a file, oldest version first."""

    fix: str
    path: str
    segments: tuple[Segment, ...]
    before: int  # versions before the pin's

    @property
    def at_pin(self) -> str:
        return next(segment.outcome for segment in self.segments if segment.pinned)

    @property
    def now(self) -> str:
        return self.segments[-1].outcome

    @property
    def verdict(self) -> str:
        """What upstream's newest version asks for: "" (nothing), "rebase" (`kit rebase` can move the pin over it by
        itself) or "mend" (a person must look)."""
        if self.now == self.at_pin:
            return ""
        return "rebase" if self.now in (Outcome.applied, Outcome.satisfied) else "mend"


@dataclass(frozen=True)
class Subject:
    """One upstream's part of a series, and the history it is tried on: from the pin (with ``back``: from the beginning)
    to the tip."""

    recipe: Recipe
    upstream: Upstream
    device: Device
    history: History
    back: bool

    @cached_property
    def chains(self) -> dict[TreePath, list[Link]]:
        """The versions of each file that the series reads."""
        history, pin = self.history, self.upstream.pin
        paths = sorted(self.recipe.sources(self.upstream.name, self.device.name))
        if not paths:
            return {}
        time, subject = history.date(pin)
        pinned = Version(pin, time, subject, {})
        earlier = history.versions(paths, until=pin) if self.back else []
        later = history.versions(paths, after=pin)
        at_pin = history.blobs_at(pin, paths)
        return {path: list(_chain(path, earlier, pinned, at_pin.get(path, ""), later)) for path in paths}

    @cached_property
    def keys(self) -> dict[tuple[str, str], str]:
        """Where the results are kept, by file and blob."""
        wanted = {(str(path), blob) for path, chain in self.chains.items() for _, blob, _ in chain if blob}
        return {pair: _key(self.recipe, self.upstream, self.device, *pair) for pair in sorted(wanted)}


def timelines(about: Subject, results: Mapping[str, Found]) -> list[Timeline]:
    """Each fix of the series on each of its files, from what `work_out` found."""
    recipe, upstream, device, chains = about.recipe, about.upstream, about.device, about.chains
    found = {pair: results[key] for pair, key in about.keys.items()}
    roots = _roots(recipe, upstream, device)
    lines = []
    for _, step in recipe.series(upstream.name, device.name):
        for path in step.files:
            chain = chains[roots[path]]
            by_blob = {blob: each[path][step.id] for (root, blob), each in found.items() if root == roots[path]}
            before = next(index for index, (_, _, pin) in enumerate(chain) if pin)
            lines.append(Timeline(step.id, path, tuple(_segments(chain, by_blob)), before))
    return lines


def _roots(recipe: Recipe, upstream: Upstream, device: Device) -> dict[TreePath, TreePath]:
    """For each file of the series, upstream's own file it is or is derived from."""
    roots: dict[TreePath, TreePath] = {}
    for _, step in recipe.series(upstream.name, device.name):
        for path in step.files:
            source = step.derive_from or path
            roots.setdefault(path, roots.get(source, source))
    return roots


def _chain(
    path: str, earlier: Iterable[Version], pinned: Version, blob: str, later: Iterable[Version]
) -> Iterator[Link]:
    """The versions of one file. That of the pin appears once: where it came in, if that is in ``earlier``."""
    before = [(version, version.blobs[path], False) for version in earlier if path in version.blobs]
    if before and before[-1][1] == blob:
        yield from before[:-1]
        yield (before[-1][0], blob, True)
    else:
        yield from before
        yield (pinned, blob, True)
    yield from ((version, version.blobs[path], False) for version in later if path in version.blobs)


def _segments(chain: Sequence[Link], found: Mapping[str, Result]) -> Iterator[Segment]:
    current: Segment | None = None
    for where, blob, pinned in chain:
        outcome, reason, line = found[blob] if blob else (ABSENT, "the file is not there", 0)
        if current and current.outcome == outcome and _kind(current.reason) == _kind(reason):
            versions = current.versions + 1
            current = dataclasses.replace(current, versions=versions, pinned=current.pinned or pinned)
            continue
        if current:
            yield current
        current = Segment(outcome, reason, line, where.commit, where.time, where.subject, 1, pinned)
    if current:
        yield current


def _kind(reason: str) -> str:
    """A reason without its numbers and blob ids."""
    return re.sub(r"\b[0-9a-f]{12}\b|\d+", "", reason)


@contextmanager
def _remembered(place: Path) -> Iterator[sqlite3.Connection]:
    """The results on disk. Raises KitError where the disk is full, or the file is not whole."""
    try:
        with closing(sqlite3.connect(place, timeout=60)) as base:
            yield base
    except sqlite3.Error as error:
        hint = f"make room there, or remove it, it is made again: rm {quote(str(place))}"
        raise KitError(f"{place}: {error}", hint) from None


def work_out(subjects: Sequence[Subject]) -> dict[str, Found]:
    """What comes of the series of all of them, by key: from the disk, or else worked out and kept there. Raises
    KitError where a blob cannot be had."""
    place = cache_dir() / "drift.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, Found] = {}
    jobs: dict[str, Job] = {}
    with _remembered(place) as base:
        base.execute("CREATE TABLE IF NOT EXISTS result (key TEXT PRIMARY KEY, found TEXT)")
        for about in subjects:
            for key in about.keys.values():
                if row := base.execute("SELECT found FROM result WHERE key = ?", (key,)).fetchone():
                    known[key] = json.loads(row[0])
            todo = {pair: key for pair, key in about.keys.items() if key not in known}
            contents = about.history.contents([blob for _, blob in todo])
            for (path, blob), key in todo.items():
                jobs[key] = (about.recipe, about.upstream, about.device, path, contents[blob])
        # one file for several recipes: it is parsed once where they come to it one after another
        ordered = sorted(jobs, key=lambda key: hash(jobs[key][-1]))
        with output.progress(f"{len(jobs)} versions") as update:
            for done, (key, result) in enumerate(zip(ordered, _map([jobs[key] for key in ordered]), strict=True), 1):
                known[key] = result
                base.execute("INSERT OR REPLACE INTO result VALUES (?, ?)", (key, json.dumps(result)))
                base.commit()
                update(done, len(jobs))
    return known


Job = tuple[Recipe, Upstream, Device, str, bytes]  # the last two: a file's path and content


def _map(jobs: Sequence[Job]) -> Iterator[Found]:
    if len(jobs) < 4:  # not worth the processes
        yield from map(outcomes, jobs)
        return
    # trees are many small objects each: collected when one is done, not thrice while it is made
    with ProcessPoolExecutor(os.cpu_count(), initializer=gc.set_threshold, initargs=(10_000_000,)) as pool:
        try:
            yield from pool.map(outcomes, jobs, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)


def outcomes(job: Job) -> Found:
    """What comes of the series on one file of upstream's (its path and its content) and on those derived from it, by
    path and fix. Where the file cannot be read, it is a conflict of all."""
    recipe, upstream, device, path, content = job
    root = TreePath(path)
    alone = alone_on(recipe, upstream, device, root)
    names = [(path, step.id) for _, step in alone.series(upstream.name, device.name) for path in step.files]
    found: Found = {}
    try:
        patches = series.hand_written(recipe, upstream.name)
        steps, _ = series.apply(alone, upstream.name, device, {root: content}, patches, generating=True)
    except (KitError, RecursionError) as error:
        where, _, what = str(error).splitlines()[0].partition(": ")
        line = where.rpartition(":")[2]
        for path, id in names:
            found.setdefault(path, {})[id] = (str(Outcome.conflict), what or where, int(line) if line.isdigit() else 0)
        return found
    for step in steps:
        for file in step.outcomes:
            found.setdefault(file.path, {})[step.fix.id] = (str(file.outcome), file.reason, file.line)
    return found


def alone_on(recipe: Recipe, upstream: Upstream, device: Device, root: TreePath) -> Recipe:
    """The recipe, elsewhere than at its pin, with nothing left to fix but ``root`` and what is derived from it; its
    steps keep their numbers."""
    roots = _roots(recipe, upstream, device)

    def narrowed(step: FixStep) -> FixStep:
        files = tuple(path for path in step.files if step.upstream == upstream.name and roots.get(path) == root)
        return dataclasses.replace(step.elsewhere, files=files, devices=step.devices if files else NOWHERE)

    return dataclasses.replace(recipe, fix=tuple(map(narrowed, recipe.fix)))


def _key(recipe: Recipe, upstream: Upstream, device: Device, path: str, blob: str) -> str:
    """What a result depends on, as a hash."""
    steps = [
        (step.id, step.use, step.derive_from, step.files, step.count, sorted(step.options_for(device).items()))
        + ((patchfile.blob_id(step.brought.read_bytes()),) if step.brought else ())
        for _, step in alone_on(recipe, upstream, device, TreePath(path)).series(upstream.name, device.name)
    ]
    patches = {name: patchfile.blob_id(text) for name, text in series.hand_written(recipe, upstream.name).items()}
    return hashlib.sha256(json.dumps([_code(), steps, patches, path, blob]).encode()).hexdigest()


@cache
def _code() -> str:
    """A hash of the code that results come from: the fixes, what runs them, libcst and Python."""
    here = Path(__file__).parent
    files = [*sorted((here / "fixes").rglob("*.py")), here / "codemod.py", here / "series.py"]
    versions = f"{version('libcst')} {sys.version_info[:2]}".encode()
    return hashlib.sha256(b"\0".join([versions, *(file.read_bytes() for file in files)])).hexdigest()
