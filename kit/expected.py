"""What the lock of a workspace must say: made anew from the recipe, which gives the same commits on every machine.

A workspace may come from a stranger, whose lock agrees with whatever was put into it; the recipe here does not.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit import lock, planning, repository, schema, store
from kit.cache import cache_dir
from kit.edits import state
from kit.errors import KitError
from kit.lock import Lock, LockedUpstream
from kit.options import shown
from kit.paths import TreePath
from kit.recipe import Cluster, Recipe


@dataclass(frozen=True)
class Expected:
    """An upstream as the recipe makes it: what the lock then says, and mode and blob id of every file checked out
    ("100644 <id>")."""

    locked: LockedUpstream
    files: dict[TreePath, str]

    def differs(self, upstream: LockedUpstream) -> str:
        """How what a lock says of it is not what the recipe makes; nothing where it is."""
        if self.locked.commit != upstream.commit:
            why = "recipe, kit or overlay is another than then: prepare the workspace again"
            return f"it makes {self.locked.commit}, the lock says {upstream.commit}; {why}"
        return "" if self.locked == upstream else "its fixes or files are not those that the lock lists"

    def edited(self, repository: Path) -> Iterator[tuple[str, str]]:
        """The files that are not as they were made, whatever the repository's own index says of them: `modified` or
        `deleted`, and the path."""
        real = Path(os.path.realpath(repository.parent)) / repository.name
        folders = {path.rpartition("/")[0] for path in self.files}
        linked = {folder for folder in folders if os.path.realpath(repository / folder) != str(real / folder)}
        for path, made in self.files.items():
            if path.rpartition("/")[0] in linked or state(repository / path) != made:
                yield "modified" if os.path.lexists(repository / path) else "deleted", path


def make(locked: Lock, recipe: Recipe) -> dict[str, Expected]:
    """The upstreams of what ``locked`` says was prepared, in a folder of the cache that is thrown away.

    Raises KitError where the recipe has no such device, option, fix or upstream, and where a pin cannot be had.
    """
    device = recipe.device(locked.device)
    cluster = schema.read(Cluster, locked.cluster, schema.Source(Path(lock.NAME), ""), ("cluster",))
    options = recipe.options(device.name, given={name: shown(value) for name, value in locked.options.items()})
    if others := {each.name for each in recipe.upstream} ^ locked.upstreams.keys():
        raise KitError(f"the recipe's upstreams are not the lock's: {', '.join(sorted(others))}")
    asked = planning.cluster_of(recipe, device, **dataclasses.asdict(cluster))
    plan = planning.plan(recipe, device, asked, locked.without, options=options)
    with _scratch() as folder:
        return {each.upstream.name: _made(each, Path(folder) / each.upstream.name) for each in plan.upstreams}


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder beside the cached objects, to link them instead of copying; elsewhere, where the cache is read-only."""
    try:
        (base := cache_dir() / "expected").mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=base)
    except OSError:
        return tempfile.TemporaryDirectory()


def _made(plan: planning.UpstreamPlan, place: Path) -> Expected:
    """Nothing is checked out: that takes longer than all else."""
    made = repository.make(plan, place, checkout=False)
    sparse = plan.upstream.sparse
    cone = [*sparse, *planning.outside(plan.upstream, plan.overlay)] if sparse else []
    tree = store.Entry(place, made.commit).tree.items()
    return Expected(made, {TreePath(path): f"{mode} {id}" for path, (mode, id) in tree if store.in_cone(path, cone)})
