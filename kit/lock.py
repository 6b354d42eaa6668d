"""`kit.lock`: what a workspace was made from, and what it must still be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit import whole
from kit.errors import KitError
from kit.paths import TreePath

NAME = "kit.lock"


@dataclass(frozen=True)
class LockedFix:
    """A fix: what came of it, its commit where it made one, and the blob ids of the files after it."""

    id: str
    outcome: str
    commit: str
    files: Mapping[TreePath, str]


@dataclass(frozen=True)
class LockedUpstream:
    """An upstream of the workspace: where it came from, what was done, and the commit and tree that must be there."""

    url: str
    pin: str
    commit: str
    tree: str
    fixes: list[LockedFix]
    overlay_commit: str
    files: dict[str, str]  # every file kit wrote: git mode and blob id, as "100644 <id>"


@dataclass(frozen=True)
class Lock:
    """The content of `kit.lock`. Equal ``inputs`` and equal ``upstreams`` mean the same workspace."""

    recipe: str  # its name, or the path of its file
    recipe_sha256: str
    device: str
    cluster: dict[str, Any]
    without: list[str]
    upstreams: dict[str, LockedUpstream] = field(default_factory=dict)
    kit: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # the recipe's options that are not at their defaults
    extras: list[str] = field(default_factory=list)  # the extra fixes it was prepared with


def write(lock: Lock, folder: Path) -> None:
    body = asdict(lock)
    text = json.dumps({**body, "sha256": _digest(body)}, indent=2) + "\n"
    whole.write(folder / NAME, text.encode())


def read(folder: Path) -> Lock:
    """Read the lock of a workspace. Raises KitError where there is none, or where it was changed by hand."""
    path = folder / NAME
    hint = "prepare the workspace again: kit prepare RECIPE --device DEVICE DEST"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        digest = body.pop("sha256")
        upstreams = {
            name: LockedUpstream(**{**entry, "fixes": [LockedFix(**fix) for fix in entry["fixes"]]})
            for name, entry in body["upstreams"].items()
        }
        lock = Lock(**{**body, "upstreams": upstreams})
    except FileNotFoundError:
        raise KitError(f"{folder} is not a workspace of kit: it has no {NAME}", hint) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"{path}:1: not a lock of this kit: {error}", f"{hint} --force") from None
    if digest != _digest(body):
        raise KitError(f"{path}:1: its hash does not match its content: it was changed by hand", f"{hint} --force")
    return lock


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
