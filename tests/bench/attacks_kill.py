"""Kill each command of kit at each of its writes: python tests/bench/attacks_kill.py

The kill comes right before the write, and where the write opens a file, right after that has emptied it. Then every
file of the user's must be what it was or what the whole command makes of it, and what kit says to type next must lead
to one of the two. Prints the kills tried and the failures of each command; ends with status 1 where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import GUARDED, TRAIN, Root, git, make_upstream, sandbox, snapshot, write

import kit.commands

KILLED = 77
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate")
SCRIPT = "examples/train.py"
PRINT = '            accelerator.print("")\n'
REWRITTEN = TRAIN.replace("global_step >= args.max_train_steps", "args.max_train_steps <= global_step").replace(
    "                break\n", "                return\n"
)
RESOLVED = (
    REWRITTEN.replace("            weights.pop()\n", "            if weights:\n                weights.pop()\n") + PRINT
)


@dataclass(frozen=True)
class Case:
    """A command, what is there before it, and what leads back after a kill. ``keeps`` are texts that must be in some
    file at any time."""

    name: str
    build: Callable[[Root], object]
    command: tuple[str, ...]
    back: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th write (default: each)")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only those whose name has one of these in it")
    given = parser.parse_args()
    return 1 if attack(given.every, given.cases) else 0


def attack(every: int = 1, only: list[str] | None = None) -> int:
    """Print the kills tried and the failures, by command; returns the number of failures."""
    tried = failed = 0
    for case in CASES:
        if not only or any(word in case.name for word in only):
            start = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="kit-kill-") as folder:
                kills, failures = one(case, Path(folder), range(1, 10_000, every))
            print(f"{case.name:28} {kills:4} kills, {len(failures)} failures, {time.monotonic() - start:.0f} s")
            for failure in failures:
                print(f"  {failure}")
            tried, failed = tried + kills, failed + len(failures)
    print(f"{'every command':28} {tried:4} kills, {failed} failures")
    return failed


def one(case: Case, folder: Path, numbers: Iterable[int]) -> tuple[int, list[str]]:
    """Kill a command at each of its writes that has one of the ascending ``numbers``, from 1; how many there were, and
    what went wrong."""
    for module in pkgutil.iter_modules(kit.commands.__path__):  # once, not in every fork
        importlib.import_module(f"kit.commands.{module.name}")
    for module_name in ("kit.cli", "kit.codemod", "filelock", "jinja2", "libcst", "unidiff"):
        importlib.import_module(module_name)
    place, template = folder / "place", folder / "template"
    with sandbox(place):
        root = Root(place / "root", place / "upstream", make_upstream(place / "upstream"))
        root.recipe(upstream={"version": "1.0, 2023-01-01", "package": "examples"})
        root.refresh()
        case.build(root)
    place.rename(template)

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place, symlinks=True)

    fresh()
    before = files(place)
    with sandbox(place):
        run(case.command)
    after = files(place)
    if after == before:
        return 0, ["the command changes nothing"]
    kills, failures = 0, []
    for number in numbers:
        fresh()
        with sandbox(place):
            if run(case.command, number) != KILLED:
                break
            kills += 1
            failures += [f"write {number}: {said}" for said in wrong(case, place, before, after)]
    return kills, failures


Files = dict[str, tuple[int, bytes]]


def wrong(case: Case, place: Path, before: Files, after: Files) -> Iterator[str]:
    """What a kill lost, and what the commands after it do not bring to its end."""
    now = files(place)
    known = {name: (before.get(name), after.get(name)) for name in before.keys() | after.keys()}
    for name, states in known.items():
        moved = name.startswith("work/") and (before.get(name) is None or now.get(name) is None)
        if now.get(name) not in states and not moved:
            yield f"{name} is neither what it was nor what it is to be"
    for text in case.keeps:
        if not any(text.encode() in content for _, content in now.values()):
            yield f"{text!r} is lost"
    if case.back:
        if run(case.back) not in (0, 1):
            yield f"kit {' '.join(case.back)}: not an error one expects"
        if files(place) not in (before, after):
            yield f"kit {' '.join(case.back)} does not lead back: {different(files(place), before)}"
    if run(case.command) not in (0, 1):
        yield "the same command again: not an error one expects"
    if files(place) != after:
        yield f"the same command again does not lead to the end: {different(files(place), after)}"


def files(place: Path) -> Files:
    """The user's files under ``place``: not those of the cache, of git, nor what a kill leaves under another name."""
    return {
        name: file
        for name, file in snapshot(place).items()
        if name.startswith(("root/", "work/", "site/"))
        and "/.git/" not in name
        and not any(part.startswith(".") and (".kit-" in part) for part in name.split("/"))
    }


