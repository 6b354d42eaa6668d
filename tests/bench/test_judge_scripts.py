"""The judge of the fixes about any script: right on each fix's own table of before and after, and on nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import judge
import judge_scripts
import pytest

from kit import fixes

sys.path.append(str(Path(__file__).parents[1] / "fixes"))
CASES = [
    pytest.param(name, param.values[0], id=f"{name}: {param.id}")
    for name in judge_scripts.LACKING
    for param in importlib.import_module(f"test_{name.replace('-', '_')}").APPLIED
]


def test_every_general_fix_is_judged() -> None:
    assert {*judge.LACKING, *judge_scripts.LACKING} - {"transformer-patches"} == set(fixes.general())


@pytest.mark.parametrize(("name", "given"), CASES)
def test_a_fix_in_its_place(name: str, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_scripts, "PACKAGE", given.options.get("package", "device_package"))
    before, after = given.before.encode(), given.after.encode()
    assert judge_scripts.lacking(name, before)
    assert judge_scripts.wrong(name, before, after) == ""
    assert judge_scripts.wrong(name, before, before) != ""
    assert judge_scripts.wrong(name, before, after + b"\nlost = 1\n") != ""
    assert judge_scripts.wrong(name, before, after + b"\nnobody_knows\n") != ""
