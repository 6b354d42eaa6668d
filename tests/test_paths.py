"""Paths that cannot leave the tree."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import KitError
from kit.paths import tree_path

GOOD = ["a", "a/b.py", ".gitignore", "a/.github/x", "...", "a b/c", "ä/ß.py", ".gitmodules", "-x", "ab:/c"]
BAD = {
    "": "is empty",
    "/a": "is absolute",
    "a\\b": "has a backslash or a control character",
    "a\nb": "has a backslash or a control character",
    "a\0": "has a backslash or a control character",
    "a\x7f": "has a backslash or a control character",
    "..": "has an empty, '.' or '..' part",
    "a/../b": "has an empty, '.' or '..' part",
    "./a": "has an empty, '.' or '..' part",
    "a//b": "has an empty, '.' or '..' part",
    "a/": "has an empty, '.' or '..' part",
    ".git": "is inside .git",
    "a/.git/hooks/x": "is inside .git",
    ".GiT/config": "is inside .git",
    ".git. /config": "is inside .git",
    "GIT~1/config": "is inside .git",
    "c:/windows": "names a drive",
    "a\udcff": "is not UTF-8",
    "a/" + "b" * 256: "has a part of more than 255 bytes",
    "é" * 128: "has a part of more than 255 bytes",
}


@pytest.mark.parametrize("path", GOOD)
def test_accepted(path: str) -> None:
    assert tree_path(path) == path


@pytest.mark.parametrize(("path", "problem"), BAD.items())
def test_refused(path: str, problem: str) -> None:
    with pytest.raises(KitError) as refused:
        tree_path(path, "recipe.toml:3: fix")
    hint = "use a plain path relative to the tree, such as src/module.py"
    assert str(refused.value) == f"recipe.toml:3: fix: {path!r} {problem}\n  {hint}"


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["..", ".", "", "a", ".git", "b.py", "/", "\\"]), max_size=5).map("/".join) | st.text())
def test_what_is_accepted_stays_in_the_tree(path: str) -> None:
    try:
        accepted = tree_path(path)
    except KitError:
        return
    assert posixpath.normpath(posixpath.join("/tree", accepted)) == f"/tree/{path}"
