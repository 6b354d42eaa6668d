"""A released source package (an sdist): fetched over https, held against its digest, read without unpacking to disk."""

from __future__ import annotations

import bz2
import hashlib
import http.client
import io
import lzma
import re
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.git import Progress
from kit.paths import TreePath, tree_path

_SECONDS = 60  # without an answer
_PACKED = 64 << 20  # bytes of an archive, and of xz's memory, at most: no sdist of a recipe has a tenth of it
_UNPACKED = 256 << 20  # and of what it holds
_RATIO = 100  # times as long as the archive, where that is more than a megabyte: source text packs to a tenth
_METADATA = re.compile(r"(^|/)[^/]*\.egg-info/")  # what packaging adds; an editable install writes it anew


def fetch(url: str, sha256: str, progress: Progress) -> bytes:
    """The archive at ``url``, an https address or a local path, whose digest is ``sha256`` (64 hex digits).

    Raises KitError where it cannot be had, and where what came is another file.
    """
    try:
        content = _read_local(Path(url)) if url.startswith("/") else _download(url, progress)
    except urllib.error.HTTPError as error:
        raise KitError(f"{url} cannot be had: {error.code} {error.reason}", "check `url` in the recipe") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        hint = "check the network, or list where else the archive is under `alternates` in the recipe"
        raise KitError(f"{url} cannot be reached: {reason}", hint) from None
    if len(content) > _PACKED:
        raise KitError(f"{url} is longer than {_PACKED} bytes", "kit takes source packages: check `url` in the recipe")
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        hint = "compare with the digest its publisher gives; an archive that was released does not change"
        raise KitError(f"{url}: its sha256 is {found}, the recipe says {sha256}", hint)
    return content


def _read_local(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_PACKED + 1)


def _download(url: str, progress: Progress) -> bytes:
    opener = urllib.request.OpenerDirector()  # with no handler for http: a redirect cannot leave https
    for handler in _HANDLERS:
        opener.add_handler(handler())
    parts, done = [], 0
    with opener.open(url, timeout=_SECONDS) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        while done <= _PACKED and (part := answer.read(1 << 16)):
            parts.append(part)
            done += len(part)
            progress(done, max(total, done))
    return b"".join(parts)


_HANDLERS: tuple[Callable[[], urllib.request.BaseHandler], ...] = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def files(content: bytes, name: str) -> dict[TreePath, tuple[int, bytes]]:
    """The files of an archive, by their path below its one top folder, each as (git mode, content).

    The metadata that packaging adds (`*.egg-info`) is left out. Raises KitError, naming the archive as ``name``, for
    what is no archive, for a path that leaves the tree, and for links and special files.
    """
    found: dict[TreePath, tuple[int, bytes]] = {}
    tops = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(_unpacked(content, name)), mode="r:") as archive:
            for member in archive:
                path = tree_path(member.name.rstrip("/"), name)
                top, _, below = path.partition("/")
                tops.add(top)
                if member.isdir() or _METADATA.search(below):
                    continue
                reader = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                if not reader:
                    raise KitError(f"{name}: {path} is a link or a special file", "kit takes regular files only")
                found[TreePath(below)] = (0o100755 if member.mode & 0o100 else 0o100644, reader.read())
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise KitError(f"{name} is no tar archive: {error}", "check `url` in the recipe") from None
    if len(tops) != 1 or not found or "" in found:
        shown = ", ".join(sorted(tops)[:3]) or "nothing"
        raise KitError(f"{name} is not one folder of files: {shown} is in it", "kit takes archives as sdists are")
    return found


def _unpacked(content: bytes, name: str) -> bytes:
    """The tar in an archive, by its first bytes. Raises KitError where it grows to more than the limits."""
    limit = min(_UNPACKED, max(1 << 20, int(_RATIO * len(content))))
    openers: dict[bytes, Callable[[], Any]] = {
        b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
        b"BZh": bz2.BZ2Decompressor,
        b"\xfd7zXZ": lambda: lzma.LZMADecompressor(memlimit=2 * _PACKED),
    }
    opener = next((opener for magic, opener in openers.items() if content.startswith(magic)), None)
    made = opener().decompress(content, limit + 1) if opener else content
    if len(made) > limit:
        raise KitError(f"{name} grows to more than {limit} bytes when it is unpacked", "check `url` in the recipe")
    return bytes(made)
