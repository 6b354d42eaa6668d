"""The environment of a training: the device's toolkit, its variables, what the machine lets a process open."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launcher.mistake import Mistake
from launcher.options import Program
from launcher.output import say

# Runs a toolkit's script in a shell that is as careless as it is, and prints the variables it leaves.
SOURCE = 'set +eu; . "$LAUNCHER_TOOLKIT" >&2; unset LAUNCHER_TOOLKIT; env -0'


def check(program: Program, here: Path) -> None:
    """The Python has what the training needs. Raises Mistake."""
    package, python = program.device["package"], sys.executable
    where = f"pip install -r {here / program.requirements}"
    if package and importlib.util.find_spec(package) is None:
        raise Mistake(f"no {package} in {python}: training would run on the CPU; {where}")
    for name in program.imports:
        if importlib.util.find_spec(name) is None:
            raise Mistake(f"no {name} in {python}: activate the environment, or {where}")


def with_toolkit(device: dict[str, Any], before: dict[str, str]) -> dict[str, str]:
    """The variables with those of the device's toolkit: as they are where one of its own is set, for then it was
    sourced already; else as the first of its scripts leaves them that is there. Says so where there is none."""
    paths = [os.path.expandvars(path) for path in device["toolkit"]]
    if not paths or any(before.get(name) for name in device["toolkit_variables"]):
        return before
    script = next((path for path in paths if os.path.isfile(path)), "")
    if script:
        told = {**before, "LAUNCHER_TOOLKIT": script}
        done = subprocess.run(["bash", "-c", SOURCE], env=told, stdout=subprocess.PIPE, check=False)
        found = dict(pair.split("=", 1) for pair in os.fsdecode(done.stdout).split("\0") if "=" in pair)
        if found:
            return {name: value for name, value in found.items() if name not in ("_", "SHLVL") or name in before}
        print(f"warning: {script} ended early: source it yourself first", file=sys.stderr)
        return before
    places = " or ".join(path for path in paths if not path.startswith("$"))
    what = f"no {device['title']} toolkit at {places}"
    print(f"warning: {what}: source its set-up script first if it is elsewhere", file=sys.stderr)
    return before


def variables(program: Program, before: dict[str, str], local: int, here: Path, profile: str = "") -> dict[str, str]:
    """The variables of a training: what is set already stays as it is; ``local`` processes on this machine. A variable
    that the installed torch does not know is left out: it would end with an error."""
    made = dict(before)
    for each in program.device["environment"]:
        value = program.variables.get(profile, {}).get(each["name"], each["value"])
        if each["name"] not in made and (not each["torch"] or _torch_from(each["torch"])):
            made[each["name"]] = str(local) if value == "$local_processes" else value
    made.setdefault("PYTHONUNBUFFERED", "1")  # every line is shown as it is written
    folders = [os.path.normpath(here / folder) for folder in program.modules]
    if program.device["device"] == "cpu" and (here / "gloo").is_dir():  # what PyTorch's gloo lacks
        folders.append(str(here / "gloo"))
    if folders:
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (*folders, made.get("PYTHONPATH", ""))))
    return made


def _torch_from(oldest: str) -> bool:
    """Whether the installed torch is of a version, such as 2.1, or later; a torch that is not there is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("torch")
    except PackageNotFoundError:
        return True
    return [int(part) for part in installed.split(".")[:2]] >= [int(part) for part in oldest.split(".")]


def check_builds(before: dict[str, str], oldest: float = 600) -> None:
    """No lock stands in the way of torch's builder, which waits for ever while one is there (utils/file_baton.py).
    What builds has it open; a build that was killed leaves it. One that no process here has open may be another
    machine's, until it is ``oldest`` seconds old. Raises Mistake."""
    usual = Path.home() / ".cache" / "torch_extensions"
    version = f"py{sys.version_info[0]}{sys.version_info[1]}*"
    found = Path(before.get("TORCH_EXTENSIONS_DIR") or usual)
    said = False
    for lock in sorted(found.glob(f"{'' if 'TORCH_EXTENSIONS_DIR' in before else version + '/'}*/lock")):
        while (age := _age(lock)) is not None and str(lock.resolve()) not in _open_files():
            if age > oldest:
                raise Mistake(f"{lock}: a build that was killed left it, {age / 60:.0f} minutes ago: rm {lock}")
            if not said:
                say(f"waiting: {lock} says that another machine builds there; if none does: rm {lock}")
            said = True
            time.sleep(1)


def _age(lock: Path) -> float | None:
    """Seconds since a lock was made; None: its build has ended."""
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None


def _open_files() -> set[str]:
    """What the processes that may be looked at have open."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            found.add(os.readlink(place))
    return found


def open_files(wanted: int) -> None:
    """Let this process and what it starts open as many files, or as many as the system lets it, and say how many."""
    if wanted:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        say(f"Open files : {'unlimited' if soft == resource.RLIM_INFINITY else soft}")
