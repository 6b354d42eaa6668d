"""`kit refresh [RECIPE…]`: write each fix's patch anew from its codemod, at the pin; or a patch from edits by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from kit import beside, git, lock, output, patchwrite, rebase, recipes, series, store, whole
from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import FixStep, Recipe, Upstream

AUTHOR = "kit <kit@localhost>"


def run(
    recipe_names: tuple[str, ...],
    check: bool,
    offline: bool,
    workspace: str | None = None,
    fix: str | None = None,
    why: str | None = None,
) -> int:
    if workspace:
        return _from_edits(Path(workspace), fix, why, offline, recipe_names)
    changed = 0
    for name in recipe_names or recipes.mine():
        found = recipes.load(name).whole
        if not check:
            beside.check_ours(found.path)
        for upstream in found.upstream:
            changed += _refresh(found, upstream, check, offline)
    if check and changed:
        output.note(f"{changed} patch{'es' * (changed != 1)} would change: run `kit refresh`")
        return 1
    output.line("every patch is up to date" if not changed else f"{changed} written or removed")
    return 0


def _refresh(found: Recipe, upstream: Upstream, check: bool, offline: bool) -> int:
    folder = found.root / "patches" / found.name / upstream.name
    taken = series.inherited(found, upstream.name)
    wanted = {name: text for name, text in generate(found, upstream, offline).items() if taken.get(name) != text}
    present = {path.name: path.read_bytes() for path in folder.glob("*.patch")} if folder.is_dir() else {}
    changes = 0
    for name in sorted(wanted.keys() | present.keys()):
        if wanted.get(name) == present.get(name):
            continue
        changes += 1
        verb = "remove" if name not in wanted else "write" if name not in present else "rewrite"
        output.line(f"{verb:8} {folder / name}")
        if check:
            continue
        if name in wanted:
            folder.mkdir(parents=True, exist_ok=True)
            whole.write(folder / name, wanted[name])
        else:
            (folder / name).unlink()
    return changes


def generate(found: Recipe, upstream: Upstream, offline: bool = False) -> dict[str, bytes]:
    """The patches of one upstream, by file name, from the codemods; hand-written ones as they are.

    A fix whose text is the same for every device has one patch, otherwise one a device. Raises KitError for a fix that
    is gone or in conflict at the pin.
    """
    entry = store.ensure(upstream, found.path.parent, offline)
    by_device: dict[tuple[int, str], dict[str, bytes]] = {}
    hand_written = series.hand_written(found, upstream.name)
    alike: dict[str, list[series.Step]] = {}  # most series are the same on every device, and codemods are slow
    for device_name in found.devices:
        device = found.device(device_name)
        for_device = [(number, step.options_for(device)) for number, step in found.series(upstream.name, device_name)]
        key = repr((for_device, [name for name in hand_written if f"@{device_name}." in name]))
        if key not in alike:
            files = entry.files(found.sources(upstream.name, device_name))
            alike[key], _ = series.apply(found, upstream.name, device, files, hand_written, generating=True)
        for step in alike[key]:
            step.check("mend the fix, or take it out of the recipe")
            if step.changes and step.fix.use != "patch":
                subject, body = step.message
                date = formatdate(int(entry.date().split()[0]))
                copies = {path: step.fix.derive_from for path in step.changes if step.fix.derive_from}
                text = patchwrite.render(subject, body, step.changes, AUTHOR, date, copies=copies)
                by_device.setdefault((step.number, step.fix.id), {})[device_name] = text
    wanted = dict(hand_written)
    for (number, _), texts in by_device.items():
        fix = found.fix[number - 1]
        if len(set(texts.values())) == 1:
            wanted[series.patch_name(number, fix)] = next(iter(texts.values()))
        else:
            wanted |= {series.patch_name(number, fix, device): text for device, text in texts.items()}
    return wanted


Changes = Mapping[TreePath, tuple[bytes, bytes]]


def adopted(
    found: Recipe,
    upstream: str,
    by_hand: Sequence[tuple[FixStep, Changes]],
    lost: Mapping[TreePath, Collection[str]] = MappingProxyType({}),
    heirs: Mapping[str, str] = MappingProxyType({}),
    offline: bool = False,
) -> tuple[list[str], dict[str, bytes]]:
    """The recipe's files (see :func:`rebase.files`) with hand-written patches at the end of its series, each a step and
    its changes (path: before, after), without the fixes that files ``lost``; what names one that is lost altogether
    names its heir. Also the patches' names.

    ``before`` must be what the rest of the series makes of the file. Raises KitError where the recipe has such a fix.
    """
    up = rebase.upstream_of(found, upstream)
    files = {
        step.id: tuple(path for path in step.files if step.id not in lost.get(path, ()))
        for step in found.fix
        if step.upstream == upstream
    }
    steps = [dataclasses.replace(step, files=files.get(step.id, step.files)) for step in found.fix]
    gone = [step.id for step in steps if not step.files]
    fewer = {step.id: step.files for step, was in zip(steps, found.fix, strict=True) if step.files != was.files}
    text = rebase.rewritten(found, up, up.pin, up.version, gone, files=fewer, heirs=heirs)
    steps = [step for step in steps if step.files]
    codemods = dataclasses.replace(found, fix=tuple(steps))
    date = formatdate(int(store.ensure(up, found.path.parent, offline).date().split()[0]))
    patches = {}
    for step, changes in by_hand:
        if step.id in {each.id for each in steps}:
            raise KitError(f"recipe {found.name} has a fix {step.id!r} already", "give another name with --fix")
        steps.append(step)
        text = _with_step(text, step, named=len(found.upstream) > 1)
        name = series.patch_name(len(steps), step)
        patches[name] = patchwrite.render(*series.message(step), changes, AUTHOR, date)
    made = {each.name: generate(codemods, each, offline) for each in found.upstream}
    made[upstream] = {**made[upstream], **patches}
    return list(patches), rebase.files(found, text, made)


def _from_edits(place: Path, id: str | None, why: str | None, offline: bool, given: Sequence[str]) -> int:
    """The edits of upstream's files in a workspace as a patch of its recipe, whose own fixes run if it is ``given``.
    Raises KitError for edits that cannot be one: new and removed files, files of the overlay, several upstreams, a
    recipe that has changed since."""
    if not id or not why:
        raise KitError("a patch needs a name and a reason", f'kit refresh --from {place} --fix NAME --why "…"')
    locked = lock.read(place)
    found = recipes.load(locked.recipe).whole
    beside.check_ours(found.path)
    if found.path not in map(recipes.locate, given):
        found = found.looked_at
    if found.sha256 != locked.recipe_sha256:
        hint = f"prepare a workspace from it and bring the edits there: kit diff --local {place}"
        raise KitError(f"{found.path} has changed since {place} was made", hint)
    fixed = {(step.upstream, path) for step in found.fix for path in step.files}
    changes: dict[str, dict[TreePath, tuple[bytes, bytes]]] = {}
    for name, each in locked.upstreams.items():
        repository = place / name
        listing = (
            git.run("diff", "--name-status", "--no-renames", "-z", each.commit, at=repository).decode().split("\0")
        )
        for kind, path in zip(listing[::2], listing[1::2], strict=False):
            if kind != "M" or (path in each.files and (name, path) not in fixed):
                hint = "new files, and those that kit copied in, belong into an overlay: see CONTRIBUTING.md"
                raise KitError(f"{repository / path}: not a file of upstream's that was edited", hint)
            before = git.run("cat-file", "blob", f"{each.commit}:{path}", at=repository)
            changes.setdefault(name, {})[TreePath(path)] = (before, (repository / path).read_bytes())
    if len(changes) != 1:
        what = f"{len(changes)} upstreams were edited" if changes else "no file of upstream's was edited"
        raise KitError(f"{place}: {what}", "edit the files of one upstream; new files belong into an overlay")
    ((name, edited),) = changes.items()
    step = FixStep(id, tuple(sorted(edited)), name, "patch", why=why)
    (patch,), wanted = adopted(found, name, [(step, edited)], offline=offline)
    rebase.write(found, wanted)
    output.line(f"written: {patch}, and its lines in {found.path}")
    output.line(f"next: kit prepare {found.called} --device {locked.device} {quote(str(place))} --force")
    return 0


def _with_step(text: str, step: FixStep, named: bool) -> str:
    """The recipe's text with a step after its last one (or at its end)."""
    lines = [f"[[fix]]\nid = {json.dumps(step.id)}\n"]
    lines += [f"upstream = {json.dumps(step.upstream)}\n"] * named
    lines += [f"devices = {json.dumps(list(step.devices))}\n"] * bool(step.devices)
    lines += ["extra = true\n"] * step.extra
    lines += [f'use = "patch"\nfiles = {json.dumps(list(step.files))}\nwhy = {json.dumps(step.why)}\n\n']
    whole = text.splitlines(keepends=True)
    heads = [number for number, line in enumerate(whole) if line.startswith("[[fix]]")]
    if not heads:
        return text.rstrip("\n") + "\n\n" + "".join(lines)
    after = rebase.table(whole, "fix", len(heads) - 1).stop
    gap = [] if after and not whole[after - 1].strip() else ["\n"]
    return "".join([*whole[:after], *gap, *lines, *whole[after:]])
