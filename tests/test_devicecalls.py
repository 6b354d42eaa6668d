"""Calls into a device's package, checked against its published signatures; the profiles of devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
from support import Kit, Root, make_upstream, write
from test_verify import failures

from kit import devices, recipes
from kit.devices import Signature
from kit.errors import KitError

KNOWN = {
    "torch_npu.fuse": Signature(("query", "key", "heads", "scale"), keyword_only=("scale",), optional=("scale",)),
    "torch_npu.norm": Signature(("x", "gamma", "epsilon"), optional=("epsilon",)),
}


@pytest.mark.parametrize(
    ("name", "positional", "keywords", "problem"),
    [
        ("torch_npu.fuse", 3, [], ""),
        ("torch_npu.fuse", 2, ["heads", "scale"], ""),
        ("torch_npu.fuse", 0, [None], ""),
        ("torch_npu.norm", 3, [], ""),
        ("torch_npu.fuze", 3, [], "torch_npu.fuze is not in the published API; did you mean 'torch_npu.fuse'?"),
        ("torch_npu.fuse", 4, [], "torch_npu.fuse takes 3 arguments by position, not 4"),
        ("torch_npu.fuse", 3, ["scael"], "torch_npu.fuse has no parameter 'scael'; did you mean 'scale'?"),
        ("torch_npu.fuse", 2, ["scale"], "torch_npu.fuse needs heads"),
        ("torch_npu.norm", 0, [], "torch_npu.norm needs x, gamma"),
        ("torch_npu.norm", 2, ["x"], "torch_npu.norm is given x twice"),
    ],
)
def test_misuse(name: str, positional: int, keywords: list[str | None], problem: str) -> None:
    assert devices.misuse(KNOWN, name, positional, keywords) == problem


def test_device_calls(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "signatures", lambda name, roots, version: KNOWN)
    good = "import torch_npu\n\nx = torch_npu.norm(a, b).sum()\ny = other.norm()\n"
    root.overlay({"calls.py": good})
    assert kit("prepare", root.place / "recipes/tiny.toml", "--device", "npu", "made").status == 0
    done = kit("verify", "made", "--json")
    assert failures(done) == {}
    assert "up: 1 device-API calls exist in torch_npu" in [check["name"] for check in done.json[0]["checks"]]
    write(Path("made/up/examples"), {"calls.py": good + "z = [torch_npu.norm(a, eps=1), torch.npu.nothing()]\n"})
    said = failures(kit("verify", "made", "--json"))["up: 3 device-API calls exist in torch_npu"]
    assert "calls.py:5: torch_npu.norm has no parameter 'eps'" in said
    assert "calls.py:5: torch.npu.nothing is not in the published API" in said


def test_upstreams_own_device_calls_are_said_not_judged(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' training_utils.py calls torch.npu.manual_seed_all: that is no line of kit's."""
    monkeypatch.setattr(devices, "signatures", lambda name, roots, version: KNOWN)
    root.pin = make_upstream(
        root.upstream, {"examples/train.py": f"import torch\n\ntorch.npu.seed_all(1)\n{support.TRAIN}"}
    )
    path = root.recipe()
    kit("refresh", path)
    assert kit("prepare", path, "--device", "npu", "made").status == 0
    done = kit("verify", "made", "--json")
    assert failures(done) == {}
    checks = {check["name"]: check for check in done.json[0]["checks"]}
    said = checks["up: upstream's own calls that npu.api.toml does not list"]
    assert said["ok"] is None and said["detail"].endswith("examples/train.py:3: torch.npu.seed_all")
    path = Path("made/up/examples/train.py")
    path.write_text(path.read_text().replace("weights.pop()", "weights.pop(torch.npu.nothing())"))
    wrong = failures(kit("verify", "made", "--json"))
    assert "torch.npu.nothing is not in the published API" in wrong["up: 1 device-API calls exist in torch_npu"]


def test_an_api_is_a_function_a_line(tmp_path: Path) -> None:
    write(tmp_path, {"profiles/abacus.api.toml": '"beads.sum" = "(x, dim=..., *, out=...)"\n"beads.any" = "(*args)"\n'})
    known = devices.signatures("abacus", (tmp_path,))
    assert known["beads.sum"] == Signature(("x", "dim", "out"), keyword_only=("out",), optional=("dim", "out"))
    assert devices.misuse(known, "beads.any", 9, ["what"]) == ""
    write(tmp_path, {"profiles/abacus.api.toml": '"beads.sum" = "x, dim"\n'})
    with pytest.raises(KitError) as refused:
        devices.signatures("abacus", (tmp_path,))
    assert "abacus.api.toml:1: beads.sum: 'x, dim' is no signature" in str(refused.value)


def test_the_npus_api_is_whole() -> None:
    """Made from the wheel by tests/bench/api_of_wheel.py: operators, torch.npu and its amp."""
    known = devices.signatures("npu")
    assert len(known) > 300 and known["torch.npu.manual_seed_all"].parameters == ("seed",)
    assert known["torch_npu.npu_fusion_attention"].parameters[:5] == (
        "query",
        "key",
        "value",
        "head_num",
        "input_layout",
    )
    assert set(known["torch_npu.npu_grouped_matmul"].optional) == set(
        known["torch_npu.npu_grouped_matmul"].keyword_only
    )


def test_every_version_in_use_has_its_own_api() -> None:
    """What a recipe installs by default on an NPU: `rotate` of npu_rotary_mul came after 2.7.1."""
    used = {recipes.load(name).device("npu").packages["torch_npu"] for name in recipes.names()}
    assert used == {"2.7.1", "2.1.0.post17", "2.10.0.post4"}
    turns = {version: devices.signatures("npu", (), version)["torch_npu.npu_rotary_mul"] for version in used}
    assert {version for version, its in turns.items() if "rotate" in its.parameters} == {"2.10.0.post4"}
    assert devices.signatures("npu", (), "9") == devices.signatures("npu")


@pytest.mark.parametrize("name", devices.names())
def test_profiles(name: str) -> None:
    device = devices.load(name)
    assert device.name == name and device.precisions and device.processes >= 1
    assert all(variable.name.isidentifier() and variable.meaning for variable in device.environment)
    assert isinstance(devices.signatures(name), dict)


def test_the_npu_has_the_twelve_variables_of_the_seed() -> None:
    assert len({variable.name for variable in devices.load("npu").environment}) >= 12
