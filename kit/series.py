"""Apply a series of fixes to files: pure, bytes in, bytes out.

For each fix, where the file is the very blob its committed patch was made from, the patch is applied exactly and libcst
is never imported. Otherwise the codemod runs. Both ways give the same bytes; `kit refresh` writes the patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kit import fixes, patchfile, patchfit
from kit.devices import Device
from kit.errors import KitError
from kit.fixes import Outcome
from kit.fixes._ast import parse
from kit.paths import TreePath, no_link, regular_files
from kit.recipe import FixStep, Recipe


@dataclass(frozen=True)
class FileOutcome:
    """What came of a fix on one file; ``line`` (from 1) and ``reason`` for a conflict or a gone construct, ``places``
    where a codemod applied it."""

    path: TreePath
    outcome: Outcome
    how: str  # "patch", "codemod" or, where nothing was to do, "check"
    reason: str = ""
    line: int = 0
    places: int = 0


@dataclass(frozen=True)
class Step:
    """A fix of the series, what came of it, and the files it changed as (before, after)."""

    number: int
    fix: FixStep
    outcomes: tuple[FileOutcome, ...]
    changes: dict[TreePath, tuple[bytes, bytes]]

    @property
    def outcome(self) -> Outcome:
        """The whole fix's outcome: the worst of its files', except that one applied file makes it applied."""
        found = {file.outcome for file in self.outcomes}
        order = (Outcome.conflict, Outcome.gone, Outcome.applied, Outcome.satisfied)
        return next(outcome for outcome in order if outcome in found)

    def check(self, hint: str) -> None:
        """Raise KitError, with file and line, where the fix is gone or in conflict."""
        for file in self.outcomes:
            if file.outcome in (Outcome.conflict, Outcome.gone):
                where = f"{self.fix.upstream}/{file.path}:{file.line or 1}"
                raise KitError(f"{where}: fix {self.fix.id}: {file.outcome}: {file.reason}", hint)

    @property
    def message(self) -> tuple[str, str]:
        return message(self.fix)


def message(step: FixStep) -> tuple[str, str]:
    """Subject and body of a fix's commit and patch."""
    return fixes.message(step.id, step.module, step.why)


def patch_name(number: int, step: FixStep, device: str = "") -> str:
    return f"{number:02}-{step.id}{'@' + device if device else ''}.patch"


def load_patches(recipe: Recipe, upstream: str) -> dict[str, bytes]:
    """The committed patches of one upstream, by file name. Raises KitError for one that no fix of the recipe has."""
    folder = recipe.root / "patches" / recipe.name / upstream
    no_link(folder, recipe.root)
    found = {
        path.name: path.read_bytes()
        for path in regular_files(folder)
        if path.parent == folder and not path.name.startswith(".")  # one that a killed write has left
    }
    expected = {
        patch_name(number, step, device)
        for device in ("", *recipe.devices)
        for number, step in enumerate(recipe.fix, 1)
        if step.upstream == upstream
    }
    for name in found:
        if name not in expected:
            hint = f"remove the file, or run `kit refresh {recipe.called}`"
            raise KitError(f"{folder / name}:1: no fix of recipe {recipe.name} has this patch", hint)
    return {**inherited(recipe, upstream), **found}


def inherited(recipe: Recipe, upstream: str) -> dict[str, bytes]:
    """The patches of the recipe it extends that serve its own steps: those of steps that it does not say anew."""
    if not recipe.base:
        return {}
    theirs = {**load_patches(recipe.base, upstream)}
    numbers = {step.id: (number, step) for number, step in enumerate(recipe.base.fix, 1)}
    found = {}
    for number, step in enumerate(recipe.fix, 1):
        at, same = numbers.get(step.id, (0, None))
        if same and step == dataclasses.replace(same, runs=step.runs):
            for device in ("", *recipe.devices):
                if (name := patch_name(at, same, device)) in theirs:
                    found[patch_name(number, step, device)] = theirs[name]
    return found


def hand_written(recipe: Recipe, upstream: str) -> dict[str, bytes]:
    """The patches of one upstream that no codemod makes, by file name. A step that has another number than when its
    patch was written still has it."""
    folder = recipe.root / "patches" / recipe.name / upstream
    regular_files(folder)
    no_link(folder, recipe.root)
    found = {
        name: patch
        for name, patch in inherited(recipe, upstream).items()
        if recipe.fix[int(name.partition("-")[0]) - 1].use == "patch"
    }
    for device in ("", *recipe.devices):
        for number, step in enumerate(recipe.fix, 1):
            name = patch_name(number, step, device)
            if step.use == "patch" and step.upstream == upstream:
                for path in sorted(folder.glob(f"[0-9]*-{name.partition('-')[2]}")):
                    found[name] = path.read_bytes()
    return found


