"""The level smoke: the recipe's own launch and inference scripts, run on a tiny model, step by step.

Each step is held against what it must show. Red and parity run on the same ground.
"""

from __future__ import annotations

import contextlib
import json
import math
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
from kit.environment import Environment
from kit.errors import KitError
from kit.proof import Smoke, SmokeStep
from kit.recipe import Recipe
from kit.smoke import extensions, models, process, watched
from kit.smoke import standin as standins
from kit.smoke.endpoint import no_hub
from kit.smoke.forkserver import Server, serve

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Finding:
    """One thing a step had to show: whether it did, and what was seen."""

    what: str
    ok: bool
    seen: str = ""


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


@dataclass(frozen=True)
class Run:
    """Where a smoke run happens: the folder its commands run in, an empty one for what they write, the tiny model."""

    recipe: Recipe
    smoke: Smoke
    device: Device
    environment: Environment
    folder: Path
    out: Path
    tiny: Path
    standin: Mapping[str, str]  # variables that bring in the device's stand-in; none on the device itself
    imports: tuple[Path, ...] = ()  # folders whose packages are taken instead of the environment's
    server: Server | None = None  # what forks the steps; none: each starts its programs anew

    @property
    def through(self) -> str:
        """How a verdict reached here must be qualified: through a stand-in, or not at all."""
        return "through the stand-in" if self.standin else ""

    @property
    def calls(self) -> Path:
        """Where the processes of a step say how often they called what of the stand-in: kit_standin, report."""
        return self.out / "calls.jsonl"

    def fill(self, text: str) -> str:
        places = {"tiny": str(self.tiny), "out": str(self.out), "device": self.device.device}
        return re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), text)


@contextlib.contextmanager
def begin(recipe: Recipe, device: Device, workspace: Path, work: Path) -> Iterator[Run]:
    """Build the environment and the tiny model. Raises KitError where the recipe has no smoke run."""
    if recipe.smoke is None:
        raise KitError(f"recipe {recipe.name} has no smoke run", "add a [smoke] table to it")
    made = environment.ensure(recipe, device, workspace)
    extensions.build(recipe, made)
    tiny = work / "tiny"
    missing = device.package and not environment.has_device(device)
    standin = standins.variables(device, made.python) if missing else {}
    run = Run(recipe, recipe.smoke, device, made, workspace / recipe.smoke.folder, work / "out", tiny, standin)
    with serving(run, work / "forks") as running:
        python, variables = _python(running)
        models.build(recipe.smoke.tiny, python, tiny, variables)
        yield running


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
    known = [step.name for step in steps]
    for name in names:
        if name not in known:
            what = f"recipe {run.recipe.name} has no smoke step {name!r} on {run.device.name}"
            raise KitError(what, f"its steps: {', '.join(known)}")
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
    findings = [*_findings(run, step, done, looked, requests, before)]
    if step.engine:
        findings.append(Finding(f"trained by {step.engine}", *watched.engine(watched.read(events), step.engine)))
    return StepReport(
        step.name,
        tuple(findings),
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


def _findings(
    run: Run,
    step: SmokeStep,
    done: process.Done,
    looked: Mapping[str, Any],
    requests: list[str],
    before: Mapping[str, Mapping[str, float]],
) -> Iterator[Finding]:
    if done.status is None:
        yield Finding(f"ends within {step.limit} s", False, "it hung, and was ended")
    else:
        seen = "" if done.status == 0 else f"exit {done.status}: {done.last_error()}"
        yield Finding("exit status 0", done.status == 0, seen)
    for pattern in step.prints:
        yield Finding(f"prints {pattern}", bool(re.search(pattern, done.text())))
    losses: Mapping[str, float] = looked.get("losses", {})
    if step.losses:
        finite = [value for value in losses.values() if math.isfinite(value)]
        shown = ", ".join(f"{number}: {value:.4g}" for number, value in losses.items())
        good = len(finite) == len(losses) == step.losses
        yield Finding(f"{step.losses} steps, every loss finite", good, shown or "no loss was logged")
    if step.like and step.like_on and run.device.name not in step.like_on:
        yield Finding(
            f"goes on where step {step.like} was",
            min(losses, default="") > "1",
            f"from step {min(losses, default='none')}",
        )
    elif step.like:
        common = {number: before.get(step.like, {}).get(number) for number in losses}
        wrong = [number for number, value in common.items() if not _near(value, losses[number], step.like_within)]
        seen = f"steps {', '.join(wrong)} differ" if wrong else f"{len(common)} equal"
        yield Finding(f"the losses of step {step.like}, continued", bool(common) and not wrong, seen)
    if step.unlike:
        common = {number: before.get(step.unlike, {}).get(number) for number in losses}
        differ = [number for number, value in common.items() if value is not None and value != losses[number]]
        seen = f"{len(differ)} of {len(common)} losses differ"
        yield Finding(f"other losses than step {step.unlike}", bool(differ), seen)
    if step.moved:
        found = looked.get("weights", {"tensors": 0, "moved": 0, "largest": 0.0})
        seen = f"{found['moved']} of {found['tensors']} moved, by up to {found['largest']:.2g}"
        yield Finding("the trained weights moved", 0 < found["tensors"] == found["moved"], seen)
    if step.images:
        pictures = looked.get("images", [])
        seen = ", ".join(f"{picture['name']} spread {picture['spread']}" for picture in pictures) or "no image"
        good = bool(pictures) and all(picture["spread"] > 0 for picture in pictures)
        yield Finding("images, none of one colour", good, seen)
    for name in step.files:
        yield Finding(f"writes {name}", Path(run.fill(name)).exists())
    for name in step.absent:
        yield Finding(f"does not write {name}", not Path(run.fill(name)).exists())
    asked = [request for request in requests if not any(re.search(allowed, request) for allowed in step.requests)]
    yield Finding("no network", not asked, f"asked for {', '.join(dict.fromkeys(asked))}" if asked else "")
    if step.calls and run.standin:
        counted = _calls(run)
        missing = [name for name in step.calls if not counted.get(name)]
        seen = ", ".join(f"{name} {count} times" for name, count in counted.items() if name in step.calls)
        yield Finding(f"calls {', '.join(step.calls)}", not missing, seen or "none was called")


def _near(expected: float | None, value: float, within: float) -> bool:
    return expected is not None and math.isclose(expected, value, rel_tol=within)


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


def _calls(run: Run) -> dict[str, int]:
    """How often each function of the stand-in was called in this step, over all its processes."""
    counted: dict[str, int] = {}
    for line in run.calls.read_text("utf-8").splitlines() if run.calls.exists() else ():
        for name, count in json.loads(line)["calls"].items():
            counted[name] = counted.get(name, 0) + count
    return counted


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
