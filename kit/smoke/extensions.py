"""What DeepSpeed compiles on a CPU, compiled before the steps: its communication through shared memory.

torch's builder (torch/utils/file_baton.py) waits for as long as a file `lock` is there, and one that was killed leaves
it: every later run would wait until its time limit. So it is built here, by one process at a time, and a lock that
nobody can hold is taken away.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from kit import environment
from kit.errors import KitError
from kit.recipe import Recipe

NAME = "deepspeed_shm_comm"
STALE = 60  # seconds; to load what is built takes less than one
BUILD = "from deepspeed.accelerator import get_accelerator as on; on().create_op_builder('ShareMemCommBuilder').load()"


def build(recipe: Recipe, made: environment.Environment) -> None:
    """Build it where the recipe has DeepSpeed (80 s, once an environment). Raises KitError with the compiler's last
    line."""
    from filelock import FileLock

    if made.device != "cpu" or "deepspeed" not in recipe.environment.packages:
        return
    made.extensions.mkdir(parents=True, exist_ok=True)
    with FileLock(made.extensions.with_suffix(".lock")):
        built = (made.extensions / NAME / f"{NAME}.so").exists()
        unlock(made.extensions / NAME / "lock", 0 if not built else STALE)
        if not built:
            variables = {"TORCH_EXTENSIONS_DIR": str(made.extensions), "DS_ACCELERATOR": "cpu"}
            variables["PATH"] = f"{made.path / 'bin'}:{environment.variables()['PATH']}"
            command = [str(made.python), "-c", BUILD]
            given = {**environment.variables(), **variables}
            done = subprocess.run(command, capture_output=True, text=True, env=given)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise KitError(f"DeepSpeed's {NAME} could not be built: {last}", "install a C++ compiler: g++")


def unlock(lock: Path, age: float) -> None:
    """Take a lock away that is at least ``age`` seconds old."""
    if lock.exists() and time.time() - lock.stat().st_mtime >= age:
        lock.unlink(missing_ok=True)
