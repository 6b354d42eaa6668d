"""One training, from its start to its report: the log, what is kept beside it, what is said where it was stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from datetime import datetime
from pathlib import Path

from launcher import checkpoints, picture, report, training
from launcher.machines import Cluster
from launcher.options import Program
from launcher.output import say


def log_file(given: str, output: Path, cluster: Cluster) -> Path:
    """Where the output is kept; machines that share an output folder have a log each. Folders are made."""
    machine = f"_machine{cluster.rank}" if cluster.machines > 1 else ""
    path = Path(given) if given else output / f"train_{datetime.now():%Y%m%d-%H%M%S}.log"
    path = path.with_name(f"{path.stem}{machine}{path.suffix}")
    output.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def trained(
    words: list[str],
    chosen: dict[str, str],
    log: Path,
    shape: report.Shape,
    name: str,
    program: Program,
    output: Path,
) -> int:
    """Train, then report; or say how it ended."""
    began, waits = time.monotonic(), Path(f"{log}.waits")
    log.write_text(f"{shlex.join(words)}\n", encoding="utf-8", errors="surrogateescape")
    say(shlex.join(words))
    watch = str(Path(__file__).resolve().parent / "watch")
    watched = {
        "LAUNCHER_WAITS": str(waits.absolute()),
        "LAUNCHER_SAVES": " ".join(program.saves),
        "PYTHONPATH": os.pathsep.join(filter(None, (watch, chosen.get("PYTHONPATH", "")))),
    }
    done = training.run(words, {**chosen, **watched}, log, report.Steps(mean=program.starts == "torchrun"))
    seconds = round(time.monotonic() - began)
    waited = [float(line) for line in waits.read_text().split()] if waits.is_file() else []
    waits.unlink() if waits.is_file() else None
    if done.steps.seconds:
        kept = str(log)[: -len(".log")] if log.suffix == ".log" else str(log)
        try:
            numbers = json.dumps(report.numbers(done.steps, shape, waited, seconds))
            Path(f"{kept}.json").write_text(numbers + "\n", encoding="utf-8")
            picture.draw(Path(f"{kept}.png"), done.steps)
        except OSError as error:
            print(f"{name}: warning: {error.filename}: {error.strerror}", file=sys.stderr)
    if done.signal:
        print(f"{name}: {stopped(done, program, output)}", file=sys.stderr)
        return 128 + done.signal
    if done.status:
        for line in training.failure(done, output, log):
            print(f"{name}: error: {line}", file=sys.stderr)
        return done.status
    say(f"Log file : {log}")
    told = report.lines(done.steps, shape, waited, seconds)
    say("\n".join(told))
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:  # that it is full was said
        file.write("\n".join([*told, ""]))
    return 0


def stopped(done: training.Done, program: Program, output: Path) -> str:
    """What is said after Ctrl-C, or a signal that ends: where the run was, and how it goes on."""
    at = f"interrupted at step {max(done.steps.last, 0)}"
    saved = [path for _, path in checkpoints.steps(output)]
    resume = next(iter(program.named("resume") + program.named("state")), None)
    if not resume:
        return at + (f"; the newest checkpoint is {saved[0]}" if saved else "")
    if resume.kind == "state":
        saved = list(output.glob(resume.states))
    if all(checkpoints.complaint(path) for path in saved):
        return f"{at}: no checkpoint was saved yet"
    return f"{at}: go on with --{resume.name}=latest"
