"""`kit patch-env`: an environment's packages patched where they are, twice, and put back; what it refuses."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import TRAIN, Done, Root, snapshot, write

Kit = Callable[..., Done]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that has the package `examples` 1.0, as the tiny upstream has it."""
    site = write(tmp_path / "site", {"examples/train.py": TRAIN, "examples-1.0.dist-info/METADATA": metadata("1.0")})
    wrapper = f'#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH={site} exec {sys.executable} "$@"\n'
    return write(tmp_path / "bin", {"python*": wrapper}) / "python"


def metadata(version: str) -> str:
    return f"Metadata-Version: 2.1\nName: examples\nVersion: {version}\n"


@pytest.fixture
def recipe(root: Root) -> Path:
    return root.recipe(upstream={"package": "examples", "version": "v1.0"})


def test_patched_once_and_put_back(kit: Kit, recipe: Path, python: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    before = snapshot(site)
    done = kit("patch-env", python, "--recipe", recipe)
    assert done.status == 0, done.err
    words = [line.split()[0] for line in done.out.splitlines()]
    assert words == ["patched", "added", "added", "next:"]
    assert "if weights:" in (site / "examples/train.py").read_text()
    patched = snapshot(site)
    assert "already patched: nothing to do" in kit("patch-env", python, "--recipe", recipe).out
    assert snapshot(site) == patched
    assert "put back: 3" in kit("patch-env", python, "--recipe", recipe, "--restore").out
    assert snapshot(site) == before
    assert kit("patch-env", python, "--recipe", recipe, "--restore").out == "nothing was patched here\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"examples-1.0.dist-info/METADATA": metadata("1.1")},
            "examples 1.1 is installed, the fixes are for 1.0\n  pip install examples==1.0",
        ),
        ({"examples/train.py": "mine\n"}, "train.py:1: is not the file of that release: it would be overwritten"),
        ({"examples/helper.py": "mine\n"}, "helper.py:1: is there already: it would be overwritten"),
    ],
    ids=["another version", "another file", "a file in the way"],
)
def test_refused_before_anything_is_written(
    files: dict[str, str], said: str, kit: Kit, recipe: Path, python: Path, tmp_path: Path
) -> None:
    before = snapshot(write(tmp_path / "site", files))
    done = kit("patch-env", python, "--recipe", recipe)
    assert done.status == 1
    assert said in done.err
    assert snapshot(tmp_path / "site") == before


def test_a_package_that_is_not_there(kit: Kit, recipe: Path, python: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "site/examples-1.0.dist-info")
    done = kit("patch-env", python, "--recipe", recipe)
    said = [f"kit: error: {python} has no examples", f"  {python} -m pip install examples==1.0"]
    assert (done.status, done.err.splitlines()) == (1, said)


def test_a_recipe_without_packages(kit: Kit, root: Root, python: Path) -> None:
    done = kit("patch-env", python, "--recipe", root.recipe())
    assert done.status == 1 and "patches no installed package" in done.err
