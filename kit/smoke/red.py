"""The level red: each fix is left out in turn, and the failure it is for must appear.

The failure is one of a smoke step, or of a comparison of a parity case.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kit.lock import Lock
from kit.paths import TreePath
from kit.proof import Red
from kit.smoke import parity, scratch
from kit.smoke import run as smoke
from kit.smoke.ground import Run
from kit.smoke.run import StepReport


@dataclass(frozen=True)
class RedReport:
    """A fix left out: whether the failure it is for appeared (None: it cannot be shown here, and why)."""

    fix: str
    shown: bool | None
    seen: str
    steps: tuple[StepReport, ...] = ()


def red(
    run: Run, locked: Lock, files: Mapping[str, Mapping[TreePath, bytes]], names: tuple[str, ...] = ()
) -> Iterator[RedReport]:
    """Leave each fix (those named, or all) out in turn. ``files``: for each upstream, the fixed files as they are at
    the pin."""
    for step in run.recipe.fix:
        if not run.recipe.chosen(step, run.device.name) or (names and step.id not in names):
            continue
        plans = [plan for plan in run.smoke.red if plan.fix == step.id]
        here = [plan for plan in plans if not plan.devices or run.device.name in plan.devices]
        if step.id in locked.without:
            yield RedReport(step.id, None, "not in this workspace: left out with --without")
        elif not plans:
            yield RedReport(step.id, None, "unproven: the recipe names no run that fails without it")
        elif not here:
            shown = ", ".join(dict.fromkeys(device for plan in plans for device in plan.devices))
            yield RedReport(step.id, None, f"unproven on {run.device.name}: it shows on {shown}")
        for plan in here if step.id not in locked.without else ():
            yield _red(run, plan, files)


def _red(run: Run, plan: Red, files: Mapping[str, Mapping[TreePath, bytes]]) -> RedReport:
    steps = [replace(step, limit=plan.limit or step.limit) for step in run.smoke.step if step.name in plan.steps]
    reports: list[StepReport] = []
    seen: list[tuple[str, str, str]] = []  # what failed, how, and the log it is in
    for attempt in range(plan.attempts):
        with contextlib.ExitStack() as stack:
            without = stack.enter_context(scratch.without(run, (plan.fix,), files, plan.undo))
            chosen = replace(run.smoke, step=tuple(steps)).steps(run.device.name, run.recipe.extras)
            reports = list(smoke.in_turn(without, chosen, plan.steps if plan.online else ()))
            seen = [
                (
                    f"in step {report.name} this failed: {finding.what}",
                    finding.seen,
                    Path(report.log).read_text("utf-8", "replace"),
                )
                for report in reports
                for finding in report.findings
                if not finding.ok
            ]
            if plan.parity:
                rows = parity.parity(without, files, plan.parity, plan.compare)
                seen += [
                    (f"in parity case {row.case} this failed: {row.what}", row.seen, "")
                    for row in rows
                    if row.ok is False
                ]
        for what, how, log in seen:
            evidence = f"{what} ({how})" if how else what
            if found := re.search(plan.shows, f"{evidence}\n{log}"):
                evidence += "" if found[0] in evidence else f" ({found[0]})"
                tries = f" (attempt {attempt + 1} of {plan.attempts})" if plan.attempts > 1 else ""
                return RedReport(plan.fix, True, f"{evidence}{tries}", tuple(reports))
    failed = "; ".join(f"{what} ({how})" if how else what for what, how, _ in seen)
    missing = f"{failed or 'everything passed without it'}; looked for {plan.shows}"
    return RedReport(plan.fix, False, missing, tuple(reports))
