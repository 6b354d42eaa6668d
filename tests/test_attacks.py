"""The attacks of tests/bench/bench_attacks.py in small: none gets in, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

from support import Root

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import bench_attacks


def test_attacks(root: Root) -> None:
    tallies = list(bench_attacks.all_of(fast=True, seed=1, root=root))
    assert {tally.what: tally.failures for tally in tallies if tally.failures} == {}
    assert all(tally.tried > tally.refused // 2 > 0 for tally in tallies)
