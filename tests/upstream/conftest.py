"""These tests need the real upstreams. Where those cannot be reached they are skipped, saying why; once an upstream
answers, whatever fails is a failure.

git's real configuration is used (mirrors, proxies), and a cache of the tests' own: everything is fetched once a run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

REACH_SECONDS = 30


@pytest.fixture(scope="session")
def reach(real_environment: Mapping[str, str]) -> Callable[[str], None]:
    """Skip the test unless the repository at a URL answers; each is asked once."""
    asked: dict[str, str] = {}

    def ask(url: str) -> str:
        environment = {**real_environment, "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", "ls-remote", "--exit-code", url, "HEAD"]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=REACH_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer within {REACH_SECONDS} s"
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it has no HEAD"])[-1]

    def reach(url: str) -> None:
        if url not in asked:
            asked[url] = ask(url)
        if asked[url]:
            pytest.skip(f"{url} cannot be reached: {asked[url]}")

    return reach


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
