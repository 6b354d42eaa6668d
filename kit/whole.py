"""Files written whole: whatever happens meanwhile, a file is what it was or what it is to be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: under a temporary name beside it, to the disk, then renamed.

    A file that is there keeps its mode, and a link stays a link. What is no file, such as /dev/stdout, is written to.
    Raises OSError, leaving what was there.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        real.write_bytes(content)
        return
    beside = real.with_name(f".kit-{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            shutil.copymode(real, beside)
        beside.replace(real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
