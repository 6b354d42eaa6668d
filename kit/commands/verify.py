"""`kit verify [WORKSPACE…] [--smoke] [--red]`."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import __version__, git, lock, output, recipe, series, store, verify, workspace
from kit.cache import cache_dir
from kit.errors import KitError
from kit.lock import Lock
from kit.paths import TreePath
from kit.recipe import Recipe
from kit.schema import nearest
from kit.verify import Check

LEVELS = {"tree": "contents", "static": "nothing was run", "smoke": "run on a tiny model", "red": "each fix left out"}


def run(
    workspaces: tuple[str, ...],
    smoke: bool,
    red: bool,
    steps: tuple[str, ...],
    fixes: tuple[str, ...],
    report: str,
    as_json: bool,
) -> int:
    if fixes and not red:
        raise KitError("--fix is for --red, which is not given", f"kit verify --red --fix {fixes[0]}")
    places = [place for start in workspaces or (".",) for place in workspace.find(Path(start))]
    if report and len(places) != 1:
        raise KitError(f"--report is for one workspace, these are {len(places)}", "name one")
    reports = [_verify(place, smoke or red, red, steps, fixes, quiet=as_json) for place in places]
    if as_json:
        output.as_json(reports)
    if report:
        from kit import report as page

        Path(report).write_text(page.html(reports[0]), encoding="utf-8")
        output.note(f"report: {report}")
    return 0 if all(each["verified"] for each in reports) else 1


def _verify(
    place: Path, smoke: bool, red: bool, steps: tuple[str, ...], fixes: tuple[str, ...], quiet: bool
) -> dict[str, Any]:
    """Prove one workspace, printing as it goes unless ``quiet``. Returns the report that --json prints."""
    locked = lock.read(place)
    found = recipe.load(locked.recipe).having(locked.extras).at(locked.device, locked.options)
    device = found.device(locked.device)
    known = [step.id for step in found.fix if found.chosen(step, device.name)]
    for name in fixes:
        if name not in known:
            raise KitError(f"{place}: no fix {name!r} here{nearest(name, known)}", f"its fixes: {', '.join(known)}")
    checks: list[Check] = []
    if not quiet:
        output.line(f"{output.place(place)}: {found.title} for {device.title}")

    def add(some: Iterator[Check]) -> None:
        for check in some:
            if not quiet:
                if not checks or checks[-1].level != check.level:
                    output.line(f"  {check.level} ({LEVELS[check.level]})")
                mark = {True: "ok  ", False: "FAIL", None: "skip"}[check.ok]
                output.line(f"    {mark}  {check.name}{f': {check.detail}' if check.detail else ''}")
            checks.append(check)

    add(verify.tree(place, locked))
    add(verify.static(place, locked, found))
    runs: list[Any] = []
    reds: list[Any] = []
    through = ""
    if smoke:
        through = _run(place, locked, found, red, steps, fixes, add, runs, reds)
    chip = f"{device.title}{', a stand-in' if through else ''}"
    measured = [{**figure, "chip": chip, "task": each.name} for each in runs for figure in each.measured]
    if measured and not quiet:
        output.line(f"  measured here, on a tiny model (published figures: kit show {found.name})")
        shown = [(f"{each['value']:g} {each['metric']}", each["task"], each["setting"]) for each in measured]
        output.table(shown, indent="    ")
    counts = {state: sum(check.ok is state for check in checks) for state in (True, False, None)}
    levels = list(dict.fromkeys(check.level for check in checks))
    if not quiet:
        verdict = "NOT verified" if counts[False] else "verified"
        where = f" {through}" if through else ""
        where += f", of smoke only {', '.join(steps)}" if runs and steps else ""
        where += f", of red only {', '.join(fixes)}" if fixes else ""
        output.line(
            f"  {verdict}{where} ({', '.join(levels)}): "
            f"{counts[True]} ok, {counts[False]} failed, {counts[None]} skipped"
        )
    return {
        "kit": __version__,
        "workspace": str(place),
        "recipe": found.name,
        "title": found.title,
        "device": device.name,
        "device_title": device.title,
        "through": through,
        "verified": not counts[False],
        "levels": levels,
        "only_steps": list(steps),  # of the smoke run; empty: all
        "only_fixes": list(fixes),  # of red; empty: all
        "upstreams": {
            name: {"url": each.url, "pin": each.pin, "commit": each.commit} for name, each in locked.upstreams.items()
        },
        "checks": [dataclasses.asdict(check) for check in checks],
        "runs": [{**dataclasses.asdict(each), "ok": each.ok} for each in runs],
        "figures": {
            "published": [{**dataclasses.asdict(each), "setting": each.setting} for each in found.figure],
            "measured": measured,
        },
        "reds": [dataclasses.asdict(each) for each in reds],
        "fixes": [_fix(place, locked, step) for step in found.fix if found.chosen(step, device.name)],
    }


def _run(
    place: Path,
    locked: Lock,
    found: Recipe,
    red: bool,
    steps: tuple[str, ...],
    fixes: tuple[str, ...],
    add: Any,
    runs: list[Any],
    reds: list[Any],
) -> str:
    """Levels smoke and red. The working folder is kept where something failed."""
    from kit.smoke import run as smoke

    device = found.device(locked.device)
    base = cache_dir() / "smoke"
    base.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{found.name}-{device.name}-", dir=base))
    keep = True
    try:
        with smoke.begin(found, device, place, work) as running:

            def checks() -> Iterator[Check]:
                for report in smoke.smoke(running, steps):
                    runs.append(report)
                    yield _step_check(report)

            def red_checks() -> Iterator[Check]:
                for report in smoke.red(running, locked, _at_pin(found, device.name), fixes):
                    reds.append(report)
                    name = f"without {report.fix} the failure it is for appears"
                    yield Check("red", name, report.shown, report.seen)

            add(checks())
            if red:
                add(red_checks())
        keep = not all(report.ok for report in runs) or any(report.shown is False for report in reds)
    finally:
        if not keep or not any(work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)
    return running.through


def _step_check(report: Any) -> Check:
    """One line a step: what it took, or which finding failed, its log and the last error."""
    failed = [
        f"{finding.what}{f': {finding.seen}' if finding.seen else ''}" for finding in report.findings if not finding.ok
    ]
    if failed:
        return Check("smoke", report.name, False, f"{'; '.join(failed)} (log: {report.log})")
    seen = "; ".join(finding.what for finding in report.findings)
    return Check("smoke", report.name, True, f"{report.seconds:.0f} s: {seen}")


def _at_pin(found: Recipe, device: str) -> dict[str, dict[TreePath, bytes]]:
    """For each upstream, the files its fixes change, as they are at the pin."""
    entries = {upstream.name: store.ensure(upstream, found.path.parent) for upstream in found.upstream}
    return {name: entry.files(found.sources(name, device)) for name, entry in entries.items()}


def _fix(place: Path, locked: Lock, step: recipe.FixStep) -> dict[str, str]:
    """A fix for the report: what it is for, its outcome and its diff."""
    subject, body = series.message(step)
    made = next((fix for fix in locked.upstreams[step.upstream].fixes if fix.id == step.id), None)
    diff = ""
    if made and made.commit:
        arguments = ("show", "--no-ext-diff", "--format=", made.commit)
        diff = git.run(*arguments, at=place / step.upstream, statuses=(0, 128)).decode("utf-8", "replace")
    outcome = made.outcome if made else "left out"
    return {"id": step.id, "title": subject.partition(": ")[2], "why": body, "outcome": outcome, "diff": diff}
