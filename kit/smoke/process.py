"""Run one command to its end or its time limit, with every process it started gone afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CONSEQUENCE = r"ChildFailedError|CalledProcessError|Connection closed by peer"  # of an error elsewhere


@dataclass(frozen=True)
class Done:
    """How a command ended: ``status`` is its exit status, None where the time limit (seconds) ended it."""

    command: tuple[str, ...]
    status: int | None
    seconds: float
    log: Path

    def text(self) -> str:
        """The whole log, carriage returns of progress bars as they are."""
        return self.log.read_bytes().decode("utf-8", "replace")

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.text().replace("\r", "\n").splitlines()[-lines:])

    def last_error(self) -> str:
        """The last line of the log that names an error; the last line where none does."""
        lines = [line.strip() for line in self.text().replace("\r", "\n").splitlines() if line.strip()]
        raised = [line for line in lines if re.match(r"(\[rank\d+\]: ?)?[\w.]*(Error|Exception)\b", line)]
        raised = [line for line in raised if not re.search(_CONSEQUENCE, line)]
        errors = [line for line in lines if "error:" in line]
        return (raised or errors or lines or ["it printed nothing"])[-1]


def run(command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path, limit: float) -> Done:
    """Run ``command``, its output going to ``log``; at ``limit`` seconds, and however this call ends, its whole
    process group and every process that carries its mark are killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    marked = mark()
    start = time.monotonic()
    status: int | None = None
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env={**environment, **marked},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill(process.pid, *(f"{key}={value}" for key, value in marked.items()))
            process.wait()
    return Done(tuple(command), status, time.monotonic() - start, log)


def mark() -> dict[str, str]:
    """An environment variable by which a run's processes are known. Its length is always the same: zygote.py puts it in
    the place of its own."""
    return {"KIT_SMOKE": f"{os.getpid():010}.{time.monotonic_ns():020}"}


def _kill(group: int, mark: str) -> None:
    """Kill the group, and those who left it (launchers start sessions of their own) by the mark they inherited."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for place in running():
        with contextlib.suppress(OSError):
            if mark.encode() in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)


def running() -> list[Path]:
    """The folders of the processes there are. Any may be gone when it is looked into, which `glob` raises on."""
    return [Path("/proc", name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
