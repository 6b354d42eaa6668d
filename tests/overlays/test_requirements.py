"""The requirements files of all recipes, which one template makes."""

from __future__ import annotations

import re

import pytest

from kit import overlay, planning, recipes

CANN = {"attrs", "cloudpickle", "decorator", "psutil", "scipy"}


def requirements(name: str, device: str, torch: str = "") -> str:
    found = recipes.load(name).at(device, {"torch": torch} if torch else None)
    its = found.device(device)
    context = planning.context(found, its, planning.cluster_of(found, its))
    base = found.root / "overlays"
    (source,) = (
        path.relative_to(base).as_posix()
        for part in found.overlay
        for path in (base / part.source).rglob("*requirements*.txt.j2")
    )
    return overlay.render_file((base,), source, context).decode()


def lines(text: str) -> list[str]:
    return [line.partition("#")[0].strip() for line in text.splitlines() if line.partition("#")[0].strip()]


@pytest.mark.parametrize("name", [name for name in recipes.names() if name != "demo"])
def test_on_an_npu_what_cann_imports_is_among_them_and_elsewhere_not(name: str) -> None:
    found = recipes.load(name)
    for device in found.devices:
        there = set(lines(requirements(name, device))) & CANN
        assert there == (CANN if device == "npu" else set()), device


def test_the_cann_is_named_and_the_releases_for_others() -> None:
    text = requirements("hidream", "npu")
    assert "torch_npu==2.7.1  # for CANN 8.3.RC1" in text
    assert "# with CANN 8.5.0: torch_npu==2.7.1.post2" in text
    assert "torch_npu==2.6.0" not in text, "another torch's"


def test_a_wheel_that_no_registry_has_is_named_in_the_first_lines() -> None:
    old = requirements("sdxl", "npu", "1.11.0")
    assert re.match(r"#[^\n]*Python 3.8[^\n]*\n#[^\n]*\n# torch_npu 1.11.0.post14 is on no registry", old)
    assert "torch==1.11.0" in lines(old) and "torchvision==0.12.0" in lines(old)
    assert "is on no registry" not in requirements("sdxl", "cpu", "1.11.0"), "it is the NPU's"
    assert "torch_tpu 2.1.0.post1 is on no registry" in "\n".join(requirements("sd-lora", "tpu").splitlines()[:6])


def test_sdxl_is_for_devices_of_today() -> None:
    """torch_npu 1.11 is on no registry, torch 1.11's wheels stop at compute capability 7.0."""
    assert {"torch==2.1.0", "torch_npu==2.1.0.post17"} < set(lines(requirements("sdxl", "npu")))
    assert {"torch==2.7.1", "torchvision==0.22.1"} < set(lines(requirements("sdxl", "cuda")))
    assert "torch==2.1.0" in lines(requirements("sdxl", "cpu"))


def test_what_a_device_has_instead_is_there_once() -> None:
    npu = [line for line in lines(requirements("hidream-lokr", "npu")) if line.startswith("torchcodec")]
    cpu = [line for line in lines(requirements("hidream-lokr", "cpu")) if line.startswith("torchcodec")]
    assert (npu, cpu) == (["torchcodec==0.11.0"], ["torchcodec==0.10.0"])
