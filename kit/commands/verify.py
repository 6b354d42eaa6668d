"""`kit verify [WORKSPACE…]`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kit import output, verify, workspace
from kit.verify import Check


def run(workspaces: tuple[str, ...], as_json: bool) -> int:
    places = [place for start in workspaces or (".",) for place in workspace.find(Path(start))]
    reports = {place: verify.verify(place) for place in places}
    if as_json:
        output.as_json(
            [
                {
                    "workspace": str(place),
                    "verified": _verdict(checks),
                    "checks": [dataclasses.asdict(check) for check in checks],
                }
                for place, checks in reports.items()
            ]
        )
    else:
        for place, checks in reports.items():
            _print(place, checks)
    return 0 if all(_verdict(checks) for checks in reports.values()) else 1


def _verdict(checks: list[Check]) -> bool:
    return all(check.ok is not False for check in checks)


def _print(place: Path, checks: list[Check]) -> None:
    output.line(str(place))
    for level in dict.fromkeys(check.level for check in checks):
        output.line(f"  {level}")
        for check in checks:
            if check.level == level:
                mark = {True: "ok  ", False: "FAIL", None: "skip"}[check.ok]
                output.line(f"    {mark}  {check.name}{f': {check.detail}' if check.detail else ''}")
    counts = {state: sum(check.ok is state for check in checks) for state in (True, False, None)}
    output.line(
        f"  {'verified' if _verdict(checks) else 'NOT verified'} (tree, static): "
        f"{counts[True]} ok, {counts[False]} failed, {counts[None]} skipped; nothing was run"
    )
