"""Words that are safe to give to git and the file system: a relative path that cannot leave its tree, a name, an id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NewType

from kit.errors import KitError

TreePath = NewType("TreePath", str)
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")  # of a recipe, an upstream, a fix: it becomes a file or a folder
ID = re.compile(r"[0-9a-f]{40}")  # git's, of a commit, a tree or a blob


def tree_path(text: str, where: str = "path") -> TreePath:
    """Check that ``text`` is a plain relative POSIX path, and return it as such.

    Refused, with ``where`` named in the message: empty, absolute, with ``..``, ``.`` or empty parts, a backslash, a
    control character or a colon-drive, and anything inside a ``.git`` (whatever its case: some file systems fold it).
    Raises KitError.
    """
    parts = text.split("/")
    if not text:
        problem = "is empty"
    elif text.startswith("/"):
        problem = "is absolute"
    elif "\\" in text or any(ord(character) < 32 or ord(character) == 127 for character in text):
        problem = "has a backslash or a control character"
    elif not text.isascii() and text != text.encode("utf-8", "replace").decode("utf-8"):
        problem = "is not UTF-8"
    elif any(len(part.encode("utf-8")) > 255 for part in parts):
        problem = "has a part of more than 255 bytes"
    elif any(part in ("", ".", "..") for part in parts):
        problem = "has an empty, '.' or '..' part"
    elif any(part.lower().rstrip(". ") in (".git", "git~1") for part in parts):
        problem = "is inside .git"
    elif len(parts[0]) == 2 and parts[0][1] == ":":
        problem = "names a drive"
    else:
        return TreePath(text)
    raise KitError(f"{where}: {text!r} {problem}", "use a plain path relative to the tree, such as src/module.py")


def no_link(path: Path, below: Path) -> None:
    """Raise KitError where ``path``, or a folder on the way to it from ``below``, is a symbolic link."""
    for part in (path, *path.parents):
        if part == below:
            break
        if part.is_symlink():
            raise KitError(f"{part}: a symbolic link", "a recipe holds regular files only: copy the file itself")


def regular_files(folder: Path) -> list[Path]:
    """The files of a folder that comes with a recipe, sorted; `__pycache__` is left out.

    Raises KitError where the folder, or anything in it, is a symbolic link, and for what is no regular file.
    """
    no_link(folder, folder.parent)
    found = []
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        no_link(path, folder)
        if not path.is_file():
            raise KitError(f"{path}: not a regular file", "a recipe holds regular files only: copy the file itself")
        found.append(path)
    return found
