"""A copy of a prepared tree with some fixes left out, to run in: what red and parity compare the port with."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kit import series
from kit.errors import KitError
from kit.paths import TreePath
from kit.proof import Undo
from kit.smoke.ground import Run
from kit.smoke.run import serving


@contextlib.contextmanager
def without(
    run: Run, fixes: Collection[str], files: Mapping[str, Mapping[TreePath, bytes]], undo: Sequence[Undo] = ()
) -> Iterator[Run]:
    """The run in a scratch copy of its tree, without ``fixes``; what upstream has already is taken out by ``undo``.
    ``files``: for each upstream, the fixed files as they are at the pin. Raises KitError where an undo does not fit."""
    with tempfile.TemporaryDirectory(prefix="without-", dir=run.out.parent) as name:
        tree = Path(name) / "tree"
        imports = _copy(run, fixes, undo, tree)
        for upstream, at_pin in files.items():
            patches = series.load_patches(run.recipe, upstream)
            _, content = series.apply(run.recipe, upstream, run.device, at_pin, patches, tuple(fixes))
            for path, data in content.items():
                if (tree / upstream / path).is_file():
                    (tree / upstream / path).write_bytes(data)
        _undo(run, undo, tree)
        copy = replace(run, folder=tree / run.smoke.folder, out=Path(name) / "out", imports=imports)
        if not imports:
            yield copy
        else:  # what is imported already cannot be replaced
            with serving(copy, Path(name) / "forks") as served:
                yield served


def _copy(run: Run, fixes: Collection[str], undo: Sequence[Undo], tree: Path) -> tuple[Path, ...]:
    """Copy to ``tree`` the folder the commands run in, and the whole of an upstream where a fix changes files outside
    of that. Returns where the packages of such an upstream are in the copy."""
    fixed = [step for step in run.recipe.fix if step.id in fixes]
    changed = [f"{step.upstream}/{path}" for step in fixed for path in step.files] + [each.file for each in undo]
    whole = {path.split("/")[0] for path in changed if not path.startswith(f"{run.smoke.folder}/")}
    for place in whole if run.smoke.folder.split("/")[0] in whole else {run.smoke.folder, *whole}:
        source = Path(run.environment.workspace) / place
        shutil.copytree(source, tree / place, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    return tuple(next(at for at in (tree / name / "src", tree / name) if at.is_dir()) for name in sorted(whole))


def _undo(run: Run, undo: Sequence[Undo], tree: Path) -> None:
    for each in undo:
        place = tree / each.file
        text = place.read_text("utf-8")
        if text.count(each.old) != 1:
            what = f"{run.recipe.path}: undo: its text is {text.count(each.old)} times in {each.file}, not once"
            raise KitError(what, "mend `undo` of this [[smoke.red]]")
        place.write_text(text.replace(each.old, each.new), encoding="utf-8")
