"""One launch, from the words of the launch script to its report."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from launcher import checkpoints, checks, command, environment, machines, options, picture, report, training
from launcher.machines import Cluster
from launcher.mistake import Mistake
from launcher.options import Program, Settings
from launcher.output import say


def main(made_as: str, script: str, words: Sequence[str]) -> int:
    """Check, start, follow and report; the exit status: 2 for a mistake, 130 after Ctrl-C, else the training's."""
    here, name = Path(sys.argv[0]).parent, os.path.basename(script)
    program = options.program(json.loads((here / "launcher" / "programs.json").read_text(encoding="utf-8"))[made_as])
    try:
        if program.starts == "simpletuner":
            from launcher import simpletuner

            return simpletuner.launch(program, here, name, words)
        return launch(program, here, name, words)
    except Mistake as mistake:
        print(f"{name}: error: {mistake}", file=sys.stderr)
    except OSError as error:  # what no check thought of
        print(f"{name}: error: {error.filename or 'this machine'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted before the training started", file=sys.stderr)
        return 130
    return 2


def launch(program: Program, here: Path, name: str, words: Sequence[str]) -> int:
    """The same for a training script whose settings are flags. Raises Mistake."""
    first = {option.name: os.environ.pop(option.name, "") for option in program.options}
    if any(word in ("-h", "--help") for word in _before_dashes(words)):
        settings = options.read(
            program, first, [word for word in _before_dashes(words) if word not in ("-h", "--help")]
        )
        options.fill(program, settings)
        say(options.usage(name, program, settings, _of_the_config(program, settings, here)))
        return 0
    settings = options.read(program, first, words)
    cluster, config = checks.checked(program, settings, here)
    if "check" in settings.own:
        say("the settings are good")
        return 0
    output = Path(settings[program.roles["output"]])
    chosen = environment.with_toolkit(program.device, dict(os.environ))
    chosen = environment.variables(program, chosen, cluster.local, here, settings.profile)
    chosen.update({option.variable: settings[option.name] for option in program.options if option.variable})
    environment.open_files(program.open_files)
    temporary: Path | None = None
    if program.deepspeed and config:
        temporary = command.with_deepspeed_file(config, here)
    starts = {
        "accelerate": lambda: command.by_accelerate(program, settings, cluster, temporary or config or here, here),
        "torchrun": lambda: command.by_torchrun(cluster),
        "python": lambda: [command.python()],
    }[program.starts]()
    try:
        return trained(
            [*starts, *command.training(program, settings, here)],
            chosen,
            None,
            log_file(settings.get("log_file", ""), output, cluster),
            shape(program, settings, cluster, config, starts),
            name,
            program,
            output,
        )
    finally:
        if temporary and temporary != config:
            temporary.unlink()


def log_file(given: str, output: Path, cluster: Cluster) -> Path:
    """Where the output is kept; machines that share an output folder have a log each. Folders are made."""
    machine = f"_machine{cluster.rank}" if cluster.machines > 1 else ""
    path = Path(given) if given else output / f"train_{datetime.now():%Y%m%d-%H%M%S}{machine}.log"
    output.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def trained(
    words: list[str],
    chosen: dict[str, str],
    cwd: str | None,
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
        "PYTHONPATH": os.pathsep.join(filter(None, (watch, chosen.get("PYTHONPATH", "")))),
    }
    done = training.run(words, {**chosen, **watched}, cwd, log, report.Steps(mean=program.starts == "torchrun"))
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
        saved = sorted(output.glob(resume.states), key=lambda path: path.stat().st_mtime, reverse=True)
    whole = next((path for path in saved if not checkpoints.complaint(path)), None)
    if not whole:
        return f"{at}: no checkpoint was saved yet"
    return f"{at}: go on with --{resume.name}={'latest' if resume.kind == 'resume' else shlex.quote(str(whole))}"


def shape(
    program: Program, settings: Settings, cluster: Cluster, config: Path | None, words: list[str]
) -> report.Shape:
    """What a step is made of, and with what it is made, in the words of published figures."""
    roles = program.roles
    told = [settings[roles["precision"]]] if "precision" in roles else []
    if settings.get(roles.get("resolution", "")):
        told.append(f"{settings[roles['resolution']]} px")
    if config:
        deepspeed = machines.value(config, "distributed_type") == "DEEPSPEED" or "--use_deepspeed" in words
        told.append("deepspeed" if deepspeed else "no deepspeed")
    if program.starts == "accelerate" and "gradient_checkpointing" in settings:
        told.append(
            "gradient checkpointing" if settings["gradient_checkpointing"] == "true" else "no gradient checkpointing"
        )
    cached = settings.get(roles.get("cached", ""))
    return report.Shape(
        int(settings[roles["batch"]]),
        cluster.processes,
        int(settings[roles["accumulation"]]) if "accumulation" in roles else 1,
        tuple(told),
        None if cached is None else cached == "true",
    )


def _before_dashes(words: Sequence[str]) -> list[str]:
    found = list(words)
    return found[: found.index("--")] if "--" in found else found


def _of_the_config(program: Program, settings: Settings, here: Path) -> dict[str, str]:
    """What the accelerate config says of the settings that are left empty."""
    if program.starts != "accelerate":
        return {}
    config = machines.config_file(program, settings, here)
    found = {option.name: machines.value(config, option.key) for option in program.options if option.key}
    return {**found, "config_file": str(config)}
