"""DeepSpeed's communication through shared memory, on a CPU: compiled before a run, its memory given back after one.

torch's builder (torch/utils/file_baton.py) waits for as long as a file `lock` is there, and a build that was killed
leaves it: every later run would wait until its time limit. So such locks go before a run, and what takes minutes on a
loaded machine is compiled then, not in a step.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from kit import environment
from kit.errors import KitError, last_line
from kit.recipe import Recipe
from kit.smoke import process

NAME = "deepspeed_shm_comm"
BUILD = "from deepspeed.accelerator import get_accelerator as on; on().create_op_builder('ShareMemCommBuilder').load()"


def build(recipe: Recipe, made: environment.Environment) -> None:
    """Take the locks away; compile where the recipe has DeepSpeed (80 s, once an environment). Raises KitError with the
    compiler's last line."""
    for stale in made.extensions.glob("*/lock"):
        stale.unlink()
    if made.device != "cpu" or "deepspeed" not in recipe.environment.packages:
        return
    if (made.extensions / NAME / f"{NAME}.so").exists():
        return
    path = f"{made.path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {"TORCH_EXTENSIONS_DIR": str(made.extensions), "DS_ACCELERATOR": "cpu", "PATH": path}
    command = [str(made.python), "-c", BUILD]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment.variables(), **given})
    if done.returncode:
        raise KitError(
            f"DeepSpeed's {NAME} could not be built: {last_line(done.stderr)}", "install a C++ compiler: g++"
        )


def release(shared: Path = Path("/dev/shm")) -> None:
    """Remove the buffers that no process has open or mapped. DeepSpeed makes one of 69 MB a rank and never removes it
    (csrc/cpu/comm/shm.cpp, 0.15.2 to 0.17.2): a hundred runs fill the memory of a machine of 24 GB."""
    buffers = list(shared.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*"))
    held = _held() if buffers else set()
    for buffer in buffers:
        if str(buffer) not in held:
            buffer.unlink(missing_ok=True)


def _held() -> set[str]:
    """What processes that may be looked at have open or mapped. Open first: a buffer is mapped before it is closed."""
    held = set()
    for place in process.running():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for number in os.listdir(place / "fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):  # it was closed
                    held.add(os.readlink(place / "fd" / number))  # noqa: PTH115
            text = (place / "maps").read_text("utf-8", "replace")
            held |= {line.split(maxsplit=5)[-1] for line in text.splitlines()}
    return held
