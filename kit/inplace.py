"""Patch installed packages where they are, for environments that cannot take them from a workspace; and put them back.

What a file was and what it became is kept beside the packages in `kit-patched.json`, the file itself as
`<name>.kit-backup`: a second run finds nothing to do, and a file that is neither is never touched.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kit import environment, whole
from kit.errors import KitError, last_line
from kit.patchfile import blob_id
from kit.paths import TreePath
from kit.planning import UpstreamPlan

RECORD = "kit-patched.json"

_ASK = """\
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        package = importlib.metadata.distribution(name)
        found[name] = [package.version, str(package.locate_file(""))]
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Change:
    """A file of an installed package: its content before (None: a new file) and after."""

    package: str
    path: Path
    before: bytes | None
    after: bytes

    @property
    def backup(self) -> Path:
        return self.path.with_name(f"{self.path.name}.kit-backup")


def installed(python: str, packages: list[str]) -> dict[str, tuple[str, Path]]:
    """Version and folder of each package that ``python`` has. Raises KitError where that is no Python."""
    try:
        done = subprocess.run(
            [python, "-c", _ASK, *packages], capture_output=True, text=True, env=environment.variables()
        )
    except OSError as error:
        raise KitError(
            f"{python}: {error.strerror}", "give the python of the environment: kit patch-env PATH"
        ) from None
    if done.returncode:
        raise KitError(
            f"{python} cannot say what it has installed: {last_line(done.stderr)}", "it must be Python 3.8 or newer"
        )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return {name: (version, Path(folder)) for name, (version, folder) in found.items()}


def changes(plan: UpstreamPlan, version: str, folder: Path) -> list[Change]:
    """What the series and the overlay of an upstream change in its package, installed as ``version`` in ``folder``.

    Raises KitError for another version, and for a package that is not there as files (an editable one).
    """
    package, wanted = plan.upstream.package, plan.upstream.version.removeprefix("v")
    if version != wanted:
        raise KitError(
            f"{package} {version} is installed, the fixes are for {wanted}", f"pip install {package}=={wanted}"
        )
    before: dict[TreePath, bytes | None] = {}
    after: dict[TreePath, bytes] = {}
    for step in plan.steps:
        for path, (old, new) in step.changes.items():
            before.setdefault(path, old)
            after[path] = new
    before.update(dict.fromkeys(plan.overlay))
    after.update({path: content for path, (_, content) in plan.overlay.items()})
    found = []
    for path, content in after.items():
        inside = path[path.index(f"{package}/") :]  # src/accelerate/x.py is accelerate/x.py where it is installed
        place = folder / inside
        if not place.parent.is_dir():
            what = f"{package} is not in {folder} as files (is it installed from a folder, as editable?)"
            raise KitError(what, f"patch that folder, or pip install {package}=={wanted}")
        found.append(Change(package, place, before[path], content))
    return found


def check(wanted: list[Change]) -> list[Change]:
    """Those that are still to be made. Raises KitError at the first file that is neither."""
    todo = []
    for change in wanted:
        now = change.path.read_bytes() if change.path.is_file() else None
        if now == change.after:
            continue
        if now != change.before:
            what = "is not the file of that release" if change.before is not None else "is there already"
            hint = f"reinstall it: pip install --force-reinstall --no-deps {change.package}"
            raise KitError(f"{change.path}:1: {what}: it would be overwritten", hint)
        todo.append(change)
    return todo


def patch(todo: list[Change], record: Path) -> None:
    """Make the changes, each file whole or not at all, and note them in ``record``."""
    known = read(record)
    for change in todo:
        before = None if change.before is None else blob_id(change.before)
        known[str(change.path)] = {"before": before, "after": blob_id(change.after)}
    whole.write(record, json.dumps(known, indent=2).encode() + b"\n")  # first: what a kill leaves can be put back
    for change in todo:
        if change.before is not None:
            whole.write(change.backup, change.before)
        whole.write(change.path, change.after)


def restore(record: Path) -> list[Path]:
    """Put every file of ``record`` back, remove the new ones and the record; the files. Raises KitError, having done
    nothing, where a file was edited since or its backup is gone."""
    known = read(record)
    backs: dict[Path, bytes | None] = {}
    for name, ids in known.items():
        path = Path(name)
        backup = path.with_name(f"{path.name}.kit-backup")
        now = blob_id(path.read_bytes()) if path.is_file() else None
        if now not in (ids["before"], ids["after"]):
            raise KitError(f"{path}:1: was edited since kit patched it", f"keep the edit, and remove it from {record}")
        content = backup.read_bytes() if backup.is_file() else None
        if now != ids["before"] and (None if content is None else blob_id(content)) != ids["before"]:
            raise KitError(f"{backup}: the backup is gone or was edited", "reinstall the package")
        backs[path] = content
    for path, content in backs.items():
        if content is not None:
            whole.write(path, content)
        elif known[str(path)]["before"] is None:
            path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.kit-backup").unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    return list(backs)


def read(record: Path) -> dict[str, Mapping[str, str | None]]:
    """What ``record`` says was patched: by path, the blob ids before and after."""
    known: dict[str, Mapping[str, str | None]] = json.loads(record.read_bytes()) if record.is_file() else {}
    return known
