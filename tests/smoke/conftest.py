"""Prepared workspaces and their reference environments, from the real upstreams.

They are kept between runs, in a cache of the tests' own: an environment takes a minute to install, and DeepSpeed's CPU
communication another one to compile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import platformdirs
import pytest

from kit import environment, planning, recipes, workspace


@pytest.fixture(scope="package", autouse=True)
def cache() -> Iterator[Path]:
    """The cache of these tests."""
    place = Path(platformdirs.user_cache_dir("kit-tests"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(place))
        yield place


@pytest.fixture(scope="package")
def prepared(cache: Path, reach: Callable[[str], None]) -> Callable[..., Path]:
    """``prepared(recipe, device, *extras)``: a workspace as `kit prepare` makes it. Skips where its upstreams do not
    answer. With and without extra fixes it is at one place, where it has one environment."""

    def prepare(name: str, device_name: str, *extras: str) -> Path:
        found = recipes.load(name).having(extras)
        for upstream in found.upstream:
            reach(upstream.url)
        device = found.device(device_name)
        place = cache / "workspaces" / f"{name}-{device_name}"
        plan = planning.plan(found, device, planning.cluster_of(found, device))
        _, backup, _ = workspace.prepare(plan, place, force=True)
        if backup:  # a run that was killed had broken it
            shutil.rmtree(backup)
        return place

    return prepare


@pytest.fixture(scope="package")
def installed(cache: Path) -> Callable[[str, str, Sequence[str]], Path]:
    """``installed(name, version, packages)``: the Python, of that version, of an environment with these packages."""

    def install(name: str, version: str, packages: Sequence[str]) -> Path:
        place = cache / "environments" / name
        mark, wanted = place / "packages", "\n".join(packages)
        if not mark.is_file() or mark.read_text() != wanted:
            shutil.rmtree(place, ignore_errors=True)
            environment.uv("venv", "--quiet", "--python", environment.find_python(version), place)
            environment.uv("pip", "install", "--quiet", "--python", place / "bin" / "python", *packages)
            mark.write_text(wanted)
        return place / "bin" / "python"

    return install


@pytest.fixture(scope="package")
def hidream_workspace(prepared: Callable[[str, str], Path]) -> Path:
    return prepared("hidream", "cpu")


@pytest.fixture(scope="package")
def hidream_tree(hidream_workspace: Path) -> Path:
    """The folder of the training script and the overlay."""
    return hidream_workspace / "diffusers" / "examples" / "dreambooth"


@pytest.fixture(scope="package")
def hidream_env(hidream_workspace: Path) -> Path:
    """The Python of the recipe's reference environment, with that workspace's diffusers editable."""
    found = recipes.load("hidream")
    return environment.ensure(found, found.device("cpu"), hidream_workspace).python


@pytest.fixture(scope="module")
def machines() -> Iterator[list[list[str]]]:
    """Two network namespaces with a wire between them: the words to put before a command that runs in each."""
    names, ip = [f"kit{os.getpid()}a", f"kit{os.getpid()}b"], shutil.which("ip")
    if not ip or subprocess.run([ip, "netns", "add", names[0]], capture_output=True).returncode:
        pytest.skip("network namespaces need ip (iproute2) and root")
    try:
        for line in (
            f"netns add {names[1]}",
            f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}",
            *(f"-n {name} addr add 10.99.0.{number}/24 dev eth0" for number, name in enumerate(names, 1)),
            *(f"-n {name} link set {link} up" for name in names for link in ("lo", "eth0")),
        ):
            subprocess.run([ip, *line.split()], check=True)
        yield [[ip, "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True)
