"""Put a folder in another one's place, in one step where the system can: whenever it is killed, the old tree or the new
one is there, and the other under a name that the next run knows."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from kit import output


@contextlib.contextmanager
def locked(destination: Path) -> Iterator[None]:
    """One at a time at ``destination``, whatever their caches: a lock beside it, which goes with the last."""
    place = destination.with_name(f".{destination.name}.kit-lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # the one before us has removed it
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)


def swap(staging: Path, destination: Path, aside: Path) -> None:
    """Put ``staging`` at ``destination``, whatever was there at ``aside``: in one step where the system can.

    The new tree takes the name ``aside`` first: whenever this is killed, the old one has a name that is kept.
    """
    if not destination.exists():
        staging.rename(destination)
        return
    staging.rename(aside)
    if not _exchange(aside, destination):
        aside.rename(staging)
        destination.rename(aside)
        staging.rename(destination)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically (Linux's renameat2); False where that cannot be done."""
    at_working_directory, exchange = -100, 2
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(rename(at_working_directory, names[0], at_working_directory, names[1], exchange) == 0)


def clear_leftovers(destination: Path, staging: Path, retired: Path) -> None:
    """What a killed run left: bring back a tree that was set aside and never replaced, drop the rest."""
    if retired.exists() and not destination.exists():
        retired.rename(destination)
    remove(retired)
    remove(staging)


def remove(folder: Path) -> None:
    """Remove a folder of kit's; where it holds what this user may not remove, move it out of the way and say so."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        left = next(left for n in itertools.count(1) if not (left := folder.with_name(f"{folder.name}-{n}")).exists())
        folder.rename(left)
        output.note(f"{left} holds files of another user: sudo rm -r {shlex.quote(str(left))}")
