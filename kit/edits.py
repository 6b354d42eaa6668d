"""What the user changed in a workspace since it was made: git is asked, and not believed where it was told to look
away."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from kit import git, lock, store
from kit.patchfile import blob_id

IGNORED_JUNK = ("__pycache__/", ".egg-info/", ".pytest_cache/", ".ruff_cache/", ".mypy_cache/")


@dataclass(frozen=True)
class Edit:
    """A difference between a workspace and its lock: `modified`, `untracked`, `deleted`, `committed`, `missing`, …"""

    upstream: str
    kind: str
    path: str

    @property
    def beside(self) -> bool:
        """Whether it is something of the user's own, beside what kit and upstream wrote."""
        return self.kind in ("untracked", "ignored", "detached", "noted")

    def __str__(self) -> str:
        return f"{self.kind} {self.upstream + '/' if self.upstream else ''}{self.path}"


def edits(workspace: Path) -> Iterator[Edit]:
    """What the user changed since the workspace was made: files, commits, and anything beside the upstreams."""
    locked = lock.read(workspace)
    for path in sorted(workspace.iterdir()):
        if path.name != lock.NAME and path.name not in locked.upstreams:
            yield Edit("", "untracked", path.name)
    for name, upstream in locked.upstreams.items():
        place = workspace / name
        if not (place / ".git").exists():
            yield Edit(name, "missing", ".")
            continue
        yield from (Edit(name, kind, path) for kind, path in of(place, upstream.commit, upstream.files))


def first(workspace: Path) -> str:
    """The first three, in words."""
    found = [str(edit) for edit in edits(workspace)]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


Found = Iterator[tuple[str, str]]  # kind and path


def of(place: Path, commit: str, written: Collection[str] = ()) -> Found:
    """What the user changed in the repository ``place`` since kit left it at ``commit``, having ``written`` files."""
    try:
        yield from [*_commits(place, commit), *_hooks(place), *_files(place, commit, written)]
    except git.GitError:
        yield "unreadable", "."


def commits(place: Path, commit: str) -> Iterator[tuple[str, str]]:
    """The user's own, each with the reference it is under: HEAD, any other, or "" where it is under none."""
    head = git.text("rev-parse", "HEAD", at=place)
    if head != commit:
        yield head, "HEAD"
    kits = git.text("rev-list", commit, at=place).split()
    for line in git.text("for-each-ref", "--format=%(objectname) %(refname)", at=place).splitlines():
        id, _, ref = line.partition(" ")
        if id not in (*kits, head) and not ref.startswith("refs/remotes/"):  # what was fetched can be fetched again
            yield id, ref
    for id in git.text("rev-list", "--reflog", "--not", "--all", "HEAD", commit, at=place).split():
        yield id, ""


def _commits(place: Path, commit: str) -> Found:
    for id, ref in commits(place, commit):
        kind, _, name = ref.removeprefix("refs/").partition("/")
        if ref in ("HEAD", ""):
            yield ("committed" if ref else "detached"), id[:12]
        else:
            yield ("noted" if kind == "notes" else "committed"), name or kind


def _hooks(place: Path) -> Found:
    for path in sorted((place / ".git").glob("hooks/*")):
        yield "untracked", path.relative_to(place).as_posix()


def _files(place: Path, commit: str, written: Collection[str]) -> Found:
    arguments = ("status", "--porcelain=v1", "-z", "--no-renames", "--ignored=matching", "--untracked-files=normal")
    said = set()
    for line in filter(None, git.run(*arguments, at=place).decode("utf-8", "surrogateescape").split("\0")):
        kind, path = line[:2], line[3:]
        said.add(path)
        if kind not in ("!!", "??") or not _is_junk(path):
            yield _KINDS.get(kind.strip()[:1], "modified"), path
    yield from ((kind, path) for kind, path in _unwatched(place, commit, written) if path not in said)
    closed: list[OSError] = []  # folders git could not look into: it says nothing of what is there
    for _, folders, _ in os.walk(place, onerror=closed.append):
        folders[:] = [folder for folder in folders if folder != ".git"]
    for error in closed:
        path = f"{Path(os.fsdecode(error.filename)).relative_to(place).as_posix()}/"
        if not _is_junk(path):
            yield "unreadable", path


_KINDS = {"M": "modified", "?": "untracked", "!": "ignored", "D": "deleted", "A": "added"}


def _is_junk(path: str) -> bool:
    return any(mark in f"/{path}/" for mark in IGNORED_JUNK)


def _unwatched(place: Path, commit: str, written: Collection[str]) -> Found:
    """Edits of files that git was told not to look at (assume-unchanged, skip-worktree)."""
    listing = git.run("ls-files", "-v", "-z", at=place).decode("utf-8", "surrogateescape").split("\0")
    unwatched = {line[2:]: line[0] for line in listing if line and (line[0].islower() or line[0] == "S")}
    if not unwatched:
        return
    cone = git.text("sparse-checkout", "list", at=place, statuses=(0, 128)).splitlines()
    tree = store.Entry(place, commit).tree
    for path, tag in unwatched.items():
        file = place / path
        if os.path.lexists(file):
            if path not in tree or state(file) != " ".join(tree[path]):
                yield "modified", path
        elif tag.islower() or path in written or store.in_cone(path, cone):
            yield "deleted", path


def state(path: Path) -> str:
    """git mode and blob id of a file or a link, as in the lock; nothing where there is none."""
    if path.is_symlink():
        return f"120000 {blob_id(os.fsencode(path.readlink()))}"
    if not path.is_file():
        return ""
    return f"{'100755' if store.is_executable(path) else '100644'} {blob_id(path.read_bytes())}"