def apply(
    recipe: Recipe,
    upstream: str,
    device: Device,
    files: Mapping[TreePath, bytes],
    patches: Mapping[str, bytes] | None,
    without: Iterable[str] = (),
    generating: bool = False,
) -> tuple[list[Step], dict[TreePath, bytes]]:
    """Apply the series of ``upstream`` for ``device`` to ``files`` (path to content); return each step and the result.

    ``patches`` are the committed patches by name; None: codemods only; ``generating``: codemods wherever there is one,
    as `kit refresh` does. Raises KitError for a patch that is missing or malformed and for a file that is not there;
    conflicts are outcomes, not errors.
    """
    current = dict(files)
    steps = []
    for number, step in recipe.series(upstream, device.name):
        for path in step.files:
            source = step.derive_from or path
            if source not in current:
                where = f"{recipe.path}: fix {step.id}"
                raise KitError(f"{where}: {upstream} has no {source} at the pin", "check `files` of the fix")
            if path in current and path != source:
                hint = "take `derive_from` out, and see whether the fix still holds"
                raise KitError(f"{recipe.path}: fix {step.id}: {upstream} has a {path} of its own", hint)
            current[path] = current[source]
        if step.id in without:
            continue
        arguments = (recipe, number, step, device, current, None if generating and step.module else patches)
        try:
            done = _by_patch(*arguments) or _by_codemod(*arguments)
        except RecursionError:
            where = ", ".join(f"{upstream}/{path}:1" for path in step.files)  # which of them, the error does not say
            what = f"{where}: fix {step.id}: expressions too deep to read"
            raise KitError(what, "take the file out of the fix") from None
        current.update({path: after for path, (_, after) in done.changes.items()})
        steps.append(done)
    return steps, current


def _find_patch(number: int, step: FixStep, device: Device, patches: Mapping[str, bytes] | None) -> str | None:
    for name in (patch_name(number, step, device.name), patch_name(number, step)):
        if patches and name in patches:
            return name
    return None


def _by_patch(
    recipe: Recipe,
    number: int,
    step: FixStep,
    device: Device,
    current: Mapping[TreePath, bytes],
    patches: Mapping[str, bytes] | None,
) -> Step | None:
    """The step by its committed patch; None where there is none, or a codemod and the patch was made from other blobs.

    A hand-written one is in conflict with a file that it does not fit, for the reason that its patch gives."""
    name = _find_patch(number, step, device, patches)
    if name is None or patches is None:
        return None
    shown = str(recipe.root / "patches" / recipe.name / step.upstream / name)
    patch = patchfile.parse(patches[name], shown)
    for file in patch.files:
        if file.path not in step.files or (file.source or file.path) != (step.derive_from or file.path):
            what = (
                f"changes {file.path}, which fix {step.id} does not list"
                if file.path not in step.files
                else (f"makes {file.path} from {file.source}, fix {step.id} from {step.derive_from or file.path}")
            )
            raise KitError(f"{shown}:{file.line}: {what}", f"run `kit refresh {recipe.called}`")
    if step.module and any(patchfile.blob_id(current[file.path]) != file.preimage for file in patch.files):
        return None
    changes = {}
    outcomes = {path: FileOutcome(path, Outcome.satisfied, "check") for path in step.files}
    for file in patch.files:
        before = current[file.path]
        try:
            changes[file.path] = (before, patchfit.apply(file, before, shown))
            outcomes[file.path] = FileOutcome(file.path, Outcome.applied, "patch")
        except patchfit.Misfit as error:
            if patchfile.blob_id(before) == file.preimage:
                raise  # it does not fit the very file that it is for: the patch was changed by hand
            reason = f"{name}:{error.where}: {error.why}"
            outcomes[file.path] = FileOutcome(file.path, Outcome.conflict, "patch", reason, error.place)
    return Step(number, step, tuple(outcomes.values()), changes)


def _by_codemod(
    recipe: Recipe,
    number: int,
    step: FixStep,
    device: Device,
    current: Mapping[TreePath, bytes],
    patches: Mapping[str, bytes] | None,
) -> Step:
    """The step by its codemod, or by its check alone where upstream has it already."""
    name = _find_patch(number, step, device, patches)
    fix = step.module
    if fix is None:
        what = f"fix {step.id}: its patch {patch_name(number, step)} is missing"
        raise KitError(f"{recipe.path}: {what}", "restore it: it is hand-written")
    options = step.options_for(device)
    outcomes, changes = [], {}
    for path in step.files:
        content = current[path]
        sites = fixes.sites(fix, parse(content, path), options)
        if sites and all(site.done for site in sites):
            outcomes.append(FileOutcome(path, Outcome.satisfied, "check"))
            continue
        if patches is not None and name is None:
            where = recipe.root / "patches" / recipe.name / step.upstream / patch_name(number, step)
            what = f"the patch is missing, and {path} needs fix {step.id}"
            raise KitError(f"{where}:1: {what}", f"run `kit refresh {recipe.called}`")
        from kit import codemod

        result = codemod.run(fix, content, path, step.count, options)
        outcomes.append(FileOutcome(path, result.outcome, "codemod", result.reason, result.line, result.places))
        if result.outcome is Outcome.applied:
            changes[path] = (content, result.content)
    return Step(number, step, tuple(outcomes), changes)
