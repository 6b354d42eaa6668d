"""An upstream's history: every commit and tree, and only the blobs that are asked for.

One bare repository an address, in the cache, beside the pins of `kit.store`: those have one commit each and are only
read; this one grows. diffusers is 12 MB so, of 370.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import git, output
from kit.cache import cache_dir
from kit.errors import KitError
from kit.paths import ID
from kit.recipe import Upstream
from kit.store import AWAY, Entry, damaged


@dataclass(frozen=True)
class Version:
    """A commit that changed files of interest: when (seconds since 1970), its subject, and the blobs it left, by path;
    "" where it removed one."""

    commit: str
    time: int
    subject: str
    blobs: dict[str, str]


@dataclass(frozen=True)
class History:
    """The commits of an upstream up to ``tip``, in the cache."""

    repository: Path
    tip: str

    def versions(self, paths: Collection[str], after: str = "", until: str = "") -> list[Version]:
        """The commits that changed one of ``paths``, oldest first, along first parents: from ``until`` (default: the
        tip) back to the beginning, or to those that ``after`` has already."""
        shape = ("--first-parent", "-m", "--raw", "--no-abbrev", "--no-renames", "-z", "--format=%x01%H %ct %s")
        span = [until or self.tip, *([f"^{after}"] if after else [])]
        raw = _run(self.repository, "log", "--reverse", *shape, *span, "--", *sorted(paths))
        return [_version(part) for part in raw.decode("utf-8", "surrogateescape").split("\x01")[1:]]

    def blobs_at(self, commit: str, paths: Collection[str]) -> dict[str, str]:
        """The blobs of ``paths`` at a commit, those that are there."""
        raw = _run(self.repository, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *sorted(paths))
        entries = (entry.partition("\t") for entry in raw.decode("utf-8", "surrogateescape").split("\0") if entry)
        return {path: meta.split()[2] for meta, _, path in entries}

    def contents(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The contents of blobs, fetched in one go. Raises KitError."""
        if not ids:
            return {}
        request = "".join(f"{id}\n" for id in dict.fromkeys(ids)).encode()
        arguments = ("--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin")
        with output.progress(f"fetching {len(set(ids))} versions") as update:
            git.fetch(self.repository, *arguments, stdin=request, progress=update)
        return Entry(self.repository, self.tip).blobs(ids)

    def date(self, commit: str) -> tuple[int, str]:
        """A commit's time (seconds since 1970) and subject."""
        said = _run(self.repository, "log", "-1", "--format=%ct %s", commit).decode("utf-8", "surrogateescape")
        time, _, subject = said.strip().partition(" ")
        return int(time), subject


def _run(repository: Path, *arguments: str, statuses: Sequence[int] = (0,)) -> bytes:
    """Read from the cache. Raises KitError, with the folder to remove, where it is not whole."""
    try:
        return git.run(*arguments, at=repository, statuses=statuses)
    except git.GitError as error:
        raise damaged(repository, error) from None


def _version(text: str) -> Version:
    head, _, rest = text.partition("\0")
    commit, time, subject = head.split(" ", 2)
    fields = iter(rest.lstrip("\n\0").split("\0"))
    return Version(commit, int(time), subject.rstrip("\n"), dict(_changes(fields)))


def _changes(fields: Iterator[str]) -> Iterator[tuple[str, str]]:
    for meta in fields:
        if meta.strip():
            id = meta.split()[3]
            yield next(fields), "" if set(id) == {"0"} else id


def why_none(upstream: Upstream) -> str:
    """Why an upstream has no history; "" where it has one."""
    if upstream.carried:
        return "is carried with the recipe: it has no history"
    return "is a released package: it has no history" if upstream.sha256 else ""


def fetch(upstream: Upstream, to: str = "HEAD", offline: bool = False) -> History:
    """The history of ``upstream`` up to ``to`` (a branch, a tag or a full commit), brought up to date.

    Raises KitError where it cannot be had, and with ``offline`` where it is not cached.
    """
    if lacks := why_none(upstream):
        raise KitError(f"{upstream.name} {lacks}", "drift is for upstreams that are repositories of their own")
    if not re.fullmatch(r"[\w][\w./-]*", to) or ".." in to:
        raise KitError(f"bad name of a commit: {to!r}", "give a branch, a tag or the full 40-digit commit")
    digest = hashlib.sha256(upstream.url.encode()).hexdigest()[:8]
    repository = cache_dir() / "history" / f"{upstream.name}-{digest}"
    from filelock import FileLock

    repository.parent.mkdir(parents=True, exist_ok=True)
    ref = f"refs/kit/{to}"
    with FileLock(f"{repository}.lock"):
        if not (repository / "HEAD").is_file():
            git.run("init", "--quiet", "--bare", "--object-format=sha1", "--template=", repository)
        (repository / "config").write_text("[core]\n\tbare = true\n" + git.partial_clone(upstream.url), "utf-8")
        if not offline:
            _fetch(repository, upstream, to, ref)
        question = ("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        tip = _run(repository, *question, statuses=(0, 1)).decode().strip()
        if not tip:
            hint = "run the same command once without --offline"
            raise KitError(f"the history of {upstream.name} up to {to} is not in the cache ({repository})", hint)
    return History(repository, tip)


def _fetch(repository: Path, upstream: Upstream, to: str, ref: str) -> None:
    wanted = {to: ref, upstream.pin: f"refs/kit/{upstream.pin}"}
    there = _run(repository, "for-each-ref", "--format=%(refname)").decode().splitlines()
    specs = [f"+{name}:{ref}" for name, ref in wanted.items() if not (ID.fullmatch(name) and ref in there)]
    if not specs:
        return
    try:
        with output.progress(f"fetching the history of {upstream.name}") as update:
            git.fetch(repository, "--filter=blob:none", "origin", *specs, progress=update)
    except git.GitError as error:
        if str(repository) in error.stderr or not re.search(f"{AWAY}|remote ref|not our ref", error.stderr):
            raise damaged(repository, error) from None
        hint = f"check {to!r} and the network: git ls-remote {upstream.url}"
        raise KitError(f"{upstream.url}: the history up to {to} cannot be had: {error.said}", hint) from None
