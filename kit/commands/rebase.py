"""`kit rebase RECIPE --to COMMIT`: move the pin; `--continue` and `--abort` as git's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kit import history, output, rebase, recipe
from kit.commands.refresh import adopt, generate
from kit.errors import KitError
from kit.rebase import Moved, State
from kit.recipe import Recipe


def run(recipe_name: str, to: str | None, upstream: str | None, continue_: bool, abort: bool, offline: bool) -> int:
    path = recipe.locate(recipe_name)
    state = rebase.begun(path)
    if (continue_ or abort) and not state:
        raise KitError(f"no rebase of {recipe_name} is under way", f"kit rebase {recipe_name} --to COMMIT")
    if abort and state:
        rebase.abort(recipe.parse(path), state)
        output.line(f"{path}: recipe and patches are as they were")
        return 0
    found = recipe.parse(path).whole
    if continue_ and state:
        return _continue(found, state, offline)
    if state and state.tree:
        hint = f"kit rebase {recipe_name} --continue, or --abort"
        raise KitError(f"a rebase of {recipe_name} is under way, with conflicts in {state.tree}", hint)
    return _start(found, recipe_name, to or "HEAD", _which(found, upstream), offline)


def _which(found: Recipe, name: str | None) -> str:
    """The upstream whose pin moves. Raises KitError where that is not clear."""
    names = [each.name for each in found.upstream if not history.why_none(each)]
    if name in names or (name is None and len(names) == 1):
        return name or names[0]
    if not names:
        raise KitError(f"{found.name}: no upstream of it has a history to move along", f"kit show {found.name}")
    raise KitError(
        f"which upstream of {found.name}? {', '.join(names)}", f"kit rebase {found.name} --upstream {names[0]}"
    )


def _start(found: Recipe, called: str, to: str, name: str, offline: bool) -> int:
    upstream = rebase.upstream_of(found, name)
    past = history.fetch(upstream, to, offline)
    if past.tip == upstream.pin:
        output.line(f"{found.name}: {name} is at {past.tip[:12]} already")
        return 0
    version = output.day(past.date(past.tip)[0])
    new = rebase.at(found, upstream, past.tip, version)
    fixes = rebase.moved(found, new, name, offline)
    output.line(f"{found.name}: {name} {upstream.pin[:12]} -> {past.tip[:12]} ({version})")
    before = {step.id: step.count for step in found.fix}
    output.table([(each.state, each.fix.id, _said(each, before[each.fix.id])) for each in fixes])
    taken = [each.fix.id for each in fixes if each.state == "taken"]
    conflicts = [each for each in fixes if each.state == "conflict"]
    for each in conflicts:
        if each.fix.derive_from:
            hint = f"mend the fix first: the ones after it are about the file it makes of {each.fix.derive_from}"
            raise KitError(f"{found.name}: fix {each.fix.id}: {next(iter(each.why.values()))}", hint)
    steps = {each.fix.id: each.fix for each in fixes}
    stay = tuple(steps.get(step.id, step) for step in found.fix if step.id not in taken)
    counts = {step.id: step.count for step in stay}
    kept = dataclasses.replace(new, fix=stay)
    text = rebase.rewritten(found, upstream, past.tip, version, taken, counts)
    tree = Path(f"{found.name}-rebase").absolute()
    files: list[str] = []
    patches = _patches(kept, [each.fix.id for each in conflicts], offline)
    if conflicts:
        files = rebase.leave_conflicts(found, kept, name, conflicts, tree / name, offline)
    rebase.begin(
        found, name, past.tip, str(tree / name) if conflicts else "", [each.fix.id for each in conflicts], files
    )
    rebase.write(found, text, patches)
    if not conflicts:
        output.line("next:")
        on = f"{called} --device {found.devices[0]}"
        output.line(f"  kit prepare {on} && kit env {on} --lock && kit verify --smoke")
        output.line(f"  kit rebase {called} --continue   # it is right; or --abort: as it was")
        return 0
    for each in conflicts:
        for why in each.why.values():
            output.line(f"  {each.fix.id}: {why}")
    output.line(f"conflicts, as of a merge (base: the pin), in {output.place(tree / name)}: {', '.join(files)}")
    for file in files:
        if b"\n<<<<<<< " not in (tree / name / file).read_bytes():
            output.line(f"  {file} merged as text without a conflict: see whether that is right")
    output.line(f"next: resolve them there, then: kit rebase {called} --continue (or --abort)")
    output.line("  where a fix is not needed any more: git checkout --theirs FILE, and it is dropped")
    return 1


def _said(each: Moved, before: int) -> str:
    counted = f"{each.fix.count} places, {before} before" if each.fix.count != before else ""
    return _SAID.get(each.state, counted)


_SAID = {
    "taken": "upstream has it now: dropped from the series",
    "conflict": "resolve it by hand, or mend the fix",
}


def _patches(found: Recipe, left_out: list[str], offline: bool) -> dict[str, dict[str, bytes]]:
    """Every upstream's patches, but for those of the fixes ``left_out``."""
    steps = (dataclasses.replace(step, devices=recipe.NOWHERE) if step.id in left_out else step for step in found.fix)
    reduced = dataclasses.replace(found, fix=tuple(steps))
    return {each.name: generate(reduced, each, offline) for each in found.upstream}


def _continue(found: Recipe, state: State, offline: bool) -> int:
    if not state.tree:
        rebase.end(found.path, state)
        output.line(f"{found.name}: nothing was left to do")
        return 0
    changes = rebase.resolved(state)
    why = f"Merged by hand when the pin moved to {state.pin[:12]}: {', '.join(state.conflicts)}."
    name = adopt(found, state.upstream, state.conflicts[0], why, changes, state.conflicts, offline)
    rebase.end(found.path, state)
    gone = ", ".join(state.conflicts)
    said = f"{name} in place of {gone}" if name else f"{gone} dropped: nothing was left to patch"
    output.line(f"{found.name}: {said}")
    return 0
