"""What will be made: the fixes of a recipe with their outcomes, its overlays' files, its options, for one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit import collisions, overlay, series, store
from kit.devices import Device
from kit.errors import KitError
from kit.options import Scalar
from kit.paths import TreePath
from kit.recipe import Cluster, Recipe, Upstream


@dataclass(frozen=True)
class UpstreamPlan:
    """What will happen to one upstream: the fixes with their outcomes, and the overlay's files."""

    upstream: Upstream
    entry: store.Entry
    steps: tuple[series.Step, ...]
    overlay: dict[TreePath, overlay.File]
    modes: dict[TreePath, int]  # of the files the fixes change


@dataclass(frozen=True)
class Plan:
    """All that makes a workspace: the same plan gives the same commit on every machine."""

    recipe: Recipe
    device: Device
    cluster: Cluster
    without: tuple[str, ...]
    upstreams: tuple[UpstreamPlan, ...]
    options: dict[str, Scalar]  # the value of each

    @property
    def changed(self) -> dict[str, Scalar]:
        """The options that are not at their defaults."""
        defaults = {option.name: option.on(self.device.name) for option in self.recipe.option}
        return {name: value for name, value in self.options.items() if value != defaults[name]}


def plan(
    recipe: Recipe,
    device: Device,
    cluster: Cluster,
    without: Sequence[str] = (),
    offline: bool = False,
    options: dict[str, Scalar] | None = None,
) -> Plan:
    """Fetch what is missing and work out every change, writing nothing but the cache.

    Raises KitError at the first fix that is gone or in conflict (file and line), at an overlay file that would
    overwrite one of upstream's, and at whatever the recipe, the store or a patch refuses.
    """
    known = [step.id for step in recipe.fix]
    for name in without:
        if name not in known:
            raise KitError(f"recipe {recipe.name} has no fix {name!r}", f"its fixes: {', '.join(known)}")
    values = recipe.options(device.name) if options is None else options
    recipe = recipe.at(device.name, values)
    device = recipe.device(device.name)
    names = context(recipe, device, cluster, values)
    upstreams = tuple(_plan_upstream(recipe, each, device, without, offline, names) for each in recipe.upstream)
    return Plan(recipe, device, cluster, tuple(sorted(without)), upstreams, values)


def _plan_upstream(
    recipe: Recipe, upstream: Upstream, device: Device, without: Sequence[str], offline: bool, names: dict[str, Any]
) -> UpstreamPlan:
    entry = store.ensure(upstream, recipe.path.parent, offline)
    tree = entry.tree
    collisions.check(recipe, upstream.name, device.name, tree)  # before a fix is tried on what is another file
    targets = {path for path in recipe.sources(upstream.name, device.name) if path in tree}
    for path in targets:
        if tree[path][0] not in ("100644", "100755"):
            raise KitError(f"{upstream.name}: {path} has git mode {tree[path][0]}", "kit changes regular files only")
    patches = series.load_patches(recipe, upstream.name)
    steps, _ = series.apply(recipe, upstream.name, device, entry.files(targets), patches, without)
    for step in steps:
        step.check(f"leave it out with --without {step.fix.id}, or mend the fix")
    parts = [(part, overlay.render(recipe.roots, part, names)) for part in recipe.overlays(upstream.name, device.name)]
    collisions.check(recipe, upstream.name, device.name, tree, parts)
    copied = {path: file for _, files in parts for path, file in files.items()}
    for folder in outside(upstream, copied):
        if beside := next((path for path in tree if path.startswith(f"{folder}/")), None):
            what = f"{upstream.name}: the overlay goes into {folder}, where upstream's {beside} is not checked out"
            raise KitError(what, f'add "{folder}" to `sparse` in {recipe.path}')
    modes = {path: int(tree[path][0], 8) for path in targets}
    for _, derived in recipe.series(upstream.name, device.name):
        modes.update({path: modes[derived.derive_from] for path in derived.files if derived.derive_from})
    return UpstreamPlan(upstream, entry, tuple(steps), copied, modes)


def outside(upstream: Upstream, paths: Iterable[TreePath]) -> list[TreePath]:
    """The folders of ``paths`` that the upstream's sparse folders leave out."""
    folders = {path.rpartition("/")[0] for path in paths if not store.in_cone(path, upstream.sparse)}
    return [TreePath(folder) for folder in sorted(folders) if collisions.above(folder).isdisjoint(folders)]


def context(
    recipe: Recipe, device: Device, cluster: Cluster, options: Mapping[str, Scalar] | None = None
) -> dict[str, Any]:
    """The names a template of an overlay may use."""
    return {
        "recipe": {
            "name": recipe.name,
            "title": recipe.title,
            "python": recipe.environment.python,
            "packages": recipe.environment.packages,
            "wheels": recipe.environment.wheels,
        },
        "device": dataclasses.asdict(device),
        "cluster": dataclasses.asdict(cluster),
        "options": recipe.options(device.name) if options is None else dict(options),
        "upstreams": {each.name: {"url": each.url, "pin": each.pin} for each in recipe.upstream},
    }


def cluster_of(recipe: Recipe, device: Device, **given: Any) -> Cluster:
    """The recipe's cluster with what was given on the command line, made consistent.

    Raises KitError where the numbers contradict each other: a rank that is not below the number of machines, processes
    that do not divide among them.
    """
    cluster = dataclasses.replace(recipe.cluster, **{key: value for key, value in given.items() if value is not None})
    if not cluster.processes:
        cluster = dataclasses.replace(cluster, processes=device.processes * cluster.machines)
    if not 0 <= cluster.machine_rank < cluster.machines:
        hint = f"ranks go from 0 to {cluster.machines - 1}"
        raise KitError(f"--machine-rank {cluster.machine_rank} with --machines {cluster.machines}", hint)
    if cluster.processes < 1 or cluster.processes % cluster.machines:
        hint = "--processes is the total over all machines, the same number on each"
        raise KitError(f"--processes {cluster.processes} with --machines {cluster.machines}", hint)
    if cluster.machines > 1 and cluster.main_ip in ("localhost", "127.0.0.1"):
        hint = "give the address of the machine with rank 0: --main-ip IP"
        raise KitError(f"{cluster.machines} machines cannot meet at {cluster.main_ip}", hint)
    return cluster