def different(one: Files, other: Files) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def run(command: tuple[str, ...], kill: int = 0) -> int:
    """Run kit in a fork, which dies at its ``kill``-th write; its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            _run(command, kill)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(command: tuple[str, ...], kill: int) -> None:
    from kit.cli import main

    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    place = Path.cwd().parent
    words = {"PLACE": str(place)}
    sys.argv = ["kit", *(word.format(**words) for word in command)]
    if kill:
        sys.addaudithook(_killer(kill, str(place / "scratch")))
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 0)


def _killer(kill: int, scratch: str) -> Callable[[str, tuple[Any, ...]], None]:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        path = arguments[0] if arguments else None
        opens = event == "open" and isinstance(path, str) and arguments[2] & WRITES
        if not (opens or event == "subprocess.Popen" or event.removeprefix("os.") in EVENTS) or seen == kill:
            return
        if isinstance(path, (str, Path)) and str(path).startswith((scratch, os.devnull)):
            return
        seen += 1
        if seen == kill:
            if opens:
                os.open(path, arguments[2] & ~os.O_EXCL, 0o600)  # and it is empty
            os._exit(KILLED)

    return hook


RECIPE = "{PLACE}/root/recipes/tiny.toml"
PREPARE = ("prepare", RECIPE, "--device", "cpu", "made")


def made(root: Root) -> None:
    assert run(PREPARE) == 0


def edited(root: Root) -> None:
    made(root)
    write(Path("made"), {f"up/{SCRIPT}": GUARDED + PRINT + "# mine\n", "notes": "mine, too\n"})


def by_hand(root: Root) -> None:
    made(root)
    script = Path("made/up", SCRIPT)
    script.write_text(script.read_text().replace("default=10", "default=20"))


def moved(text: str) -> Callable[[Root], object]:
    return lambda root: make_upstream(root.upstream, {SCRIPT: text})


def rebased(text: str, resolve: str = "") -> Callable[[Root], object]:
    def build(root: Root) -> None:
        moved(text)(root)
        assert run(("rebase", RECIPE)) in (0, 1)
        if resolve:
            Path("tiny-rebase/up", SCRIPT).write_text(resolve)
            git("commit", "--quiet", "--all", "--message", "mine", at=Path("tiny-rebase/up"))

    return build


def garbled(root: Root) -> None:
    for patch in root.patches().iterdir():
        patch.write_bytes(patch.read_bytes().replace(b"\n@@", b"\nx\n@@"))


def packages(root: Root) -> None:
    place = root.place.parent
    metadata = "Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n"
    write(place / "site", {SCRIPT: TRAIN, "examples-1.0.dist-info/METADATA": metadata})
    python = f'#!/bin/sh\nPYTHONPATH={place}/site exec {sys.executable} "$@"\n'
    write(place / "bin", {"python*": python})
    root.recipe(upstream={"version": "1.0", "package": "examples"})


def patched(root: Root) -> None:
    packages(root)
    assert run(PATCH) == 0


def stashed(root: Root) -> None:
    edited(root)
    assert run(("stash", "made")) == 0 and run(PREPARE) == 0


ABORT = ("rebase", RECIPE, "--abort")
PATCH = ("patch-env", "{PLACE}/bin/python", "--recipe", RECIPE)
MINE = ("# mine\n", "mine, too\n")
CASES = (
    Case("prepare", lambda root: None, PREPARE),
    Case("prepare, another device", made, ("prepare", RECIPE, "--device", "npu", "made")),
    Case("prepare --force", edited, (*PREPARE, "--force"), keeps=MINE),
    Case("stash", edited, ("stash", "made"), keeps=MINE),
    Case("stash --apply", stashed, ("stash", "made", "--apply"), keeps=MINE),
    Case("refresh", garbled, ("refresh", RECIPE)),
    Case(
        "refresh --from",
        by_hand,
        ("refresh", "--from", "made", "--fix", "more", "--why", "Few."),
        keeps=("default=20",),
    ),
    Case("new", lambda root: None, ("new", "fresh", "{PLACE}/upstream", "main", SCRIPT)),
    Case("rebase", moved("# more\n" + TRAIN), ("rebase", RECIPE), ABORT),
    Case("rebase, one is taken", moved(GUARDED), ("rebase", RECIPE), ABORT),
    Case("rebase, a conflict", moved(REWRITTEN), ("rebase", RECIPE), ABORT),
    Case("rebase --continue", rebased(REWRITTEN, RESOLVED), ("rebase", RECIPE, "--continue"), keeps=(PRINT.strip(),)),
    Case("rebase --abort", rebased(GUARDED), ABORT),
    Case("rebase --abort, resolved", rebased(REWRITTEN, RESOLVED), ABORT, keeps=(PRINT.strip(),)),
    Case("patch-env", packages, PATCH),
    Case("patch-env --restore", patched, (*PATCH, "--restore")),
    Case("fix", lambda root: write(Path(), {"mine.py": TRAIN}), ("fix", "mine.py")),
    Case("verify --report", made, ("verify", "made", "--report", "page.html")),
    Case("drift --report", lambda root: None, ("drift", RECIPE, "--report", "page.html")),
)

if __name__ == "__main__":
    sys.exit(main())
