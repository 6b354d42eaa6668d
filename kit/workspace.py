"""Make a workspace: stage, commit, stamp, swap. Look at one: status and local edits.

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import __version__, beside, collisions, git, lock, overlay, patchfile, schema, series, store, swap
from kit.cache import cache_dir
from kit.devices import Device
from kit.edits import IGNORED_JUNK, edits, first
from kit.errors import KitError
from kit.options import Scalar
from kit.paths import TreePath
from kit.recipe import Cluster, Recipe, Upstream
from kit.stash import free_name


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
    tree = entry.tree()
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
            upstreams[each.upstream.name] = make_repository(each, staging / each.upstream.name)
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


def make_repository(plan: UpstreamPlan, place: Path, checkout: bool = True) -> lock.LockedUpstream:
    """A repository at the pin with one commit a fix and one for the overlay, on branch `kit`, checked out."""
    upstream, entry = plan.upstream, plan.entry
    git.run("init", "--quiet", "--initial-branch=kit", "--object-format=sha1", "--template=", place)
    _share_objects(entry.repository, place / ".git", upstream, outside(upstream, plan.overlay))
    commits = []
    makers: list[series.Step | None] = []
    for step in plan.steps:
        if step.changes:
            subject, body = step.message
            message = f"{subject}\n\n{body}\n\nKit-Fix: {step.fix.id}\n"
            files = {path: (plan.modes[path], after) for path, (_, after) in step.changes.items()}
            commits.append(store.Commit(message, files))
            makers.append(step)
    if plan.overlay:
        names = "\n".join(f"- {path}" for path in plan.overlay)
        commits.append(store.Commit(f"overlay: {len(plan.overlay)} files for the device\n\n{names}\n", plan.overlay))
        makers.append(None)
    if commits:
        stream = store.fast_import(commits, upstream.pin, entry.date())
        git.run("fast-import", "--quiet", "--force", "--done", stdin=stream, at=place)
    else:
        git.run("update-ref", "refs/heads/kit", upstream.pin, at=place)
    if checkout:
        git.run("read-tree", "-m", "-u", "HEAD", at=place)
    log = git.text("log", "--reverse", "--format=%H %T", f"-{len(commits) or 1}", at=place).split()
    ids = dict(zip((step.fix.id if step else "" for step in makers), log[::2], strict=True)) if commits else {}
    written: dict[TreePath, str] = {}
    fixes = []
    for step in plan.steps:
        after = {path: patchfile.blob_id(content) for path, (_, content) in step.changes.items()}
        written.update({path: f"{plan.modes[path]:o} {id}" for path, id in after.items()})
        fixes.append(lock.LockedFix(step.fix.id, str(step.outcome), ids.get(step.fix.id, ""), after))
    written.update({path: f"{mode:o} {patchfile.blob_id(content)}" for path, (mode, content) in plan.overlay.items()})
    return lock.LockedUpstream(upstream.url, upstream.pin, log[-2], log[-1], fixes, ids.get("", ""), written)


def _share_objects(repository: Path, target: Path, upstream: Upstream, more: Sequence[TreePath]) -> None:
    """Give the new repository the cached objects (as hard links where possible), its origin, its sparse folders and
    ``more``."""
    for pack in (repository / "objects").rglob("*"):
        if pack.is_file():
            link = target / pack.relative_to(repository)
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(pack, link)
            except OSError:
                shutil.copyfile(pack, link)
    (target / "info").mkdir(exist_ok=True)
    (target / "info" / "attributes").write_text(git.BYTES, encoding="utf-8")
    (target / "info" / "exclude").write_text("".join(f"*{mark}\n" for mark in IGNORED_JUNK), encoding="utf-8")
    config = ""
    if (repository / "shallow").exists():
        shutil.copyfile(repository / "shallow", target / "shallow")
        config = git.partial_clone(upstream.url)
    if upstream.sparse:
        config += "[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = true\n"
        (target / "info" / "sparse-checkout").write_text(_cone([*upstream.sparse, *more]), encoding="utf-8")
    with (target / "config").open("a", encoding="utf-8") as file:
        file.write(config)


def _cone(sparse: Sequence[TreePath]) -> str:
    """git's cone-mode patterns: the files at the top, those beside the way to each folder, all inside the folders."""
    parents = {"/".join(folder.split("/")[:depth]) for folder in sparse for depth in range(1, folder.count("/") + 1)}
    lines = ["/*", "!/*/"]
    for path in sorted(parents | set(sparse)):
        lines += [f"/{path}/"] if path in sparse else [f"/{path}/", f"!/{path}/*/"]
    return "\n".join(lines) + "\n"


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
