"""FLUX.1-Kontext's transformer_patches.py against upstream's own modules: see compare_family.py for how."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import environment, recipes

HERE = Path(__file__).parent
KERNELS: dict[str, list[str]] = {"cpu": [], "npu": ["npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul"]}


@pytest.fixture(scope="module", params=KERNELS)
def report(request: pytest.FixtureRequest, prepared: Callable[[str, str], Path]) -> dict[str, Any]:
    """The comparison on the CPU branch, and, through stand-in kernels, on that of an NPU."""
    workspace = prepared("flux-kontext", "cpu")
    tree = workspace / "diffusers" / "examples" / "dreambooth"
    found = recipes.load("flux-kontext")
    python = environment.ensure(found, found.device("cpu"), workspace).python
    flags = ["--mutants", f"--branch={request.param}"]
    command = [python, "-B", HERE / "compare_kontext.py", tree / "transformer_patches.py", *flags]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=900)
    assert done.stdout.startswith("{"), done.stderr[-3000:]
    return {"branch": request.param, **json.loads(done.stdout)}


def test_every_output_and_gradient_agrees_with_upstream(report: dict[str, Any]) -> None:
    bad = [check for check in report["checks"] if not check["ok"]]
    assert not bad, json.dumps(bad, indent=1)
    names = {check["name"] for check in report["checks"]}
    for what in ("attention, single", "attention, double", "attention, LoRA", "transformer, train, LoRA"):
        assert {what, f"{what}, bfloat16", f"{what}, autocast"} <= names
    assert "attention, mask" in names


def test_the_patches_are_what_is_compared(report: dict[str, Any]) -> None:
    replaced = {check["name"] for check in report["checks"] if check["name"].startswith("in place: ")}
    assert replaced == {"in place: FluxAttnProcessor.__call__"}
    assert sorted(report["kernels"]) == KERNELS[report["branch"]]


def test_a_broken_file_is_noticed(report: dict[str, Any]) -> None:
    missed = [what for what, noticed in report["mutants"].items() if not noticed]
    assert report["mutants"]
    assert not missed
