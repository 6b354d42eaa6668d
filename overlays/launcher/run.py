"""One launch, from the words of the launch script to its report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher import checkpoints, checks, command, environment, machines, options, report, scheduler, session
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
    resumes = [each for each in program.named("resume") + program.named("state") if each.name in settings]
    asked = [each for each in resumes if first.get(each.name) or each.name in settings.given]
    if cluster.machines > 1 and asked:
        checkpoints.check_shared(program.roles["output"], output, cluster.rank)
    if cluster.rank == 0 and any(each.kind == "resume" for each in asked):
        for line in checkpoints.set_aside(output):
            say(line)
    chosen = environment.with_toolkit(program.device, dict(os.environ))
    chosen = environment.variables(program, chosen, cluster.local, here, settings.profile)
    chosen = machines.network(cluster, program.device, scheduler.without_misleading(chosen))
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
    if machines.by_deepspeed(config, starts):  # which builds extensions of torch
        environment.check_builds(chosen)
    try:
        return session.trained(
            [*starts, *command.training(program, settings, here)],
            chosen,
            session.log_file(settings.get("log_file", ""), output, cluster),
            shape(program, settings, cluster, config, starts),
            name,
            program,
            output,
        )
    finally:
        if temporary and temporary != config:
            temporary.unlink()
        if cluster.rank == 0 and (output / ".machine0").exists():
            (output / ".machine0").unlink()


def shape(
    program: Program, settings: Settings, cluster: Cluster, config: Path | None, words: list[str]
) -> report.Shape:
    """What a step is made of, and with what it is made, in the words of published figures."""
    roles = program.roles
    told = [settings[roles["precision"]]] if "precision" in roles else []
    if settings.get(roles.get("resolution", "")):
        told.append(f"{settings[roles['resolution']]} px")
    if config:
        told.append("deepspeed" if machines.by_deepspeed(config, words) else "no deepspeed")
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
