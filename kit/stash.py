"""Edits kept through a new preparation: the workspace is set aside by a rename, so that nothing can be missed; what was
edited is brought back from there, into whatever has taken its place."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kit import edits, git, lock, store, whole
from kit.errors import KitError

LINK, FILE, PROGRAM = 0o120000, 0o100644, 0o100755
Content = tuple[int, bytes]  # git mode and bytes (of a link: where it leads)


def free_name(folder: Path) -> Path:
    """Where a folder is set aside: `<its name>.kit-backup-<number>`."""
    number = 1
    while os.path.lexists(free := folder.with_name(f"{folder.name}.kit-backup-{number}")):
        number += 1
    return free


def newest(workspace: Path) -> Path:
    """What was last set aside from ``workspace``. Raises KitError where nothing was."""
    kept = workspace.parent.glob(f"{workspace.name}.kit-backup-*")
    found = {int(number): path for path in kept if (number := path.name.rpartition("-")[2]).isdigit()}
    if not found:
        raise KitError(f"nothing of {workspace} was set aside", f"set it aside: kit stash {quote(str(workspace))}")
    return found[max(found)]


@dataclass(frozen=True)
class Change:
    """A file to bring back: what it is to be (a file to copy, a content, or None: it goes), and what kit left there."""

    path: Path  # below the workspace
    mine: Path | Content | None
    before: Content | None = None


def apply(aside: Path, workspace: Path) -> Iterator[str]:
    """Bring what was edited in ``aside`` into ``workspace``, and say what. A file that is another one there is merged.

    Raises KitError, having done nothing, where a merge has conflicts, a file is in the way, or one cannot be read.
    """
    found = [(change.path, _merged(change, workspace / change.path)) for change in _changes(aside)]
    conflicts = [str(path) for path, made in found if made is None]
    if conflicts:
        what = f"{workspace}: these are other files by now, where yours were changed: {', '.join(conflicts)}"
        raise KitError(what, f"merge them by hand from {aside}, then remove that folder")
    for path, made in found:
        if made and made[0] is not _NOTHING:
            _put(workspace / path, made[0])
            yield str(path)
    for name, upstream in lock.read(aside).upstreams.items():
        if (workspace / name / ".git").is_dir():
            yield from (f"{name}: {ref}" for ref in _history(aside / name, workspace / name, upstream.commit))


_NOTHING = (0, b"")  # it is so already


def _changes(aside: Path) -> Iterator[Change]:
    """What was edited, file by file. Raises KitError for what is not there or cannot be read."""
    locked = lock.read(aside)
    touched: dict[str, set[str]] = {name: set() for name in locked.upstreams}
    for edit in edits.edits(aside):
        place = aside / edit.upstream / edit.path
        if edit.kind in ("missing", "unreadable"):
            raise KitError(f"{place}: {edit.kind}", f"take what you need from {aside} by hand")
        if edit.kind in ("untracked", "ignored"):
            yield from (Change(file.relative_to(aside), file) for file in _files(place))
        elif edit.kind in ("modified", "deleted", "added"):
            touched[edit.upstream].add(edit.path)
    for name, upstream in locked.upstreams.items():
        arguments = ("diff-tree", "-r", "--name-only", "--no-renames", "-z", upstream.commit, "HEAD")
        committed = git.run(*arguments, at=aside / name).decode("utf-8", "surrogateescape").split("\0")
        tree = store.Entry(aside / name, upstream.commit).tree
        for path in sorted(touched[name] | {*filter(None, committed)}):
            place = aside / name / path
            if place.is_dir() and not place.is_symlink():
                raise KitError(f"{place}: a folder where a file was", f"take what you need from {aside} by hand")
            mode, id = tree.get(path, ("", ""))
            before = (int(mode, 8), git.run("cat-file", "blob", id, at=aside / name)) if id else None
            yield Change(Path(name, path), _content(place), before)


def _files(place: Path) -> Iterator[Path]:
    if place.is_symlink() or not place.is_dir():
        yield place
        return
    for folder, folders, files in os.walk(place):
        yield from (Path(folder, name) for name in files)
        yield from (Path(folder, name) for name in folders if Path(folder, name).is_symlink())


def _content(file: Path) -> Content | None:
    if file.is_symlink():
        return LINK, os.fsencode(file.readlink())
    if not file.is_file():
        return None
    return (PROGRAM if store.is_executable(file) else FILE), file.read_bytes()


def _merged(change: Change, target: Path) -> tuple[Path | Content | None] | None:
    """What is to be at ``target``, in a tuple; None where that is a conflict."""
    if any(parent.is_symlink() or parent.is_file() for parent in target.parents):
        return None
    if isinstance(change.mine, Path):
        if not os.path.lexists(target):
            return (change.mine,)
        same = _content(target) == _content(change.mine) if change.mine.is_symlink() else _equal(change.mine, target)
        return (_NOTHING,) if same else None
    now, before, mine = _content(target), change.before, change.mine
    if now == mine or target.is_dir():
        return (_NOTHING,) if now == mine and not target.is_dir() else None
    if now == before:
        return (mine,)
    if now is None or before is None or mine is None or LINK in (now[0], before[0], mine[0]):
        return None
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / name for name in ("now", "before", "mine")]
        for name, side in zip(names, (now, before, mine), strict=True):
            name.write_bytes(side[1])
        try:
            merged = git.run("merge-file", "-p", *names)
        except git.GitError:  # conflicts, or no text
            return None
    return ((mine[0] if mine[0] != before[0] else now[0], merged),)


def _equal(one: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)


def _put(target: Path, made: Path | Content | None) -> None:
    if made is None:
        target.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(made, Path):
        staged = target.with_name(f".kit-{os.getpid()}.tmp")
        shutil.copy2(made, staged, follow_symlinks=False)
        staged.replace(target)
    elif made[0] == LINK:
        target.unlink(missing_ok=True)
        target.symlink_to(os.fsdecode(made[1]))
    else:
        if target.is_symlink():
            target.unlink()
        whole.write(target, made[1])
        run = 0o111 if made[0] == PROGRAM else 0
        target.chmod(target.stat().st_mode & ~0o111 | run & ~_umask())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _history(aside: Path, repository: Path, commit: str) -> Iterator[str]:
    """Bring the commits over, under their own names where those are free, else as branches `stashed-…`; the names."""
    found = list(edits.commits(aside, commit))
    if not found:
        return
    for file in (aside / ".git" / "objects").rglob("*"):
        target = repository / ".git" / file.relative_to(aside / ".git")
        if file.is_file() and "info" not in file.parts[-2:] and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    shallow = repository / ".git" / "shallow"
    roots = {line for each in (aside / ".git/shallow", shallow) if each.is_file() for line in each.read_text().split()}
    if roots and shallow.is_file():
        whole.write(shallow, "".join(f"{root}\n" for root in sorted(roots)).encode())
    taken = git.text("for-each-ref", "--format=%(refname)", at=repository).splitlines()
    for id, ref in found:
        own = ref.startswith(("refs/heads/", "refs/tags/", "refs/notes/")) and ref not in taken
        name = ref if own else f"refs/heads/stashed-{id[:12]}"
        git.run("update-ref", name, id, at=repository)
        yield name.removeprefix("refs/").removeprefix("heads/")
