"""A wheel carries recipes, patches and overlays, and makes the same commit as the checkout does. An sdist has all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from support import REPOSITORY, UV


def commit(kit: Path, folder: Path) -> str:
    """The commit that `kit prepare demo` makes, in a HOME without anything; the workspace is verified too."""
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "KIT_CACHE": str(folder / "cache")}
    command = [kit, "prepare", "demo", "--device", "npu", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    subprocess.run([kit, "verify"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    made: str = json.loads(done.stdout)["upstreams"]["demo"]["commit"]
    return made


def test_a_wheel_is_whole(installed: Path, tmp_path: Path) -> None:
    assert commit(installed, tmp_path / "wheel") == commit(Path(sys.executable).with_name("kit"), tmp_path / "checkout")


def test_it_carries_every_file(installed: Path) -> None:
    """What git has in these folders is in the wheel, run bits included."""
    (data,) = (installed.parents[1] / "lib").glob("python*/site-packages/kit")
    folders = {"recipes": "_data/recipes", "patches": "_data/patches", "overlays": "_data/overlays"}
    folders |= {"kit/profiles": "profiles", "kit/smoke": "smoke"}
    for source, target in folders.items():
        listed = subprocess.run(
            ["git", "ls-files", "-s", source], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        for line in listed.stdout.splitlines():
            mode, _, _, path = line.split(maxsplit=3)
            file = data / target / Path(path).relative_to(source)
            assert file.is_file(), path
            assert bool(file.stat().st_mode & 0o100) == (mode == "100755"), path


def test_an_sdist_has_what_git_has(package_index: None, tmp_path: Path) -> None:
    subprocess.run([UV, "build", "--quiet", "--sdist", "--out-dir", tmp_path, REPOSITORY], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(listed.stdout.split()) - packed
