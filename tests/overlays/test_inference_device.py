"""overlays/shared/inference.py: which device it takes, and what it says of one that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from launching import OVERLAYS

TORCH = "class npu:\n    is_available = staticmethod(lambda: True)\n"
LACKS_HCCL = "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')\n"
# What torch makes of it as it loads the packages of devices (torch/__init__.py, _import_device_backends, 2.5).
AUTOLOAD = f"""
try:
    exec({LACKS_HCCL!r})
except ImportError as error:
    raise RuntimeError("Failed to load the backend extension: torch_npu.") from error
"""


def choose(name: str, modules: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What choose_device says where these modules are all there is."""
    for module, text in modules.items():
        (tmp_path / f"{module}.py").write_text(text)
    code = f"from inference import choose_device, give_up, Mistake\ntry:\n    print(choose_device({name!r}))\n"
    code += "except Mistake as mistake:\n    give_up(str(mistake))\n"
    path = f"{tmp_path}:{OVERLAYS / 'shared'}"
    env = {"PYTHONPATH": path, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "modules", "chosen"),
    [
        ("npu", {"torch": TORCH, "torch_npu": ""}, "npu"),
        ("auto", {"torch": TORCH, "torch_npu": ""}, "npu"),
        ("auto", {"torch": ""}, "cpu"),
        ("cpu", {}, "cpu"),
    ],
)
def test_the_device(name: str, modules: dict[str, str], chosen: str, tmp_path: Path) -> None:
    done = choose(name, modules, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{chosen}\n", "")


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({}, "torch cannot be imported: activate the environment first"),
        ({"torch": ""}, "--device npu: torch finds no such device here: install its package, or give --device auto"),
        (
            {"torch": "", "torch_npu": LACKS_HCCL},
            "--device npu: torch_npu cannot be loaded: libhccl.so: cannot open shared "
            "object file: No such file or directory: set up the device's toolkit first: source …/set_env.sh",
        ),
        (
            {"torch": AUTOLOAD},
            "--device npu: torch cannot be loaded: libhccl.so: cannot open shared object file: No such "
            "file or directory: set up the device's toolkit first: source …/set_env.sh",
        ),
    ],
)
def test_the_reason_is_the_first_one(modules: dict[str, str], said: str, tmp_path: Path) -> None:
    done = choose("npu", modules, tmp_path)
    assert (done.returncode, done.stderr) == (2, f"-c: error: {said}\n")


@pytest.mark.parametrize("place", ["Ascend/cann", "Ascend/ascend-toolkit"])
def test_the_toolkit_that_is_there_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "set_env.sh").touch()
    done = choose("npu", {"torch": "", "torch_npu": LACKS_HCCL}, tmp_path)
    assert done.stderr.endswith(f"source {tmp_path / place}/set_env.sh\n")
