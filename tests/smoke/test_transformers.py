"""The transformer_patches.py of FLUX.1, FLUX.1-Kontext and Qwen-Image against upstream's own modules, on the CPU branch
and, through stand-in kernels, on an NPU's: compare_family.py says what is compared and how."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import environment, recipes

HERE = Path(__file__).parent
KERNELS = {"cpu": [], "npu": ["npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul"]}
FLUX = ("attention, single", "attention, double", "attention, LoRA", "transformer, train, LoRA")
QWEN = ("attention", "attention, mask", "attention, LoRA", "transformer, train, padding, LoRA")
# By recipe: what is compared in each precision, what else, and what is replaced.
FAMILIES: dict[str, tuple[tuple[str, ...], set[str], set[str]]] = {
    "flux": (FLUX, set(), {f"FluxAttnProcessor2_0{end}.__call__" for end in ("", "_NPU")}),
    "flux-kontext": (FLUX, {"attention, mask"}, {"FluxAttnProcessor.__call__"}),
    "qwen-image": (
        QWEN,
        {f"transformer, a caption of {length} as alone" for length in (5, 13)},
        {"QwenDoubleStreamAttnProcessor2_0.__call__"},
    ),
}


@pytest.mark.parametrize("branch", KERNELS)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_agrees_with_upstream(name: str, branch: str, prepared: Callable[[str, str], Path]) -> None:
    """Every output and gradient, of what apply_patches() replaces; and a file broken on purpose is noticed."""
    place, found = prepared(name, "cpu"), recipes.load(name)
    python = environment.ensure(found, found.device("cpu"), place).python
    tree = place / "diffusers" / "examples" / "dreambooth"
    script = HERE / f"compare_{name.replace('-', '_')}.py"
    command = [python, "-B", script, tree / "transformer_patches.py", "--mutants", f"--branch={branch}"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=900)
    assert done.stdout.startswith("{"), done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    bad = [check for check in report["checks"] if not check["ok"]]
    assert not bad, json.dumps(bad, indent=1)
    names = {check["name"] for check in report["checks"]}
    everywhere, besides, replaced = FAMILIES[name]
    assert {f"{what}{end}" for what in everywhere for end in ("", ", bfloat16", ", autocast")} | besides <= names
    assert {each for each in names if each.startswith("in place: ")} == {f"in place: {each}" for each in replaced}
    assert sorted(report["kernels"]) == KERNELS[branch]
    assert report["mutants"] and all(report["mutants"].values()), report["mutants"]
