"""These tests need the real upstreams. Where those cannot be reached they are skipped, saying why; once an upstream
answers, whatever fails is a failure.

git's real configuration is used (mirrors, proxies), and a cache of the tests' own: everything is fetched once a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache, shared by the tests of a module."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(place))
        yield place


@pytest.fixture(scope="module")
def once() -> Callable[..., Any]:
    """``once(key, make)``: what ``make()`` returned the first time."""
    made: dict[Any, Any] = {}

    def get(key: Any, make: Callable[[], Any]) -> Any:
        if key not in made:
            made[key] = make()
        return made[key]

    return get
