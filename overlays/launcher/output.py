"""What the launcher itself shows. Neither the name of a file nor a reader that has gone ends a run: the log goes on."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Print any name of a file, whatever the terminal's encoding; where an output is closed, print to nobody."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def say(line: str) -> None:
    """Print a line at once."""
    show(f"{line}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def show(chunk: bytes) -> None:
    """Print bytes at once, as they are."""
    try:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except OSError:  # nobody reads it any more
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
