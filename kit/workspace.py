"""Make a workspace: stage, stamp, swap. Look at one: is it there, is it edited.

A workspace is a folder with one git repository for each upstream and a `kit.lock`. Everything is made in a staging
folder beside the destination; the last step is a rename, so a kill at any point leaves the old tree or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kit import __version__, beside, git, lock, repository, schema, store, swap
from kit.cache import cache_dir
from kit.edits import edits, first
from kit.errors import KitError
from kit.planning import Plan
from kit.stash import free_name


def prepare(
    plan: Plan, destination: Path, force: bool = False, check: bool = False
) -> tuple[lock.Lock, Path | None, bool]:
    """Make the workspace of ``plan`` at ``destination``.

    Returns its lock, where an edited tree was set aside with ``force`` (else None), and whether anything was done: a
    workspace that is whole, unedited and what the plan makes is left alone. Raises KitError, leaving the destination as
    it was, where it is not a workspace, or one with local edits and ``force`` is not set; with ``check`` also what the
    recipe's check of settings and data says.
    """
    destination = _absolute(destination)
    _check_place(destination)
    with swap.locked(destination):
        staging, retired = (destination.with_name(f".{destination.name}.kit-{kind}") for kind in ("new", "old"))
        swap.clear_leftovers(destination, staging, retired)
        found, edited = _found(destination, force)
        if edited and not force:
            raise _has_edits(destination)
        try:
            made = _stage(plan, staging)
            if check:
                _check_settings(plan, staging, destination)
            if found and not edited and _same(found, made):
                return found, None, False
            backup = free_name(destination) if edited else None
            swap.swap(staging, destination, backup or retired)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        swap.remove(retired)
    return made, backup, True


def free(destination: Path, force: bool = False) -> None:
    """Raises KitError where no workspace can be made at ``destination``, whatever its recipe: it is something else, or
    one with local edits and ``force`` is not set."""
    destination = _absolute(destination)
    _check_place(destination)
    if not force and _found(destination, force)[1]:
        raise _has_edits(destination)


@contextlib.contextmanager
def checking(plan: Plan, destination: Path) -> Iterator[Callable[[Plan], None]]:
    """Yields what runs the recipe's check on a plan: this one, or one of other options, as if it were prepared at
    ``destination``, where nothing is written. That raises KitError with what the check says."""
    if not plan.recipe.check:
        yield lambda plan: None
        return
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="check-", dir=cache_dir()) as folder:
        staging = Path(folder) / destination.name
        _stage(plan, staging)

        def check(plan: Plan) -> None:
            for each in plan.upstreams:
                for path, (_, content) in each.overlay.items():
                    (staging / each.upstream.name / path).write_bytes(content)
            _check_settings(plan, staging, _absolute(destination))

        yield check


def _absolute(destination: Path) -> Path:
    return Path(os.path.abspath(destination))  # noqa: PTH100 - a link is refused, not followed


def _has_edits(destination: Path) -> KitError:
    hint = f"keep them with `kit stash {shlex.quote(str(destination))}`, or set them aside with --force"
    return KitError(f"{destination} has local edits: {first(destination)}", hint)


def _check_place(destination: Path) -> None:
    _check_destination(destination)
    if destination.exists() and Path.cwd().is_relative_to(destination.resolve()):
        raise KitError(f"you stand in {destination}, which would be replaced", f"run it from {destination.parent}")


def _check_destination(destination: Path) -> None:
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise KitError(f"{destination} is in the way: not a folder", "give another DEST")
    if destination.is_dir() and any(destination.iterdir()) and not (destination / lock.NAME).is_file():
        raise KitError(f"{destination} was not made by kit: it has no {lock.NAME}", "give another DEST")


def _found(destination: Path, force: bool) -> tuple[lock.Lock | None, bool]:
    """The lock of the workspace that is there, and whether it was edited; with ``force`` its lock may be unreadable."""
    _check_destination(destination)
    if not (destination / lock.NAME).is_file():
        return None, False
    try:
        return lock.read(destination), any(edits(destination))
    except KitError:
        if not force:
            raise
        return None, True


def is_edited(workspace: Path) -> bool:
    """Whether a workspace has local edits, or a lock that cannot be read."""
    return _found(workspace, force=True)[1]


def _same(found: lock.Lock, made: lock.Lock) -> bool:
    return dataclasses.replace(found, kit="") == dataclasses.replace(made, kit="")


def _stage(plan: Plan, staging: Path) -> lock.Lock:
    staging.mkdir()
    upstreams = {}
    for each in plan.upstreams:
        try:
            upstreams[each.upstream.name] = repository.make(each, staging / each.upstream.name)
        except git.GitError as error:
            raise store.damaged(each.entry.repository, error) from None
    shipped = plan.recipe.path.parent == beside.shipped_root() / beside.RECIPES
    made = lock.Lock(
        recipe=plan.recipe.name if shipped else str(plan.recipe.path),
        recipe_sha256=plan.recipe.sha256,
        device=plan.device.name,
        cluster=dataclasses.asdict(plan.cluster),
        without=list(plan.without),
        upstreams=upstreams,
        kit=__version__,
        options=dict(plan.changed),
        extras=list(plan.recipe.extras),
    )
    lock.write(made, staging)
    return made


def _check_settings(plan: Plan, staging: Path, destination: Path) -> None:
    """Run the recipe's check in the staged tree. Raises KitError with its last line, which is about ``destination``."""
    if not plan.recipe.check:
        return
    facts = {**plan.options, "device": plan.device.device, "processes": str(plan.cluster.processes)}
    script, *words = plan.recipe.check
    command = [sys.executable, "-B", Path(script).name, *(schema.fill(word, **facts) for word in words)]
    done = subprocess.run(command, cwd=(staging / script).parent, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"{script} ended with exit status {done.returncode}"])[-1]
        hint = f"give it with --set NAME=VALUE; kit show {plan.recipe.called} lists the names"
        raise KitError(said.replace(str(staging), str(destination)), hint)


def find(start: Path) -> list[Path]:
    """The workspace ``start`` is in, or else every workspace below it. Raises KitError where there is none."""
    start = start.absolute()
    if not start.is_dir():
        raise KitError(f"{start} is not a folder", "give the folder of a workspace")
    for folder in (start, *start.parents):
        if (folder / lock.NAME).is_file():
            return [folder]
    below = sorted(path.parent for path in start.glob(f"*/{lock.NAME}"))
    below += sorted(path.parent for path in start.glob(f"*/*/{lock.NAME}"))
    if not below:
        raise KitError(f"there is no workspace at or below {start}", "make one: kit prepare RECIPE --device DEVICE")
    return below
