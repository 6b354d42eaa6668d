"""`kit patch-env PYTHON --recipe RECIPE [--restore]`: patch installed packages in place."""

from __future__ import annotations

from pathlib import Path

from kit import inplace, output, planning, recipes
from kit.errors import KitError


def run(python: str, recipe_name: str, device: str | None, restore: bool) -> int:
    found = recipes.load(recipe_name)
    wanted = {each.package: each.version.removeprefix("v") for each in found.upstream if each.package}
    if not wanted:
        raise KitError(
            f"recipe {found.name} patches no installed package",
            f"kit prepare {found.called} --device {found.devices[0]}",
        )
    present = inplace.installed(python, list(wanted))
    if restore:
        records = {folder / inplace.RECORD for _, folder in present.values()}
        done = [path for record in sorted(records) for path in inplace.restore(record)]
        for path in done:
            output.line(f"restored {path}")
        output.line(f"put back: {len(done)}" if done else "nothing was patched here")
        return 0
    for name, version in wanted.items():
        if name not in present:
            raise KitError(f"{python} has no {name}", f"{python} -m pip install {name}=={version}")
    profile = found.device(device or found.devices[0])
    plan = planning.plan(found, profile, planning.cluster_of(found, profile))
    todo: list[tuple[Path, list[inplace.Change]]] = []
    for each in plan.upstreams:
        if each.upstream.package:
            version, folder = present[each.upstream.package]
            todo.append((folder / inplace.RECORD, inplace.check(inplace.changes(each, version, folder))))
    for record, changes in todo:  # only now: everything has been looked at
        if changes:
            inplace.patch(changes, record)
        for change in changes:
            output.line(f"{'patched' if change.before is not None else 'added':8} {change.path}")
    if not any(changes for _, changes in todo):
        output.line("already patched: nothing to do")
    output.line(f"next: kit patch-env {python} --recipe {found.name} --restore  # puts them back")
    return 0
