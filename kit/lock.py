"""`kit.lock`: what a workspace was made from, and what it must still be."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit import schema, whole
from kit.errors import KitError
from kit.paths import ID, TreePath, tree_path
from kit.paths import NAME as NAMES

NAME = "kit.lock"
Scalar = str | int | float | bool


@dataclass(frozen=True)
class LockedFix:
    """A fix: what came of it, its commit where it made one, and the blob ids of the files after it."""

    id: str
    outcome: str
    commit: str
    files: dict[TreePath, str]


@dataclass(frozen=True)
class LockedUpstream:
    """An upstream of the workspace: where it came from, what was done, and the commit and tree that must be there."""

    url: str
    pin: str
    commit: str
    tree: str
    fixes: list[LockedFix]
    overlay_commit: str
    files: dict[TreePath, str]  # every file kit wrote: git mode and blob id, as "100644 <id>"


@dataclass(frozen=True)
class Lock:
    """The content of `kit.lock`. Equal ``inputs`` and equal ``upstreams`` mean the same workspace."""

    recipe: str  # its name, or the path of its file
    recipe_sha256: str
    device: str
    cluster: dict[str, Scalar]
    without: list[str]
    upstreams: dict[str, LockedUpstream] = field(default_factory=dict)
    kit: str = ""
    options: dict[str, Scalar] = field(default_factory=dict)  # the recipe's options that are not at their defaults
    extras: list[str] = field(default_factory=list)  # the extra fixes it was prepared with


def write(lock: Lock, folder: Path) -> None:
    body = asdict(lock)
    text = json.dumps({**body, "sha256": _digest(body)}, indent=2) + "\n"
    whole.write(folder / NAME, text.encode())


def read(folder: Path) -> Lock:
    """Read the lock of a workspace. Raises KitError where there is none, where it was changed by hand, and where it
    says what kit would not: a lock may be a stranger's, and its words are given to git and to the file system."""
    path = folder / NAME
    hint = "prepare the workspace again: kit prepare RECIPE --device DEVICE DEST"
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)
        digest = body.pop("sha256")
        lock = schema.read(Lock, body, schema.Source(path, text))
        _check(lock)
    except FileNotFoundError:
        raise KitError(f"{folder} is not a workspace of kit: it has no {NAME}", hint) from None
    except (KitError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = error.message.removeprefix(f"{path}:1: ") if isinstance(error, KitError) else error
        raise KitError(f"{path}:1: not a lock of this kit: {what}", f"{hint} --force") from None
    if digest != _digest(body):
        raise KitError(f"{path}:1: its hash does not match its content: it was changed by hand", f"{hint} --force")
    return lock


def _check(lock: Lock) -> None:
    """Raises KitError at the first name, path or id that is none."""
    for name, upstream in lock.upstreams.items():
        at = f"upstreams.{name}"
        _need(NAMES.fullmatch(name) and name != NAME, "upstreams", name, "name")
        for key, id in (("pin", upstream.pin), ("commit", upstream.commit), ("tree", upstream.tree)):
            _need(ID.fullmatch(id), f"{at}.{key}", id, "id of git's")
        _need(_id_or_none(upstream.overlay_commit), f"{at}.overlay_commit", upstream.overlay_commit, "id of git's")
        for path, id in upstream.files.items():
            tree_path(path, f"{at}.files")
            _need(re.fullmatch(rf"100(644|755) {ID.pattern}", id), f"{at}.files.{path}", id, "mode and id of git's")
        for fix in upstream.fixes:
            _need(NAMES.fullmatch(fix.id), f"{at}.fixes.id", fix.id, "name")
            _need(_id_or_none(fix.commit), f"{at}.fixes.commit", fix.commit, "id of git's")
            for path, id in fix.files.items():
                tree_path(path, f"{at}.fixes.files")
                _need(ID.fullmatch(id), f"{at}.fixes.files.{path}", id, "id of git's")


def _id_or_none(text: str) -> bool:
    return not text or bool(ID.fullmatch(text))


def _need(good: object, where: str, text: str, what: str) -> None:
    if not good:
        raise KitError(f"{where}: {text!r} is no {what}")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
