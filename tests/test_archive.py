"""A released source package as an upstream: exactly the file with that digest, and nothing in it that is not a file."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import TRAIN, Done, Root, write

from kit import archive, recipes, store
from kit.errors import KitError

Kit = Callable[..., Done]
NAME = "up-1.0.tar.gz"
FILES = {
    "up-1.0/examples/train.py": TRAIN.encode(),
    "up-1.0/tool.sh*": b"#!/bin/sh\n",
    "up-1.0/PKG-INFO": b"Name: up\n",
    "up-1.0/src/up.egg-info/SOURCES.txt": b"tool.sh\n",
}


def member(name: str, **attributes: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(entry, key, value)
    return entry


def pack(files: Mapping[str, bytes], *more: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """An archive of ``files`` (a name that ends in `*` gets the run bit), and ``more`` members without content."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as made:  # type: ignore[call-overload]
        made.addfile(member("up-1.0", type=tarfile.DIRTYPE))
        for name, content in files.items():
            run = 0o111 * name.endswith("*")
            made.addfile(member(name.removesuffix("*"), size=len(content), mode=0o644 | run), io.BytesIO(content))
        for entry in more:
            made.addfile(entry)
    return target.getvalue()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_files(mode: str) -> None:
    """Below the one top folder, run bits kept; the metadata of packaging is left out, for an install writes it."""
    assert archive.files(pack(FILES, mode=mode), NAME) == {
        "examples/train.py": (0o100644, TRAIN.encode()),
        "tool.sh": (0o100755, b"#!/bin/sh\n"),
        "PKG-INFO": (0o100644, b"Name: up\n"),
    }


LINK, HARD, DEVICE, FIFO = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
SPECIAL = "up-1.0/x is a link or a special file\n  kit takes regular files only"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pack({"../up": b""}), "'../up' has an empty, '.' or '..' part"),
        (pack({"up-1.0/../../up": b""}), "has an empty, '.' or '..' part"),
        (pack({"/etc/up": b""}), "'/etc/up' is absolute"),
        (pack({"up-1.0/.git/config": b""}), "is inside .git"),
        (pack({"up-1.0/a\\b": b""}), "has a backslash"),
        (pack(FILES, member("up-1.0/x", type=LINK, linkname="/etc/passwd")), SPECIAL),
        (pack(FILES, member("up-1.0/x", type=LINK, linkname="tool.sh")), SPECIAL),
        (pack(FILES, member("up-1.0/x", type=HARD, linkname="../../x")), SPECIAL),
        (pack(FILES, member("up-1.0/x", type=DEVICE)), SPECIAL),
        (pack(FILES, member("up-1.0/x", type=FIFO)), SPECIAL),
        (pack({**FILES, "other/file": b""}), "is not one folder of files: other, up-1.0 is in it"),
        (pack({**FILES, "up-1.0": b""}), "is not one folder of files: up-1.0 is in it"),
        (pack({}), "is not one folder of files: up-1.0 is in it"),
        (b"<html>sign in</html>", "is no tar archive: "),
        (pack({**FILES, "up-1.0/large": bytes(range(256)) * 99})[:300], "is no tar archive: "),
        (b"", "is no tar archive: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # packed, a file differs from one second to the next
)
def test_refused(content: bytes, words: str) -> None:
    with pytest.raises(KitError) as refused:
        archive.files(content, NAME)
    assert words in str(refused.value) and str(refused.value).startswith(NAME)


def packaged(root: Root, content: bytes, pin: str = "0" * 40, sha256: str = "", **upstream: Any) -> Path:
    """The recipe `tiny` on an archive of ``content``, which it names by path."""
    file = root.place / NAME
    file.write_bytes(content)
    digest = sha256 or hashlib.sha256(content).hexdigest()
    return root.recipe(upstream={"url": str(file), "pin": pin, "sha256": digest, **upstream})


@pytest.fixture
def pinned(root: Root, kit: Kit) -> Path:
    """A recipe with the pin that kit named when it was wrong."""
    done = kit("prepare", packaged(root, pack(FILES)), "--device", "cpu")
    found = re.fullmatch(
        rf"kit: error: .*/{NAME}: its files make commit ([0-9a-f]{{40}}), the recipe pins 0{{40}}\n  pin = \"\1\"\n",
        done.err,
    )
    assert done.status == 1 and found
    return packaged(root, pack(FILES), found[1])


def test_the_same_commit_from_the_same_archive(root: Root, kit: Kit, pinned: Path) -> None:
    """The pin is in the recipe, so that a second machine (an empty cache) has the commit or refuses; afterwards the
    workspace is one like any other, and the archive is not asked for again."""
    root.refresh()
    done = kit("prepare", pinned, "--device", "cpu", "made", "--json")
    assert done.status == 0, done.err
    assert kit("verify", "made").status == 0
    assert Path("made/up/tool.sh").stat().st_mode & 0o100
    assert not list(Path("made").rglob("*.egg-info"))
    for junk in ("__pycache__/train.pyc", "src/up.egg-info/SOURCES.txt"):  # a released package has no .gitignore
        write(Path("made/up"), {junk: b"\0"})
    assert kit("diff", "--local", "made").out == "" and kit("verify", "made").status == 0
    (root.place / NAME).unlink()
    again = kit("prepare", pinned, "--device", "cpu", "again", "--offline", "--json")
    assert again.status == 0, again.err
    assert again.json["upstreams"]["up"]["commit"] == done.json["upstreams"]["up"]["commit"]
    assert store.ensure(recipes.parse(pinned).upstream[0], root.place).date() == "946684800 +0000"


