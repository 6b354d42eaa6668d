"""Make the repository of one upstream: the pin, a commit a fix, one for the overlay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kit import git, lock, patchfile, series, store
from kit.edits import IGNORED_JUNK
from kit.paths import TreePath
from kit.planning import UpstreamPlan, outside
from kit.recipe import Upstream


def make(plan: UpstreamPlan, place: Path, checkout: bool = True) -> lock.LockedUpstream:
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
