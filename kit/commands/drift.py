"""`kit drift [RECIPE…] [--to REF] [--history]`: what upstream's other commits do to a series."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit import drift, history, output, recipes, whole
from kit.drift import Found, Segment, Subject, Timeline
from kit.recipe import Recipe

REBASE, MEND = 4, 5  # exit statuses: what the newest version asks for


def run(
    recipe_names: tuple[str, ...],
    device: str | None,
    to: str,
    back: bool,
    offline: bool,
    report: str,
    as_json: bool,
) -> int:
    subjects = []
    for name in recipe_names or recipes.mine():
        found = recipes.load(name).whole
        profile = found.device(device or found.devices[0])
        for upstream in found.upstream:
            if lacks := history.why_none(upstream):
                output.note(f"{found.name}: {upstream.name} {lacks}")
                continue
            past = history.fetch(upstream, to, offline)
            subjects.append(drift.Subject(found, upstream, profile, past, back))
    results = drift.work_out(subjects)
    reports = [_drift(about, results, quiet=as_json) for about in subjects]
    if as_json:
        output.as_json(reports)
    if report:
        from kit import report as page

        whole.write(Path(report), page.html({"reports": reports}, "drift.html.j2").encode())
        output.note(f"report: {report}")
    verdicts = {fix["verdict"] for each in reports for fix in each["fixes"]}
    return MEND if "mend" in verdicts else REBASE if "rebase" in verdicts else 0


def _drift(about: Subject, results: Mapping[str, Found], quiet: bool) -> dict[str, Any]:
    """Print what became of one upstream's part of a series, unless ``quiet``. Returns the report of --json."""
    found, upstream, device, past = about.recipe, about.upstream, about.device, about.history
    lines = drift.timelines(about, results)
    tip, _ = past.date(past.tip)
    if not quiet:
        start = "the beginning" if about.back else "the pin"
        output.line(
            f"{found.name} for {device.title}: {upstream.name} from {start} to {past.tip[:12]} ({output.day(tip)})"
        )
        for path in dict.fromkeys(line.path for line in lines):
            _show([line for line in lines if line.path == path], path)
        _verdict(found, lines, past.tip)
    return {
        "recipe": found.name,
        "title": found.title,
        "upstream": upstream.name,
        "url": upstream.url,
        "device": device.name,
        "pin": upstream.pin,
        "tip": past.tip,
        "fixes": [{**dataclasses.asdict(line), "verdict": line.verdict} for line in lines],
    }


def _show(lines: list[Timeline], path: str) -> None:
    versions = sum(segment.versions for segment in lines[0].segments)
    output.line(f"  {path}: {versions} version{'s' * (versions != 1)}")
    for line in lines:
        mark = {"": "", "rebase": "  <- kit rebase can take it", "mend": "  <- look at it"}[line.verdict]
        if len(line.segments) == 1:
            (only,) = line.segments
            output.line(f"    {line.fix}: {only.outcome} throughout{_why(only)}{mark}")
            continue
        output.line(f"    {line.fix}: {line.at_pin} at the pin, {line.now} now{mark}")
        output.table([_row(segment) for segment in line.segments], indent="      ")


def _row(segment: Segment) -> tuple[str, ...]:
    pin = "pin" if segment.pinned else ""
    count = f"{segment.versions}x"
    return (output.day(segment.time), segment.commit[:12], count, pin, f"{segment.outcome}{_why(segment)}")


def _why(segment: Segment) -> str:
    where = f"line {segment.line}: " if segment.line else ""
    return f" ({where}{segment.reason})" if segment.outcome == "conflict" else ""


def _verdict(found: Recipe, lines: list[Timeline], tip: str) -> None:
    mend = [line for line in lines if line.verdict == "mend"]
    moved = [line for line in lines if line.verdict == "rebase"]
    for line in mend:
        output.line(f"  {line.fix} needs a person: {line.now} in {line.path} since {line.segments[-1].commit[:12]}")
    if mend or moved:
        output.line(f"  next: kit rebase {found.called} --to {tip}")
    else:
        output.line("  the series holds as it is")
