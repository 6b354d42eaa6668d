"""`kit doctor RECIPE --device DEVICE`: what the recipe it is asked about needs, and which toolkit goes with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import write

from kit import devices, recipes

Kit = Callable[..., Any]
TORCH_NPU = devices.load("npu").toolkit_releases


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``python(torch="2.7.1", …)``: put a Python first on PATH that has these packages and no others."""

    def have(version: str = "", **packages: str) -> None:
        for name, number in packages.items():
            files = {f"{name}-{number}.dist-info/METADATA": f"Name: {name}\nVersion: {number}\n", f"{name}.py": ""}
            write(tmp_path / "modules", files)
        said = f's/^\\["[0-9.]*"/["{version}"/' if version else ""
        script = f"PYTHONPATH={tmp_path}/modules {sys.executable} -S \"$@\" | sed '{said}'\n"
        write(tmp_path / "bin", {"python3*": f"#!/bin/sh\n{script}"})
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")

    return have


@pytest.fixture
def cann(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Path]:
    """``cann("8.5.0", "Ascend/cann")``: install a toolkit of a release in a folder of HOME."""

    def install(release: str, folder: str) -> Path:
        home = tmp_path / "home"
        below = "latest/" if "toolkit" in folder else ""
        info = f"{folder}/{below}aarch64-linux/ascend_toolkit_install.info"
        write(home, {f"{folder}/set_env.sh": "", info: f"package_name=Ascend-cann-toolkit\nversion={release}\n"})
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
        return home / folder

    return install


def findings(kit: Kit, *words: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in kit("doctor", *words, "--json").json["findings"]}


def test_it_speaks_for_the_recipe(kit: Kit, python: Callable[..., None]) -> None:
    """sd3's Python, torch, torch_npu and packages, not the profile's."""
    python("3.9.18", torch="2.7.1", accelerate="0.33.0", peft="0.9.0")
    seen = findings(kit, "sd3", "--device", "npu")
    assert not seen["Python of the recipe"]["found"] and "sd3's is 3.10" in seen["Python of the recipe"]["detail"]
    assert seen["torch package"]["detail"].endswith("torch.py, version 2.7.1, not 2.1.0")
    assert "pip install 'torch_npu==2.1.0.post17'" in seen["torch_npu package"]["advice"]
    lacks = seen["packages of sd3"]
    assert "peft 0.9.0" in lacks["detail"] and "accelerate" not in lacks["detail"]
    assert "'peft==0.14.0'" in lacks["advice"]


def test_what_is_there_is_found(kit: Kit, python: Callable[..., None]) -> None:
    """A local version is that version (2.1.0+cpu), and what the toolkit imports is looked for by itself."""
    found = recipes.load("sd-lora").environment
    packages = {name.replace("-", "_"): version or "1.0" for name, version in found.packages.items()}
    python(f"{found.python}.18", **{**packages, "torch": "2.1.0+cpu", "torch_npu": "2.1.0.post12", "psutil": "7.0"})
    seen = findings(kit, "sd-lora", "--device", "npu")
    for name in ("Python of the recipe", "torch package", "torch_npu package", "packages of sd-lora"):
        assert seen[name]["found"], seen[name]
    imports = seen["what CANN imports"]
    assert imports["detail"] == ", ".join(
        f"{name} not there" for name in ("attrs", "cloudpickle", "decorator", "scipy")
    )
    assert imports["advice"].endswith("pip install attrs cloudpickle decorator scipy")
    assert not [name for name in findings(kit, "sd-lora", "--device", "cpu") if "CANN" in name]


@pytest.mark.parametrize(
    ("release", "folder", "has", "found", "advice"),
    [
        ("8.3.RC1", "Ascend/ascend-toolkit", "2.7.1", True, ""),
        ("8.5.0", "Ascend/cann", "2.7.1", False, "install CANN 8.3.RC1, or with the one that is here: pip install"),
        ("8.5.0", "Ascend/cann", "2.7.1.post2", True, "'torch_npu==2.7.1.post2'"),
        ("8.1.RC1", "Ascend/ascend-toolkit", "2.7.1", False, "(for 8.1.RC1 there is no torch_npu 2.7.1, but 2.5.1, "),
    ],
)
def test_the_toolkit_is_the_one_that_the_package_is_for(
    release: str,
    folder: str,
    has: str,
    found: bool,
    advice: str,
    kit: Kit,
    python: Callable[..., None],
    cann: Callable[[str, str], Path],
) -> None:
    place = cann(release, folder)
    python("3.10.13", torch="2.7.1", torch_npu=has)
    seen = findings(kit, "hidream", "--device", "npu")
    assert seen["toolkit"]["detail"] == str(place / "set_env.sh")
    pairing = seen["torch_npu and CANN"]
    assert pairing["detail"] == (
        f"torch_npu 2.7.1, as the requirements have it, is for CANN 8.3.RC1; here: torch_npu {has}, CANN {release}"
    )
    assert pairing["found"] is found and advice in pairing["advice"]
    assert seen["torch_npu package"]["found"]


def test_without_a_toolkit_the_pair_is_named(kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pairing = findings(kit, "sdxl", "--device", "npu", "--set", "torch=1.11.0")["torch_npu and CANN"]
    assert "torch_npu 1.11.0.post14, as the requirements have it, is for CANN 8.0.RC2" in pairing["detail"]
    assert not pairing["needed"]
    told = findings(kit, "sdxl", "--device", "npu", "--set", "torch=1.11.0")["torch_npu package"]["advice"]
    assert "on no registry" in told and "https://" in told


def test_every_pin_of_torch_npu_has_a_known_toolkit() -> None:
    for name in recipes.names():
        found = recipes.load(name)
        for torch in ("", *found.environment.other) if "npu" in found.devices else ():
            pin = found.at("npu", {"torch": torch}).device("npu").packages["torch_npu"]
            assert pin in TORCH_NPU, f"{name}: torch_npu {pin}"


def test_a_recipe_is_asked_about_with_a_device(kit: Kit) -> None:
    assert "which device? sd3 supports npu, cuda, cpu\n  kit doctor sd3 --device npu" in kit("doctor", "sd3").err
    assert "--set is for a recipe" in kit("doctor", "--device", "npu", "--set", "torch=2.1.0").err
    assert "does not support device 'mps'" in kit("doctor", "sd3", "--device", "mps").err


def test_the_network_card(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that leads to machine 0, and what is set of it."""
    for name, value in {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HCCL_IF_IP", "10.0.0.1")
    seen = findings(kit, "--device", "npu")["network card"]
    assert seen["detail"] == "lo; on several machines a launch script sets GLOO_SOCKET_IFNAME=lo HCCL_SOCKET_IFNAME==lo"
    monkeypatch.setenv("MASTER_ADDR", "no.such.host.example")
    seen = findings(kit, "--device", "npu")["network card"]
    assert not seen["found"] and not seen["needed"]
