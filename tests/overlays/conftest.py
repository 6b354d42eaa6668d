"""A machine for the launch script, with a stand-in for `accelerate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launching import OVERLAYS, SCRIPT, Machine, render

sys.path.insert(0, str(OVERLAYS))  # the launcher, for tests that call it

# Records how it was called and its config, prints what a training would have printed, ends with the status asked for.
ACCELERATE = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"$RECORD/argv"
env -0 >"$RECORD/env"
pwd >"$RECORD/cwd"
for word; do [[ $word != --config_file=* ]] || cp "${word#*=}" "$RECORD/config"; done
cat "$RECORD/output" >&2
exit "${FAKE_STATUS:-0}"
"""

# Without what is installed beside the tests. Of a launcher that runs in a fork (launching.py) it records the start.
PYTHON = f"""#!/bin/sh
case "$KIT_FORK:$1" in
  1:*/launcher) printf '%s\\0' "$@" >"$RECORD/launcher" && exec env -0 >"$RECORD/inherited" ;;
esac
exec "{sys.executable}" -S "$@"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    root = tmp_path / "machine"
    for folder in ("bin", "record", "home", "work/model", "work/llama", "work/data", "modules/torch_npu"):
        (root / folder).mkdir(parents=True)
    accelerate = root / "bin/accelerate"
    accelerate.write_text(ACCELERATE)
    python = root / "bin/python3"
    python.write_text(PYTHON)
    for program in (accelerate, python):
        program.chmod(0o755)
    (root / "modules/torch_npu/__init__.py").touch()
    (root / "modules/accelerate.py").touch()
    for name in ("PIL", "pyarrow"):  # whether the tests' own environment has them
        (root / f"modules/{name}.py").write_text("raise ImportError")
    (root / "work/model/model_index.json").write_text('{"_class_name": "HiDreamImagePipeline"}')
    (root / "work/llama/config.json").write_text("{}")
    (root / "work/llama/pytorch_model.bin").write_text("weights")
    (root / "work/data/00.jpg").write_text("an image")
    (root / "work/data/metadata.jsonl").write_text('{"file_name": "00.jpg", "prompt": "a llama"}\n')
    (root / "record/output").write_text("no steps\n")
    env = {
        "PATH": f"{root}/bin:/usr/bin:/bin",
        "HOME": str(root / "home"),
        "RECORD": str(root / "record"),
        "PYTHONPATH": str(root / "modules"),
        "LC_ALL": os.environ.get("LC_ALL", "C"),
    }
    return Machine(root, env)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Render for a device, into a folder with a space in its name, and give the launch script."""

    def make(device: str = "cpu", **cluster: Any) -> Path:
        return render(device, tmp_path / "the tree" / device, **cluster) / SCRIPT

    return make
