"""The shared cache of upstream objects: one bare repository for each pin and set of sparse folders.

An entry is fetched once, under a lock, into a temporary folder that is renamed when it is whole; after that it is only
read. It holds the commit, its trees, and the blobs of the sparse folders (depth 1, blobless, then just those blobs).
Where there is no repository (a released source package, a folder that comes with the recipe), the commit is made here.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kit import git, output
from kit.cache import cache_dir
from kit.errors import KitError
from kit.paths import TreePath, regular_files, tree_path
from kit.recipe import Upstream

_FORMAT = "1"  # part of every entry's name: a change of layout starts a new cache
_IDENTITY = "kit <kit@localhost>"
_DATE = "946684800 +0000"  # 2000-01-01: of commits that are made here, the same everywhere


@dataclass(frozen=True)
class Entry:
    """An upstream at its pin, in the cache. ``fetched`` is how many bytes this call brought, 0 where it was cached."""

    repository: Path
    pin: str
    fetched: int = 0

    @property
    def tree(self) -> dict[str, tuple[str, str]]:
        """Every path of the pin with its mode and object id."""
        try:
            return _listing(self.repository, self.pin)
        except git.GitError as error:
            raise damaged(self.repository, error) from None

    def files(self, paths: Iterable[TreePath]) -> dict[TreePath, bytes]:
        """The contents of those of ``paths`` that the pin has. Raises KitError where one is not in the cache."""
        ids = {path: self.tree[path][1] for path in paths if path in self.tree}
        blobs = self.blobs(ids.values())
        return {path: blobs[id] for path, id in ids.items()}

    def blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """The contents of blobs, by id. Raises KitError where one is not in the cache."""
        wanted = list(dict.fromkeys(ids))
        request = "".join(f"{id}\n" for id in wanted).encode()
        try:
            raw = git.run("cat-file", "--batch", at=self.repository, stdin=request)
        except git.GitError as error:
            raise damaged(self.repository, error) from None
        found, position = {}, 0
        for id in wanted:
            end = raw.index(b"\n", position)
            header = raw[position:end].split()
            if header[-1] == b"missing":
                raise KitError(f"the cache is damaged: {self.repository} lacks object {id}", _anew(self.repository))
            size = int(header[2])
            found[id] = raw[end + 1 : end + 1 + size]
            position = end + 1 + size + 1
        return found

    def date(self) -> str:
        """The pin's commit date as git writes it in UTC, `<seconds> +0000`."""
        return f"{_seconds(self.repository, self.pin)} +0000"


def entry_path(upstream: Upstream) -> Path:
    key = "\0".join([_FORMAT, upstream.url, upstream.pin, *sorted(upstream.sparse)])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return cache_dir() / "upstreams" / f"{upstream.name}-{upstream.pin[:12]}-{digest}"


def ensure(upstream: Upstream, beside: Path, offline: bool = False) -> Entry:
    """The cache entry of ``upstream``, fetched if need be; ``beside`` is the recipe's folder, for carried upstreams.

    Raises KitError where the pin cannot be had from any of the addresses, where what came is not the pin, and where it
    is not cached and ``offline`` is set.
    """
    place = entry_path(upstream)
    if place.is_dir():
        return Entry(place, upstream.pin)
    if offline and not upstream.carried:
        hint = "run the same command once without --offline"
        raise KitError(f"{upstream.name} {upstream.pin[:12]} is not in the cache ({place.parent})", hint)
    from filelock import FileLock

    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if place.is_dir():  # another kit fetched it while we waited
            return Entry(place, upstream.pin)
        staging = place.with_name(place.name + ".tmp")
        shutil.rmtree(staging, ignore_errors=True)
        try:
            git.run("init", "--quiet", "--bare", "--object-format=sha1", "--template=", staging)
            if upstream.carried:
                _import_folder(upstream, beside / upstream.url, staging)
            else:
                _fetch_any(upstream, staging)
            git.run("update-ref", "--no-deref", "HEAD", upstream.pin, at=staging)
            fetched = sum(path.stat().st_size for path in (staging / "objects").rglob("*") if path.is_file())
            staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Entry(place, upstream.pin, fetched)


def in_cone(path: str, sparse: Iterable[str]) -> bool:
    """Whether git's cone mode checks ``path`` out: it is in one of the folders, or directly beside the way there."""
    folders = list(sparse)
    parent = path.rpartition("/")[0]
    return not folders or any(
        path.startswith(f"{folder}/") or parent == "" or f"{folder}/".startswith(f"{parent}/") for folder in folders
    )


def _fetch_any(upstream: Upstream, staging: Path) -> None:
    failures: list[KitError] = []
    for url in (upstream.url, *upstream.alternates):
        try:
            return (_import_archive if upstream.sha256 else _fetch)(upstream, url, staging)
        except git.GitError as error:
            failures.append(_explain(upstream, url, error))
        except KitError as error:
            failures.append(error)
    match failures:
        case [only]:
            raise only
    raise KitError("\n  ".join(map(str, failures)))


