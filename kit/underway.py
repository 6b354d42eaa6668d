"""A rebase that was begun, kept in the cache until it is over: what it takes to go on, or back, whenever it was killed.

Each file of the recipe's is at any time what it was before or what kit made of it; one that is neither was changed by
someone, and is never put back.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kit import edits, git, output, whole
from kit.cache import cache_dir
from kit.errors import KitError
from kit.stash import free_name


@dataclass(frozen=True)
class State:
    """``tree`` is the folder with the conflicts ("": none), ``base`` the commit kit made there, ``left`` the digests of
    the files in conflict as kit left them, ``lost`` the fixes that each of them lost. ``kept`` is what was there before
    (base64), ``made`` the digests of what kit wrote, one after the other ("": no file), by path below ``root``."""

    root: str
    upstream: str
    pin: str
    kept: dict[str, str]
    made: dict[str, list[str]]
    tree: str = ""
    base: str = ""
    left: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    written: bool = False  # all of the rebase
    resolved: bool = False  # what `--continue` writes was begun

    def going_to(self, wanted: Mapping[str, bytes]) -> State:
        """The state once ``wanted`` is to be written in place of what is there."""
        names = self.kept.keys() | self.made.keys() | wanted.keys()
        made = {name: [*self.made.get(name, []), digest(wanted.get(name))] for name in sorted(names)}
        return dataclasses.replace(self, made=made)

    @property
    def done(self) -> bool:
        """Whether what was last to be written is all there."""
        return all(now == self.made[name][-1] for name, now in self._now())

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do: no conflict, and all is written."""
        return not self.tree and (self.written or self.done)

    def changed(self) -> list[str]:
        """The files that are neither as they were before nor as kit made them."""
        before = {name: digest(base64.b64decode(content)) for name, content in self.kept.items()}
        return [name for name, now in self._now() if now not in (before.get(name, ""), *self.made.get(name, ()))]

    def _now(self) -> Iterator[tuple[str, str]]:
        for name in sorted(self.kept.keys() | self.made.keys()):
            path = Path(self.root) / name
            yield name, digest(path.read_bytes() if path.is_file() else None)


def digest(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def find(path: Path) -> State | None:
    """The rebase of the recipe at ``path`` that was begun, if there is one."""
    place = _place(path)
    return State(**json.loads(place.read_bytes())) if place.is_file() else None


def record(path: Path, state: State) -> None:
    place = _place(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    whole.write(place, json.dumps(dataclasses.asdict(state)).encode())


def forget(path: Path, state: State) -> None:
    """The rebase is over, its changes taken over: its folder of conflicts goes, or aside where more is in it."""
    if state.tree:
        head = Path(state.tree).is_dir() and git.text("rev-parse", "HEAD", at=Path(state.tree))[:12]
        seen = ("modified", "detached")  # what was committed on the way is in the files
        _discard(Path(state.tree), any(kind not in seen and path != head for kind, path in _edits(state)))
    _place(path).unlink()


def abort(path: Path, state: State) -> None:
    """Put recipe and patches back as they were; edits in the folder of conflicts are set aside. Raises KitError, having
    done nothing, where one of the recipe's files was changed since."""
    if changed := state.changed():
        names = ", ".join(str(Path(state.root) / name) for name in changed)
        hint = (
            f"keep the change elsewhere and put the file back; or keep it all: kit rebase {quote(str(path))} --continue"
        )
        raise KitError(f"{names}: changed since the rebase: it would be lost", hint)
    put(Path(state.root), {name: base64.b64decode(content) for name, content in state.kept.items()}, state.made)
    if state.tree:
        untouched = (("modified", path) for path, left in state.left.items() if _digest(state, path) == left)
        _discard(Path(state.tree), bool({*_edits(state)} - {*untouched}))
    _place(path).unlink()


def put(root: Path, wanted: Mapping[str, bytes], known: Iterable[str] = ()) -> None:
    """Write ``wanted`` below ``root``, each file whole, and remove the others that are ``known``; then the last one,
    the recipe: until then the old one counts, with the same command to be run again."""
    *others, last = wanted.items()
    for name, content in others:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        whole.write(root / name, content)
    for name in known:
        if name not in wanted:
            (root / name).unlink(missing_ok=True)
    (root / last[0]).parent.mkdir(parents=True, exist_ok=True)
    whole.write(root / last[0], last[1])


def _edits(state: State) -> Iterator[tuple[str, str]]:
    """What was done in the folder of conflicts since kit made it."""
    return edits.of(Path(state.tree), state.base or "HEAD") if Path(state.tree).is_dir() else iter(())


def _digest(state: State, path: str) -> str:
    file = Path(state.tree) / path
    return digest(file.read_bytes() if file.is_file() else None)


def _discard(tree: Path, aside: bool) -> None:
    """Remove the folder of conflicts, in one step, or set it ``aside``; what a killed run left half removed goes."""
    old = tree.with_name(f".{tree.name}.kit-old")
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(being_made(tree), ignore_errors=True)
    if tree.is_dir() and aside:
        free = free_name(tree)
        tree.rename(free)
        output.note(f"what was done in {output.place(tree)} is kept in {output.place(free)}")
    elif tree.is_dir():
        tree.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(OSError):  # something of the user's is beside it
        tree.parent.rmdir()


def being_made(tree: Path) -> Path:
    """Where the folder of conflicts is until it is whole."""
    return tree.with_name(f".{tree.name}.kit-new")


def _place(path: Path) -> Path:
    return cache_dir() / "rebase" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
