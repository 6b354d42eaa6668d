"""These tests need the real upstreams. Where those cannot be reached they are skipped, saying why; once an upstream
answers, whatever fails is a failure.

git's real configuration is used (mirrors, proxies), and a cache of the tests' own: everything is fetched once a run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, UV


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache, shared by the tests of a module."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(place))
        yield place


@pytest.fixture(scope="module")
def installed(package_index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `kit` of an environment that has only the wheel."""
    place = tmp_path_factory.mktemp("wheel")
    leftovers = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")  # of another build, or one at work
    shutil.copytree(REPOSITORY, place / "source", ignore=leftovers)
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", place / "dist", place / "source"], check=True)
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, place / "env"], check=True)
    (wheel,) = (place / "dist").glob("*.whl")
    subprocess.run([UV, "pip", "install", "--quiet", "--python", place / "env/bin/python", wheel], check=True)
    return place / "env" / "bin" / "kit"


@pytest.fixture(scope="module")
def once() -> Callable[..., Any]:
    """``once(key, make)``: what ``make()`` returned the first time."""
    made: dict[Any, Any] = {}

    def get(key: Any, make: Callable[[], Any]) -> Any:
        if key not in made:
            made[key] = make()
        return made[key]

    return get
