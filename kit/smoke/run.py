"""The level smoke: the recipe's own launch and inference scripts, run on a tiny model, step by step.

Each step is held against what it must show. Red and parity run on the same ground.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kit import environment
from kit.devices import Device
from kit.errors import KitError
from kit.proof import SmokeStep
from kit.recipe import Recipe
from kit.smoke import extensions, models, process, watched
from kit.smoke import standin as standins
from kit.smoke.endpoint import no_hub
from kit.smoke.findings import Finding, findings
from kit.smoke.forkserver import serve
from kit.smoke.ground import Run

HERE = Path(__file__).parent


@dataclass(frozen=True)
class StepReport:
    """A step as it ran: findings, the command, its seconds, the end of its log, and what there is to look at."""

    name: str
    findings: tuple[Finding, ...]
    command: str
    seconds: float
    log: str
    tail: str
    losses: Mapping[str, float] = field(default_factory=dict)
    images: tuple[Mapping[str, Any], ...] = ()
    measured: tuple[Mapping[str, Any], ...] = ()  # as `measured` returns them

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


@contextlib.contextmanager
def begin(recipe: Recipe, device: Device, workspace: Path, work: Path) -> Iterator[Run]:
    """Build the environment and the tiny model. Raises KitError where the recipe has no smoke run."""
    if recipe.smoke is None:
        raise KitError(f"recipe {recipe.name} has no smoke run", "add a [smoke] table to it")
    if "torch" not in recipe.environment.packages and _needs_torch(recipe, device):
        what = f"{recipe.path}: [environment.packages] names no torch, and this smoke run needs one"
        raise KitError(what, 'add `torch = "…"`, the version it is known to work with, then kit env … --lock')
    made = environment.ensure(recipe, device, workspace)
    extensions.build(recipe, made)
    tiny = work / "tiny"
    missing = device.package and not environment.has_device(device)
    standin = standins.variables(device, made.python) if missing else {}
    run = Run(recipe, recipe.smoke, device, made, workspace / recipe.smoke.folder, work / "out", tiny, standin)
    with serving(run, work / "forks") as running:
        python, variables = _python(running)
        models.build(recipe.smoke.tiny, python, tiny, variables, recipe.roots)
        yield running


def _needs_torch(recipe: Recipe, device: Device) -> bool:
    """Whether a smoke run looks at what torch wrote, or stands in for a device of torch's."""
    plan = recipe.smoke
    looks = any(step.events or step.moved or step.images or step.engine for step in plan.step) if plan else False
    return bool(looks or device.package or (plan and plan.imports))


@contextlib.contextmanager
def serving(run: Run, folder: Path) -> Iterator[Run]:
    """The same run, its steps forked from one process. Not on a device itself, which a fork cannot share; nor where the
    recipe names no imports."""
    if not run.smoke.imports or not (run.device.name == "cpu" or run.standin):
        yield replace(run, server=None)
        return
    run.out.mkdir(parents=True, exist_ok=True)
    variables = {each.name: each.value for each in run.device.environment if "$" not in each.value}
    environment = {**variables, **_variables(run, "http://localhost", offline=True)}
    with serve(run.environment.path / "bin", run.smoke.imports, environment, folder) as server:
        yield replace(run, server=server)


def _python(run: Run) -> tuple[Path, dict[str, str]]:
    """What runs kit's own scripts in the reference environment, in forks if there is a server, and its variables."""
    if not run.server:
        return run.environment.python, environment.variables()
    run.server.wait()
    return run.server.python, _variables(run, "http://localhost", offline=True)


def smoke(run: Run, names: tuple[str, ...] = ()) -> Iterator[StepReport]:
    """Run the steps (those named, or all) one after the other; the ones after a failed step are run as well. The first
    starts its programs as a user does, before a hub that has nothing; all others run under HF_HUB_OFFLINE=1, and are
    forked where that can be done."""
    steps = run.smoke.steps(run.device.name, run.recipe.extras)
    chosen = [step for step in steps if not names or step.name in names]
    yield from in_turn(run, chosen, [step.name for step in steps[:1]])


def in_turn(run: Run, steps: Sequence[SmokeStep], online: Collection[str]) -> Iterator[StepReport]:
    """Run steps one after the other, those named in ``online`` in processes of their own and not offline."""
    losses: dict[str, Mapping[str, float]] = {}
    for step in steps:
        report = _step(run, step, losses, step.name in online)
        losses[step.name] = report.losses
        yield report


