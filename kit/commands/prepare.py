"""`kit prepare RECIPE --device DEVICE [DEST]`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

from kit import lock, output, planning, recipes, workspace
from kit.errors import KitError
from kit.options import shown
from kit.planning import Plan
from kit.series import Step


def run(
    recipe_name: str,
    device: str | None,
    dest: str | None,
    without: tuple[str, ...],
    extras: tuple[str, ...],
    settings: tuple[str, ...],
    profile: str,
    dry_run: bool,
    offline: bool,
    force: bool,
    as_json: bool,
    check: bool = False,
    **cluster: Any,
) -> int:
    """Prepare; with ``check`` only what the recipe's own check of settings and data lets through."""
    found = recipes.load(recipe_name).having(extras)
    if device is None:
        hint = f"kit prepare {found.called} --device {found.devices[0]}"
        raise KitError(f"which device? {found.name} supports {', '.join(found.devices)}", hint)
    target = found.device(device)
    destination = Path(dest or f"{found.name}-{device}")
    options = found.options(device, profile, given(settings))
    plan = planning.plan(found, target, planning.cluster_of(found, target, **cluster), without, offline, options)
    made: lock.Lock | None = None
    backup: Path | None = None
    changed = False
    if not dry_run:
        made, backup, changed = workspace.prepare(plan, destination, force, check)
    if as_json:
        output.as_json(_report(plan, made, destination, changed, backup))
        return 0
    output.line(f"{found.name} for {target.title}{' (dry run)' if dry_run else ''}")
    if plan.changed:
        output.line(f"  options: {', '.join(f'{name}={shown(value)}' for name, value in plan.changed.items())}")
    for each in plan.upstreams:
        fetched = f"fetched {each.entry.fetched / 1e6:.1f} MB" if each.entry.fetched else "from the cache"
        brought = "carried with the recipe" if each.upstream.carried else fetched
        output.line(f"  {each.upstream.name} {each.upstream.pin[:12]}, {brought}")
        rows = [(str(step.outcome), step.fix.id, _how(step)) for step in each.steps]
        if each.overlay:
            rows.append(("copied", "overlay", f"{len(each.overlay)} files"))
        output.table(rows, indent="    ")
        if made:
            output.line(f"    commit {made.upstreams[each.upstream.name].commit}")
    if backup:
        output.line(f"the edited tree was set aside: {backup}")
    if dry_run:
        output.line(f"nothing was written; without --dry-run the workspace is {destination}")
    else:
        output.line(f"{'prepared' if changed else 'already prepared'}: {destination}")
        output.line("next:")
        place = quote(str(destination))
        for command in (f"kit verify {place}", f"cd {place}", *found.then(device, options)):
            output.line(f"  {command}")
    return 0


def given(settings: Iterable[str]) -> dict[str, str]:
    """`name=value` words as a table, the last of a name wins. Raises KitError for a word without `=`."""
    for word in settings:
        if "=" not in word:
            raise KitError(f"--set {word}: no value", f"--set {word}=VALUE")
    return {name.replace("-", "_"): value for name, _, value in (word.partition("=") for word in settings)}


def _how(step: Step) -> str:
    """How what came of a fix came to be, in the first of its files where it did."""
    how = next(file.how for file in step.outcomes if file.outcome is step.outcome)
    return {"patch": "patch, exactly", "codemod": "codemod", "check": "already upstream"}[how]


def _report(
    plan: Plan, made: lock.Lock | None, destination: Path, changed: bool, backup: Path | None
) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.name,
        "device": plan.device.name,
        "workspace": str(destination),
        "options": plan.options,
        "changed": changed,
        "backup": str(backup) if backup else None,
        "upstreams": {
            each.upstream.name: {
                "pin": each.upstream.pin,
                "fetched_bytes": each.entry.fetched,
                "commit": made.upstreams[each.upstream.name].commit if made else None,
                "tree": made.upstreams[each.upstream.name].tree if made else None,
                "fixes": [
                    {
                        "id": step.fix.id,
                        "outcome": str(step.outcome),
                        "files": [
                            {"path": file.path, "outcome": str(file.outcome), "how": file.how} for file in step.outcomes
                        ],
                    }
                    for step in each.steps
                ],
                "overlay": list(each.overlay),
            }
            for each in plan.upstreams
        },
    }
