"""`kit stash [WORKSPACE]`: set an edited workspace aside, or with --apply bring its edits back."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from kit import lock, output, stash, swap, workspace
from kit.errors import KitError


def run(workspace_path: str, apply: bool, source: str | None) -> int:
    place = Path(os.path.abspath(workspace_path))  # noqa: PTH100 - a link is refused, not followed
    shown = shlex.quote(output.place(place))
    if not (place / lock.NAME).is_file() or place.is_symlink():
        raise KitError(f"{place} is not a workspace of kit", "give its folder: kit stash WORKSPACE")
    if apply:
        aside = Path(source).absolute() if source else stash.newest(place)
        with swap.locked(place):
            brought = list(stash.apply(aside, place))
        for each in brought:
            output.line(f"  {each}")
        output.line(f"{len(brought)} brought back from {output.place(aside)}, which stays")
        return 0
    with swap.locked(place):
        if not workspace.is_edited(place):
            output.line(f"{output.place(place)} has no local edits")
            return 0
        aside, prepare = stash.free_name(place), f"kit prepare RECIPE --device DEVICE {shown}"
        if Path.cwd().is_relative_to(place.resolve()):
            raise KitError(f"you stand in {place}, which would be set aside", f"run it from {place.parent}")
        place.rename(aside)
    with contextlib.suppress(KitError):
        made = lock.read(aside)
        prepare = f"kit prepare {shlex.quote(made.recipe)} --device {made.device} {shown}   # or with other options"
    output.line(f"all of it was set aside: {output.place(aside)}")
    output.line("next:")
    output.line(f"  {prepare}")
    output.line(f"  kit stash {shown} --apply")
    return 0