def test_offline_and_not_cached(root: Root, kit: Kit) -> None:
    done = kit("prepare", packaged(root, pack(FILES)), "--device", "cpu", "--offline")
    assert done.status == 1 and "is not in the cache" in done.err


def test_another_file_than_the_recipes(root: Root, kit: Kit) -> None:
    done = kit("prepare", packaged(root, pack(FILES), sha256="0" * 64), "--device", "cpu")
    file, found = root.place / NAME, hashlib.sha256((root.place / NAME).read_bytes()).hexdigest()
    assert done.err.splitlines() == [
        f"kit: error: {file}: its sha256 is {found}, the recipe says {'0' * 64}",
        "  compare with the digest its publisher gives; an archive that was released does not change",
    ]


def test_alternates(root: Root, kit: Kit, pinned: Path) -> None:
    """Where an address fails, or gives another file, the next is asked; if none is left, all complaints are told."""
    root.refresh()
    right, wrong, gone = root.place / NAME, root.place / "wrong.tar.gz", root.place / "gone.tar.gz"
    wrong.write_bytes(b"<html>sign in</html>")
    pin = recipes.parse(pinned).upstream[0].pin
    shuffled = {"url": str(gone), "alternates": [str(wrong), str(right)]}
    path = packaged(root, pack(FILES), pin, **shuffled)
    assert kit("prepare", path, "--device", "cpu", "made").status == 0
    right.unlink()
    path = root.recipe(upstream={**root.table["upstream"][0], "pin": pin[::-1]})
    done = kit("prepare", path, "--device", "cpu", "other")
    assert done.status == 1
    assert f"{gone} cannot be reached: No such file" in done.err and f"{wrong}: its sha256 is" in done.err


def test_a_redirect_cannot_leave_https(monkeypatch: pytest.MonkeyPatch) -> None:
    def redirected(handler: urllib.request.HTTPSHandler, request: urllib.request.Request) -> Any:
        answer = urllib.response.addinfourl(io.BytesIO(), {"location": "http://example.invalid/up"}, request.full_url)
        answer.code, answer.msg = 302, "Found"  # type: ignore[attr-defined, assignment]
        return answer

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", redirected)
    with pytest.raises(KitError, match="cannot be reached: unknown url type: http"):
        archive.fetch("https://example.invalid/up-1.0.tar.gz", "0" * 64, lambda done, total: None)


def test_show_says_what_kind_it_is(root: Root, kit: Kit) -> None:
    path = packaged(root, pack(FILES))
    assert f"released source package, sha256 {recipes.parse(path).upstream[0].sha256}" in kit("show", path).out
    assert json.loads(kit("show", path, "--json").out)["upstream"][0]["sha256"]


def bomb(mode: str) -> bytes:
    return pack({"up-1.0/zeros": bytes(3 << 20)}, mode=mode)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_an_archive_that_grows_without_end(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a limit is unpacked, and no more than so many times what was fetched."""
    with pytest.raises(KitError) as refused:
        archive.files(bomb(mode), NAME)
    assert refused.value.message == f"{NAME} grows to more than 1048576 bytes when it is unpacked"
    monkeypatch.setattr(archive, "_RATIO", 1e9)
    assert archive.files(bomb(mode), NAME)["zeros"] == (0o100644, bytes(3 << 20))  # type: ignore[index]
    monkeypatch.setattr(archive, "_UNPACKED", 1 << 21)
    with pytest.raises(KitError, match="grows to more than 2097152 bytes"):
        archive.files(bomb(mode), NAME)


def test_a_sparse_file() -> None:
    """A hole of a terabyte takes no place in an archive."""
    entry = member(
        "up-1.0/hole", size=0, pax_headers={"GNU.sparse.map": "1099511627776,0", "GNU.sparse.size": str(1 << 40)}
    )
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=tarfile.PAX_FORMAT) as made:
        made.addfile(entry)
    with pytest.raises(KitError, match="/hole is a link or a special file"):
        archive.files(target.getvalue(), NAME)


def test_an_archive_that_is_cut_off() -> None:
    whole = pack(FILES)
    for size in range(0, len(whole), 37):
        with pytest.raises(KitError, match=r"is (no tar archive|not one folder)"):
            archive.files(whole[:size], NAME)


def test_an_archive_that_is_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = pack(FILES)
    place = write(tmp_path, {NAME: content}) / NAME
    digest = hashlib.sha256(content).hexdigest()
    assert archive.fetch(str(place), digest, lambda done, total: None) == content
    monkeypatch.setattr(archive, "_PACKED", len(content) - 1)
    with pytest.raises(KitError, match=f"{place} is longer than {len(content) - 1} bytes"):
        archive.fetch(str(place), digest, lambda done, total: None)
