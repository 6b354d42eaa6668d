"""Start a training, show and keep what it prints, hand on signals, and say in one line how it failed."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.output import show
from launcher.report import Steps

GRACE = 30  # seconds that a training has to end by itself after a signal
PATIENCE = 600  # seconds it has to save a checkpoint first, where it can; a scheduler's own limit comes before
LAST_WORDS = 2  # seconds that are waited, once it has ended, for what its children still print
LONGEST = 20_000  # characters of a line that are looked at: its end
MARK = "LAUNCHER_RUN"  # the variable by which processes of this run are known
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
ANNOUNCING = (signal.SIGUSR1, signal.SIGUSR2)  # by which schedulers announce an end
# The last line of a traceback, after the rank that some launchers put before it.
ERROR = re.compile(
    r"^(?:\[?rank\d+\]?: ?)?((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)\b:?.*)$"
)
ARGUMENTS = re.compile(r"^\S+\.py: error: .*$")
# What launchers raise over a process that has failed; the reason is above it.
LAUNCHERS = re.compile(
    r"(?:[\w.]*\.)?(CalledProcessError|ChildFailedError|SignalException|KeyboardInterrupt|\w*Warning)\b"
)
# How accelerate and torchrun say that a process was ended from outside, or by its own crash.
DIED = re.compile(r"died with <Signals\.(SIG\w+)|Signal \d+ \((SIG\w+)\) received by PID")
KILLED = "it was killed: by the system, if memory ran out (dmesg says so)"
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

    def take(self, chunk: bytes) -> None:
        show(chunk)
        self._keep(chunk)
        *lines, rest = re.split(r"[\r\n]+", self._rest + chunk.decode("utf-8", "replace"))
        self._rest = rest[-LONGEST:]
        for line in lines:
            self._line(line)

    def _keep(self, chunk: bytes) -> None:
        """Write it to the log, as far as the disk has room; the training may go on without."""
        try:
            if self._log.closed:
                return
            self._log.write(chunk)
            self._log.flush()
        except OSError as error:
            self.full = self.full or error.errno in (errno.ENOSPC, errno.EDQUOT)
            print(f"warning: {self._log.name}: {error.strerror}: the log ends here", file=sys.stderr)
            with contextlib.suppress(OSError):
                self._log.close()

    def _line(self, line: str) -> None:
        line = line[-LONGEST:]
        self.steps.feed(line)
        self.full = self.full or bool(FULL.search(line))
        found = ERROR.match(line) or ARGUMENTS.match(line)
        if found and not LAUNCHERS.match(found[found.re.groups]):
            self.error = found[found.re.groups]
        died = DIED.search(line)
        name = (died[1] or died[2]) if died else ""
        if name not in ("", "SIGTERM", "SIGINT"):
            self.error = self.error or (KILLED if name == "SIGKILL" else f"the training died with {name}")

    def close(self) -> None:
        self._line(self._rest)
        with contextlib.suppress(OSError):
            self._log.close()


class Signals:
    """The signals that this launcher gets: those that end are handed on to the training's processes (``got``), those
    that mean to save first are not (``asked``). That is asked for by a file (watch/launcher_saving.py): the training
    makes it once it can, the launcher writes into it, and the training when it has saved."""

    def __init__(self, place: Path):
        self.place, self.got, self.asked = place, [], []  # type: Path, list[int], list[int]
        self.child: subprocess.Popen[bytes] | None = None
        place.unlink(missing_ok=True)

    def take(self, number: int, frame: object = None) -> None:
        """One that announces an end asks to save, and so does the first SIGTERM where the training can."""
        first_term = number == signal.SIGTERM and not self.asked and self.place.exists()
        if number not in ANNOUNCING and not first_term:
            self.hand_on(number)
            return
        self.asked.append(number)
        with self.place.open("a") as file:
            file.write("save\n")

    def hand_on(self, number: int) -> None:
        self.got.append(number)
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def saved(self) -> bool:
        return bool(self.asked) and "saved" in self.place.read_text()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take them meanwhile. What is ignored stays so."""
        before = {}
        for number in (*ENDING, *ANNOUNCING):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, self.take)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(command: list[str], environment: dict[str, str], log: Path, steps: Steps) -> Done:
    """Run a command to its end, in a session of its own, so that a Ctrl-C reaches this launcher first and the training
    once. Nothing of it is left running afterwards."""
    follower, signals = Follower(log, steps), Signals(Path(f"{log}.stop").absolute())
    mark = f"{os.getpid()}.{time.time_ns()}"
    with signals.taken():
        try:
            child = subprocess.Popen(
                command,
                env={**environment, MARK: mark, "LAUNCHER_STOP": str(signals.place)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_deaf,
            )
        except OSError as error:
            follower.close()
            return Done(127, 0, steps, f"{command[0]}: {error.strerror}", False)
        signals.child = child
        for number in signals.got:  # it came as the training started
            child.send_signal(number)
        with child:
            status = _followed(child, follower, signals, mark)
    follower.close()
    saved, status = signals.saved(), 128 - status if status < 0 else status
    signals.place.unlink(missing_ok=True)
    ended_by = [*signals.got, *(signals.asked if saved else ())]
    return Done(status, ended_by[0] if ended_by else 0, steps, follower.error, follower.full)


def _deaf() -> None:
    """Have the training ignore what announces an end: schedulers send it to every process, and it would end them."""
    for number in ANNOUNCING:
        signal.signal(number, signal.SIG_IGN)


def _followed(child: subprocess.Popen[bytes], follower: Follower, signals: Signals, mark: str) -> int:
    """Take what it prints until it has ended, by itself or some time after a signal; then end what it has left."""
    assert child.stdout is not None
    number, deadline, patience = child.stdout.fileno(), math.inf, math.inf
    os.set_blocking(number, False)
    while time.monotonic() < deadline:
        chunk = _read(number)
        ended = child.poll() is not None
        if chunk:
            follower.take(chunk)
        elif chunk is not None and ended:  # as have its children
            break
        elif chunk is not None:  # it has closed its output, and goes on
            time.sleep(0.2)
        if signal.SIGTERM in signals.asked and not signals.got:
            patience = min(patience, time.monotonic() + PATIENCE)
            if time.monotonic() > patience:
                signals.hand_on(signal.SIGTERM)
        if ended or signals.got or signals.saved():
            deadline = min(deadline, time.monotonic() + (LAST_WORDS if ended else GRACE))
    kill(mark)
    if child.poll() is None:
        child.kill()
    status = child.wait()
    for _ in range(16):  # as much as a pipe holds
        follower.take(_read(number, 0) or b"")
    return status


def _read(number: int, seconds: float = 0.2) -> bytes | None:
    """What there is to read, b"" at its end, None where nothing came in this time."""
    if not select.select([number], [], [], seconds)[0]:
        return None
    with contextlib.suppress(BlockingIOError):
        return os.read(number, 65536)
    return None


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
        told.append(KILLED)
    return [*told, f"training failed with exit status {done.status}; its output is in {log}"]


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB"
    except OSError:
        return "nothing"
