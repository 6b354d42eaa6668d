"""The kills of attacks_kill.py, at a command's first write and its hundredth; bench_attacks.py kills at every one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attacks_kill
import pytest


@pytest.mark.parametrize("case", attacks_kill.CASES, ids=lambda case: case.name)
def test_a_few_kills(case: attacks_kill.Case, in_memory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        tried, failures = attacks_kill.one(case, Path(folder), (1, 100))
    assert tried and not failures
