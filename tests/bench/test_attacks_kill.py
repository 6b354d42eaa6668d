"""The kills of attacks_kill.py, a few of each command."""

from __future__ import annotations

import attacks_kill
import pytest


@pytest.mark.parametrize("case", attacks_kill.CASES, ids=lambda case: case.name)
def test_a_few_kills(case: attacks_kill.Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    tried, failures = attacks_kill.one(case, tmp_path_factory.mktemp("kills"), every=60)
    assert tried and not failures