def _step(run: Run, step: SmokeStep, before: Mapping[str, Mapping[str, float]], online: bool) -> StepReport:
    run.out.mkdir(parents=True, exist_ok=True)
    run.calls.unlink(missing_ok=True)
    for source, target in step.copy.items():
        if Path(run.fill(source)).exists():
            shutil.copytree(run.fill(source), run.fill(target), dirs_exist_ok=True)
    events = run.out / "watched" / step.name
    watching = instrument(events, "engine") if step.engine else {}
    with no_hub() as (url, requests):
        log = run.out / "logs" / f"{step.name}.log"
        command = [run.fill(word) for word in run.smoke.command(step.run, run.device.name)]
        done = start(run, command, {**step.environment, **watching}, log, step.limit, online, url)
    looked = _look_at(run, step)
    losses = looked.get("losses", {})
    found = [*findings(run, step, done, looked, requests, before)]
    if step.engine:
        found.append(Finding(f"trains with {step.engine}", *watched.engine(watched.read(events), step.engine)))
    return StepReport(
        step.name,
        tuple(found),
        shlex.join(command),
        done.seconds,
        str(log),
        done.tail(),
        losses,
        tuple(looked.get("images", ())),
        tuple(measured(done.text())),
    )


def start(
    run: Run,
    command: Sequence[str],
    variables: Mapping[str, str],
    log: Path,
    limit: float,
    online: bool = False,
    hub: str = "http://localhost",
) -> process.Done:
    """Run a command in the environment of this run, forked where that can be done; ``online``: in processes of its own,
    and not under HF_HUB_OFFLINE=1."""
    given = {**_variables(run, hub, offline=not online), **variables}
    launch = run.server.run if run.server and not online else process.run
    done = launch(command, run.folder, given, log, limit)
    extensions.release()
    return done


def instrument(events: Path, mode: str = "") -> dict[str, str]:
    """The variables that have each process of a run watched, which writes what it sees to ``events``.<rank>; modes:
    `image` (noise and order depend on the image alone) and `engine` (only what trains is looked at). Nothing of an
    earlier run is left there."""
    events.parent.mkdir(parents=True, exist_ok=True)
    for stale in events.parent.glob(f"{events.name}.*"):
        stale.unlink()
    watch = str(HERE / "instrument" / "kit_watch.py")
    return {"KIT_INSTRUMENT": watch, "KIT_WATCH": str(events), "KIT_WATCH_MODE": mode}


_FIGURES = {
    "FPS": r"(?ms)^Final Performance images/sec : ([\d.]+)\n.*?^Settings : ([^\n]*)$",
    "it/s": r"(?m)^E2E it/s : ([\d.]+) \((.*)\)$",
}


def measured(log: str) -> Iterator[Mapping[str, Any]]:
    """What the launch scripts (FPS: images a second on all cards) and inference scripts (it/s) say they measured, and
    with what: {value, metric, setting}, in the words of the published figures."""
    for metric, pattern in _FIGURES.items():
        for value, setting in re.findall(pattern, log):
            yield {"value": float(value), "metric": metric, "setting": setting}


def _look_at(run: Run, step: SmokeStep) -> dict[str, Any]:
    """What the step left; nothing where there is nothing to read."""
    asked = {"events": [step.events], "weights": [step.moved, step.moved_from, step.idle], "images": [step.images]}
    filled = {key: [run.fill(value) for value in values] for key, values in asked.items() if values[0]}
    wanted = {key: values for key, values in filled.items() if Path(values[0]).exists()}
    return look(run, wanted) if wanted else {}


def look(run: Run, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What `look.py` reads in the run's own environment. Raises KitError with its last line."""
    python, variables = _python(run)
    command = [str(python), str(HERE / "look.py"), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise KitError(f"the results of a run cannot be read: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    looked: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return looked


def _variables(run: Run, hub: str, offline: bool) -> dict[str, str]:
    """The environment of a step: the reference environment first on PATH, no network but the hub that has nothing, and
    ``offline`` not that."""
    dropped = re.compile(r"HF_|HUGGING|TRANSFORMERS_|DIFFUSERS_|WANDB|.*_proxy$", re.I)
    kept = {key: value for key, value in environment.variables().items() if not dropped.match(key)}
    modules = [run.fill(run.smoke.modules), run.standin.get("PYTHONPATH", "")]
    paths = [*map(str, run.imports), *filter(None, modules)]
    return {
        **kept,
        **run.standin,
        **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        "PATH": f"{run.environment.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HF_ENDPOINT": hub,
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        "HF_HOME": str(run.out / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "http_proxy": hub,
        "https_proxy": hub,
        "no_proxy": "127.0.0.1,localhost",
        "KIT_STANDIN_CALLS": str(run.calls),
        "OMP_NUM_THREADS": "1",  # a tiny model keeps no second thread busy; those that wait, spin
        "TORCH_EXTENSIONS_DIR": str(run.environment.extensions),
    }
