"""Tiny random-weight models, each built by a script of `tiny/` in a reference environment."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from kit import environment
from kit.errors import KitError

TINY = Path(__file__).parent / "tiny"


def families() -> list[str]:
    """The model families there is a tiny model of."""
    return sorted(path.stem for path in TINY.glob("*.py") if path.stem != "parts")


def build(family: str, python: Path, folder: Path, variables: Mapping[str, str] | None = None) -> None:
    """Write the tiny model of ``family`` to ``folder``. Raises KitError with the builder's own last line."""
    command = [str(python), str(TINY / f"{family}.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables or environment.variables())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise KitError(f"the tiny {family} could not be built: {last}", " ".join(command))
