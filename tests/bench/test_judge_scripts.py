"""The judge of the fixes about any script: right on each fix's own table of before and after, and on nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import judge
import judge_devices
import judge_scripts
import judge_words
import pytest

from kit import fixes

sys.path.append(str(Path(__file__).parents[1] / "fixes"))
UNREAD = (  # each is of several places or of other names, which the judge does not tell apart
    "batch-order: there, and not imported",
    "rank-noise: the seed is set with more than it",
    "device-placement: below what is for CUDA alone",
    "device-placement: under another name, with another setting",
    "device-scaler: beside others of the name, and others' parts",
    "device-scaler: a parameter: ",
    "device-scaler: of ",
    "float32-rope: moved to it, torch under another name",
    "pin-memory-guard: what is pinned is handed on",
    "validation-cast: other choices, other names",
)
CASES = [
    pytest.param(name, param.values[0], id=f"{name}: {param.id}")
    for name in judge_scripts.LACKING
    for param in importlib.import_module(f"test_{name.replace('-', '_')}").APPLIED
    if not f"{name}: {param.id}".startswith(UNREAD)
]


def test_every_general_fix_is_judged() -> None:
    of_recipes = {"transformer-patches", "oss-prepare"}
    assert {*judge.LACKING, *judge_scripts.LACKING} - of_recipes == set(fixes.general())


@pytest.mark.parametrize(("name", "given"), CASES)
def test_a_fix_in_its_place(name: str, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_devices, "PACKAGE", given.options.get("package", "device_package"))
    before, after = given.before.encode(), given.after.encode()
    assert judge_scripts.lacking(name, before)
    assert judge_scripts.wrong(name, before, after) == ""
    assert judge_scripts.wrong(name, before, before) != ""
    assert judge_scripts.wrong(name, before, after + b"\nlost = 1\n") != ""
    assert judge_scripts.wrong(name, before, after + b"\nnobody_knows\n") != ""


VALIDATION = """\
import copy
from accelerate import Accelerator
def log_validation(pipeline, accelerator, torch_dtype, is_final_validation):
    look()
    pipeline = pipeline.to(accelerator.device)
    return pipeline()
def other(pipeline, accelerator, torch_dtype, is_final_validation):
    pipeline = pipeline.to(accelerator.device)
"""
CAST = "".join(f"    {line}\n" for line in (judge_scripts.COPY, *judge_scripts.CAST.splitlines()))


@pytest.mark.parametrize(
    ("below", "text", "right"),
    [
        ("    look()\n", CAST, True),
        ("    look()\n", CAST.replace("torch_dtype", "weight_dtype"), False),
        ("    look()\n", CAST.replace(judge_scripts.COPY, "pass"), False),
        ("    look()\n", CAST.replace(judge_words.DEEPSPEED, "True"), False),
        ("    pipeline = pipeline.to(accelerator.device)\n", CAST, False),
        ("is_final_validation):\n", CAST, False),
        ("import Accelerator, DistributedType\n", "def f(pipeline):\n" + CAST, False),
    ],
)
def test_dtypes_of_a_validation(below: str, text: str, right: bool) -> None:
    imported = VALIDATION.replace("Accelerator\n", "Accelerator, DistributedType\n")
    after = imported.replace(below, below + text, 1)
    assert judge_scripts.lacking("validation-dtype", VALIDATION.encode()) == [5]
    assert (judge_scripts.wrong("validation-dtype", VALIDATION.encode(), after.encode()) == "") is right
    unbound = after.replace(", DistributedType", "").encode()
    assert judge_scripts.wrong("validation-dtype", VALIDATION.encode(), unbound) != ""
