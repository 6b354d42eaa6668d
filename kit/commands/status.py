"""`kit status [WORKSPACE]`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kit import edits, lock, output, workspace


def run(workspace: str | None, as_json: bool) -> int:
    reports = [(place, lock.read(place), list(_edits(place))) for place in _find(Path(workspace or "."))]
    if as_json:
        output.as_json(
            [
                {"workspace": str(place), **dataclasses.asdict(locked), "edits": list(map(dataclasses.asdict, found))}
                for place, locked, found in reports
            ]
        )
        return 0
    for place, locked, found in reports:
        output.line(f"{output.place(place)}: {locked.recipe} for {locked.device}, made by kit {locked.kit}")
        for name, upstream in locked.upstreams.items():
            output.line(f"  {name} {upstream.pin[:12]}, commit {upstream.commit}")
            output.table([(fix.outcome, fix.id, fix.commit[:12]) for fix in upstream.fixes], indent="    ")
        output.line(f"  local edits: {len(found) or 'none'}")
        for edit in found:
            output.line(f"    {edit}")
    return 0


_edits, _find = edits.edits, workspace.find
