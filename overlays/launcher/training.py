"""Start a training, show and keep what it prints, hand on signals, and say in one line how it failed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.report import Steps

GRACE = 30  # seconds that a training has to end by itself after a signal
MARK = "LAUNCHER_RUN"  # the variable by which processes of this run are known
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The last line of a traceback, after the rank that some launchers put before it.
ERROR = re.compile(
    r"^(?:\[?rank\d+\]?: ?)?((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)\b:?.*)$"
)
ARGUMENTS = re.compile(r"^\S+\.py: error: .*$")
# What launchers raise over a process that has failed; the reason is above it.
LAUNCHERS = re.compile(
    r"(?:[\w.]*\.)?(CalledProcessError|ChildFailedError|SignalException|KeyboardInterrupt|\w*Warning)\b"
)
FULL = re.compile(r"No space left on device|Disk quota exceeded")


@dataclass
class Done:
    """How a training ended: its exit status (128 and the signal's number where one ended it), the signal that this
    launcher got, the steps it made, the last error it printed."""

    status: int
    signal: int
    steps: Steps
    error: str
    full: bool


class Follower:
    """Takes a training's output as it comes: onto this program's own, into the log, and line by line into ``steps``."""

    def __init__(self, log: Path, steps: Steps):
        self.steps, self.error, self.full = steps, "", False
        self._log = log.open("ab")
        self._rest = ""
        self._shows = True

    def take(self, chunk: bytes) -> None:
        self._log.write(chunk)
        self._log.flush()
        if self._shows:
            try:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            except OSError:  # nobody reads it any more; the log goes on
                self._shows = False
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + chunk.decode("utf-8", "replace"))
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        self.steps.feed(line)
        self.full = self.full or bool(FULL.search(line))
        found = ERROR.match(line) or ARGUMENTS.match(line)
        if found and not LAUNCHERS.match(found[found.re.groups]):
            self.error = found[found.re.groups]

    def close(self) -> None:
        self._line(self._rest)
        self._log.close()


def run(command: list[str], environment: dict[str, str], cwd: str | None, log: Path, steps: Steps) -> Done:
    """Run a command to its end, in a session of its own, so that a Ctrl-C reaches this launcher first and the training
    once. Nothing of it is left running afterwards."""
    follower = Follower(log, steps)
    mark = f"{os.getpid()}.{time.time_ns()}"
    got: list[int] = []
    try:
        child = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        follower.close()
        return Done(127, 0, steps, f"{command[0]}: {error.strerror}", False)
    with child, _handing_on(child, got):
        assert child.stdout is not None
        number, deadline = child.stdout.fileno(), 0.0
        os.set_blocking(number, False)
        ended = False
        while not ended:
            chunk = _read(number)
            if chunk:
                follower.take(chunk)
            elif chunk is not None or child.poll() is not None:  # its end; or it has ended and others hold it open
                ended = True
            if got and not deadline:
                deadline = time.monotonic() + GRACE
            if deadline and time.monotonic() > deadline:
                kill(mark)
                ended = True
        if got and child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()) if deadline else GRACE)
        if got:
            kill(mark)
        status = child.wait()
        kill(mark)
        while True:
            chunk = _read(number, 0)
            if not chunk:
                break
            follower.take(chunk)
    follower.close()
    return Done(128 - status if status < 0 else status, got[0] if got else 0, steps, follower.error, follower.full)


def _read(number: int, seconds: float = 0.2) -> bytes | None:
    """What there is to read, b"" at its end, None where nothing came in this time."""
    import select

    if not select.select([number], [], [], seconds)[0]:
        return None
    with contextlib.suppress(BlockingIOError):
        return os.read(number, 65536)
    return None


@contextlib.contextmanager
def _handing_on(child: subprocess.Popen[bytes], got: list[int]) -> Iterator[None]:
    """Hand on what ends programs to the training's processes, once each, and remember it. What is ignored stays so."""

    def hand_on(number: int, frame: object) -> None:
        got.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    before = {}
    for number in HANDED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, hand_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill(mark: str) -> None:
    """End every process that this run has left: those with its mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in place.read_bytes().split(b"\0") and int(place.parent.name) != os.getpid():
                os.kill(int(place.parent.name), signal.SIGKILL)
        except (OSError, ValueError):  # it has ended, or is another user's
            continue


def failure(done: Done, output: Path, log: Path) -> list[str]:
    """What is said of a training that failed: its last error, and where its output is."""
    told = []
    if done.full:
        told.append(f"the disk is full: {output} has {_free(output)} left: make room, or choose another --output_dir")
    elif done.error:
        told.append(done.error)
    elif done.status == 128 + signal.SIGKILL:
        told.append("it was killed: by the system, if memory ran out (dmesg says so)")
    return [*told, f"training failed with exit status {done.status}; its output is in {log}"]


def _free(folder: Path) -> str:
    try:
        import shutil

        return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB"
    except OSError:
        return "nothing"