def _fetch(upstream: Upstream, url: str, staging: Path) -> None:
    (staging / "config").write_text("[core]\n\tbare = true\n" + git.partial_clone(url), encoding="utf-8")
    pin = upstream.pin
    with output.progress(f"fetching {upstream.name} {pin[:12]}") as update:
        git.fetch(staging, "--depth=1", "--filter=blob:none", "origin", pin, progress=update)
        if git.text("rev-parse", "--verify", "--quiet", f"{pin}^{{commit}}", at=staging, statuses=(0, 1)) != pin:
            raise KitError(f"{url}: what was fetched is not the commit {pin}", "check the pin in the recipe")
        wanted = set()
        for path, (mode, id) in _listing(staging, pin).items():
            if in_cone(path, upstream.sparse):
                if mode == "160000":
                    hint = "kit does not fetch submodules; leave the folder out of the recipe's sparse list"
                    raise KitError(f"{upstream.name}: {path} is a submodule", hint)
                wanted.add(id)
        request = "".join(f"{id}\n" for id in sorted(wanted)).encode()
        arguments = ("--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin")
        git.fetch(staging, *arguments, stdin=request, progress=update)


def _explain(upstream: Upstream, url: str, error: git.GitError) -> KitError:
    """git's complaint in the recipe's terms."""
    if re.search(r"not our ref|unadvertised object|remote ref|no such remote", error.stderr):
        hint = "check the pin in the recipe, or that the commit was not removed upstream"
        return KitError(f"{url} does not have the commit {upstream.pin}", hint)
    if not error.hint and re.search(AWAY, error.stderr):
        hint = "check the network, or tell git where a mirror is: git config --global url.<mirror>.insteadOf " + url
        return KitError(f"{url} cannot be reached: {error.said}", hint)
    return error


# What git says where the other side does not answer as it should.
AWAY = (
    "resolve host|unable to access|not found|does not (exist|appear)|timed out|refused|early EOF|RPC failed|hung up|"
    "disconnect|Connection|Could not read from remote|unable to connect|index-pack failed|Broken pipe|dumb http"
)


def damaged(entry: Path, error: git.GitError) -> git.GitError:
    """What git says of an entry that is not whole, and the folder to remove: it is fetched again."""
    if not error.hint:
        error.message = f"the cache is damaged: {error.said} ({entry})"
        error.hint = _anew(entry)
    return error


def _anew(entry: Path) -> str:
    return f"remove it, it is fetched again: rm -r {quote(str(entry))}"


@functools.cache  # what a commit holds stays so; one command asks for it up to five times
def _listing(repository: Path, commit: str) -> dict[str, tuple[str, str]]:
    entries = git.run("ls-tree", "-r", "-z", "--full-tree", commit, at=repository).split(b"\0")
    listing = {}
    for entry in filter(None, entries):
        meta, _, path = entry.partition(b"\t")
        mode, _, id = meta.decode().split()
        listing[path.decode("utf-8", "surrogateescape")] = (mode, id)
    return listing


@functools.cache
def _seconds(repository: Path, commit: str) -> str:
    return git.text("log", "-1", "--format=%ct", commit, at=repository)


def _import_archive(upstream: Upstream, url: str, staging: Path) -> None:
    """Commit the files of a released source package."""
    from kit import archive

    with output.progress(f"fetching {upstream.name} {upstream.version}".rstrip()) as update:
        content = archive.fetch(url, upstream.sha256, update)
    _import(upstream, archive.files(content, url), url, staging)


def _import_folder(upstream: Upstream, folder: Path, staging: Path) -> None:
    """Commit a folder the recipe carries."""
    if not folder.is_dir():
        raise KitError(f"the carried upstream {folder} does not exist", "check `url` in the recipe")
    contents = {
        tree_path(file.relative_to(folder).as_posix(), str(file)): (
            0o100755 if is_executable(file) else 0o100644,
            file.read_bytes(),
        )
        for file in regular_files(folder)
    }
    _import(upstream, contents, str(folder), staging)


def _import(upstream: Upstream, files: dict[TreePath, tuple[int, bytes]], origin: str, staging: Path) -> None:
    """Commit ``files``, with fixed author and date: the same id everywhere, and the pin."""
    stream = fast_import([Commit(f"{upstream.name}\n", files)], None, _DATE)
    git.run("fast-import", "--quiet", "--force", stdin=stream, at=staging)
    made = git.text("rev-parse", "refs/heads/kit", at=staging)
    if made != upstream.pin:
        raise KitError(f"{origin}: its files make commit {made}, the recipe pins {upstream.pin}", f'pin = "{made}"')


def is_executable(file: Path) -> bool:
    """Whether a file has its owner's run bit."""
    return bool(file.stat().st_mode & stat.S_IXUSR)


@dataclass(frozen=True)
class Commit:
    """A commit to be made: its message and the files it writes, as (mode, content)."""

    message: str
    files: dict[TreePath, tuple[int, bytes]]


def fast_import(commits: Iterable[Commit], base: str | None, date: str) -> bytes:
    """The stream that makes ``commits`` on ``base``, on branch `kit`: `git fast-import` reads it in one process."""
    stream: list[bytes] = []
    for number, commit in enumerate(commits, 1):
        message = commit.message.encode()
        stream += [b"commit refs/heads/kit\nmark :%d\n" % number]
        stream += [f"author {_IDENTITY} {date}\ncommitter {_IDENTITY} {date}\n".encode()]
        stream += [b"data %d\n" % len(message), message, b"\n"]
        if number == 1 and base:
            stream += [f"from {base}\n".encode()]
        for path, (mode, content) in commit.files.items():
            stream += [b"M %o inline %s\ndata %d\n" % (mode, path.encode(), len(content)), content, b"\n"]
        stream += [b"\n"]
    return b"".join([*stream, b"done\n"])
