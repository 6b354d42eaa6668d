"""`kit rebase RECIPE --to COMMIT`: move the pin; `--continue` and `--abort` as git's own."""

from __future__ import annotations

import base64
import dataclasses
import shutil
from collections.abc import Collection
from pathlib import Path
from shlex import quote

from kit import beside, history, output, rebase, recipe, recipes, underway
from kit.commands.refresh import adopted, generate
from kit.errors import KitError
from kit.paths import TreePath
from kit.rebase import Moved
from kit.recipe import FixStep, Recipe
from kit.underway import State


def run(recipe_name: str, to: str | None, upstream: str | None, continue_: bool, abort: bool, offline: bool) -> int:
    path = recipes.locate(recipe_name)
    beside.check_ours(path)
    state = underway.find(path)
    if (continue_ or abort) and not state:
        raise KitError(f"no rebase of {recipe_name} is under way", f"kit rebase {quote(recipe_name)} --to COMMIT")
    if abort and state:
        underway.abort(path, state)
        output.line(f"{path}: recipe and patches are as they were")
        return 0
    if state and not state.written and not state.done:
        raise KitError(f"a rebase of {recipe_name} was cut short", f"kit rebase {quote(recipe_name)} --abort")
    if continue_ and state:
        return _continue(path, state, offline)
    if state and state.tree:
        hint = f"kit rebase {quote(recipe_name)} --continue, or --abort"
        raise KitError(f"a rebase of {recipe_name} is under way, with conflicts in {state.tree}", hint)
    found = recipes.parse(path).whole
    return _start(found, recipe_name, to or "HEAD", _which(found, upstream), offline)


def _which(found: Recipe, name: str | None) -> str:
    """The upstream whose pin moves. Raises KitError where that is not clear."""
    names = [each.name for each in found.upstream if not history.why_none(each)]
    if name in names or (name is None and len(names) == 1):
        return name or names[0]
    if not names:
        raise KitError(f"{found.name}: no upstream of it has a history to move along", f"kit show {found.called}")
    raise KitError(
        f"which upstream of {found.name}? {', '.join(names)}", f"kit rebase {found.called} --upstream {names[0]}"
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
    wanted = rebase.files(found, text, _patches(kept, [each.fix.id for each in conflicts], offline))
    lost = {str(path): ids for path, ids in rebase.losses(conflicts).items()}
    tree = Path(f"{found.name}-rebase").absolute() / name
    _write(found, kept, conflicts, wanted, State(str(found.root), name, past.tip, {}, {}, lost=lost), tree, offline)
    if not conflicts:
        output.line("next:")
        on = f"{quote(called)} --device {found.devices[0]}"
        output.line(f"  kit prepare {on} && kit env {on} --lock && kit verify --smoke")
        output.line(f"  kit rebase {quote(called)} --continue   # it is right; or --abort: as it was")
        return 0
    for each in conflicts:
        for why in each.why.values():
            output.line(f"  {each.fix.id}: {why}")
        if stays := [path for path in each.fix.files if path not in each.why]:
            output.line(f"  {each.fix.id} stays in {', '.join(stays)}")
    output.line(f"conflicts, as of a merge (base: the pin), in {output.place(tree)}: {', '.join(lost)}")
    for path in lost:
        if b"\n<<<<<<< " not in (tree / path).read_bytes():
            output.line(f"  {path} merged as text without a conflict: see whether that is right")
    output.line(f"next: resolve them there, then: kit rebase {quote(called)} --continue (or --abort)")
    output.line("  where a fix is not needed any more: git checkout --theirs FILE, and it is dropped")
    return 1


def _write(
    found: Recipe,
    new: Recipe,
    conflicts: list[Moved],
    wanted: dict[str, bytes],
    state: State,
    tree: Path,
    offline: bool,
) -> None:
    """Write what the recipe becomes, and its folder of conflicts: killed at any point, `--abort` takes it back."""
    before = {name: base64.b64encode(content).decode() for name, content in rebase.present(found).items()}
    state = dataclasses.replace(state, kept=before, tree=str(tree) if conflicts else "").going_to(wanted)
    if conflicts and tree.exists():
        raise KitError(f"{tree} is in the way", "move it away, then the same command again")
    underway.record(found.path, state)
    try:
        if conflicts:
            place = underway.being_made(tree)
            shutil.rmtree(place, ignore_errors=True)
            base, left = rebase.leave_conflicts(found, new, state.upstream, conflicts, place, offline)
            state = dataclasses.replace(state, base=base, left=left)
            underway.record(found.path, state)
            place.rename(tree)
        rebase.write(found, wanted)
        underway.record(found.path, dataclasses.replace(state, written=True))
    except BaseException:
        underway.abort(found.path, state)
        raise


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


def _continue(path: Path, state: State, offline: bool) -> int:
    if state.finished or (state.resolved and state.done):
        underway.forget(path, state)
        output.line(f"{path}: nothing was left to do")
        return 0
    found = recipes.parse(path).whole
    changes = rebase.resolved(state)
    groups: dict[tuple[str, ...], dict[TreePath, tuple[bytes, bytes]]] = {}
    lost = {TreePath(name): tuple(fixes) for name, fixes in state.lost.items()}
    first = next((lost[each] for each in changes if each in lost), next(iter(lost.values())))
    for each, change in changes.items():
        groups.setdefault(lost.get(each, first), {})[each] = change
    steps = {step.id: step for step in found.fix}
    stay = {id for id, step in steps.items() if any(id not in lost.get(each, ()) for each in step.files)}
    by_hand = [(_by_hand([steps[id] for id in ids], each, stay, state.pin), each) for ids, each in groups.items()]
    heirs = {id: step.id for ids, (step, _) in reversed([*zip(groups, by_hand, strict=True)]) for id in ids}
    heirs = {id: id if id in {step.id for step, _ in by_hand} else heir for id, heir in heirs.items() if id not in stay}
    names, wanted = adopted(found, state.upstream, by_hand, lost, heirs, offline)
    state = dataclasses.replace(state.going_to(wanted), resolved=True)
    underway.record(path, state)
    rebase.write(found, wanted)
    underway.forget(path, state)
    patches = {each: name for name, (_, made) in zip(names, by_hand, strict=True) for each in made}
    for each in sorted({*lost, *patches}):
        fixes = ", ".join(lost.get(each, ())) or "nothing"
        if each in patches:
            output.line(f"{found.name}: {each}: {patches[each]} in place of {fixes}")
        else:
            output.line(f"{found.name}: {each}: {fixes} dropped, nothing was left to patch")
    for red in found.smoke.red if found.smoke else ():
        if red.fix not in stay and red.fix not in heirs:
            output.line(f"{found.name}: the red of {red.fix} went with it")
    return 0


def _by_hand(fixes: list[FixStep], files: Collection[TreePath], stay: Collection[str], pin: str) -> FixStep:
    """The hand-written step that does in ``files`` what the ``fixes`` did, called after them."""
    name = "-".join(step.id for step in fixes)
    while name in stay:
        name += "-by-hand"
    said = [
        f"{step.module.TITLE.capitalize()}; by hand since the pin moved to {pin[:12]}." if step.module else step.why
        for step in fixes
    ]
    every = any(not step.devices for step in fixes)
    devices = () if every else tuple(sorted({device for step in fixes for device in step.devices}))
    extra = all(step.extra for step in fixes)
    return FixStep(
        name, tuple(sorted(files)), fixes[0].upstream, "patch", devices=devices, extra=extra, why=" ".join(said)
    )
