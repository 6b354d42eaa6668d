"""Prepared workspaces and their reference environments, built once a session from the real upstreams."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kit import environment, recipe, workspace


@pytest.fixture(scope="session")
def hidream_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe hidream, prepared for the CPU. Skips, with the reason, only where its upstream cannot be reached."""
    found = recipe.load("hidream")
    url = found.upstream[0].url
    asked = subprocess.run(["git", "ls-remote", "--exit-code", url, "HEAD"], capture_output=True, text=True, timeout=60)
    if asked.returncode:
        pytest.skip(f"{url} cannot be reached: {asked.stderr.strip()}")
    device = found.device("cpu")
    place = tmp_path_factory.mktemp("hidream") / "workspace"
    workspace.prepare(workspace.plan(found, device, workspace.cluster_of(found, device)), place)
    return place


@pytest.fixture(scope="session")
def hidream_tree(hidream_workspace: Path) -> Path:
    """The folder of the training script and the overlay."""
    return hidream_workspace / "diffusers" / "examples" / "dreambooth"


@pytest.fixture(scope="session")
def hidream_env(hidream_workspace: Path) -> Path:
    """The Python of the recipe's reference environment, with that workspace's diffusers editable."""
    found = recipe.load("hidream")
    return environment.ensure(found, found.device("cpu"), hidream_workspace).python
