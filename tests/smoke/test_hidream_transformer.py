"""transformer_patches.py against upstream's own modules: see compare_family.py for what is compared and how."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KERNELS = {
    "cpu": [],
    "npu": ["npu_fusion_attention", "npu_grouped_matmul", "npu_rms_norm", "npu_rotary_mul"],
    "grouped": ["grouped_mm"],
}


def compare(python: Path, tree: Path, *flags: str) -> dict[str, Any]:
    """Run the comparison on the prepared tree's file; its report."""
    command = [python, "-B", HERE / "compare_hidream.py", tree / "transformer_patches.py", *flags]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=900)
    assert done.stdout.startswith("{"), done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=KERNELS)
def report(request: pytest.FixtureRequest, hidream_env: Path, hidream_tree: Path) -> dict[str, Any]:
    """The comparison on the CPU branch, and, through stand-in kernels, on those of an NPU and of a grouped product."""
    flags = ["--mutants", f"--branch={request.param}"]
    return {"branch": request.param, **compare(hidream_env, hidream_tree, *flags)}


def test_every_output_and_gradient_agrees_with_upstream(report: dict[str, Any]) -> None:
    bad = [check for check in report["checks"] if not check["ok"]]
    assert not bad, json.dumps(bad, indent=1)
    names = {check["name"] for check in report["checks"]}
    for what in ("attention, single, mask", "attention, LoRA", "experts, train, one token", "experts, LoRA"):
        assert {what, f"{what}, bfloat16", f"{what}, autocast"} <= names
    for what in ("square", "not square"):
        assert f"transformer, {what}, train, force_inference_output, gradient checkpointing" in names


def test_the_patches_are_what_is_compared(report: dict[str, Any]) -> None:
    replaced = {check["name"] for check in report["checks"] if check["name"].startswith("in place: ")}
    assert replaced == {"in place: HiDreamAttnProcessor.__call__", "in place: MOEFeedForwardSwiGLU.forward"}
    assert sorted(report["kernels"]) == KERNELS[report["branch"]]


def test_a_broken_file_is_noticed(report: dict[str, Any]) -> None:
    missed = [what for what, noticed in report["mutants"].items() if not noticed]
    assert report["mutants"]
    assert not missed


def test_the_file_runs_from_the_script_folder(hidream_env: Path, hidream_tree: Path) -> None:
    code = "from transformer_patches import apply_patches; apply_patches(); print(*apply_patches())"
    command = [hidream_env, "-B", "-c", code]
    done = subprocess.run(command, cwd=hidream_tree, capture_output=True, text=True, timeout=300)
    assert "MOEFeedForwardSwiGLU.forward" in done.stdout, done.stderr[-3000:]


def test_without_diffusers_it_says_what_to_install(hidream_env: Path, hidream_tree: Path) -> None:
    code = "import sys; sys.modules['diffusers'] = None; import transformer_patches as t; t.apply_patches()"
    done = subprocess.run(
        [hidream_env, "-B", "-c", code], cwd=hidream_tree, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: transformer_patches: cannot import diffusers")
    assert done.stderr.splitlines()[-1].endswith("in the prepared tree, run: pip install -e .")
