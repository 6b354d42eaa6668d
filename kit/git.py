"""Every call to git: a scrubbed environment, fixed arguments, no shell.

The user's configuration is read, so that their `url.<base>.insteadOf`, proxies and certificates work; what could run
code or change bytes on the way (hooks, filters, templates, submodules, line endings, signing) is switched off.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.errors import KitError

Progress = Callable[[float, float], None]

_KEPT = ("GIT_CONFIG", "GIT_SSL", "GIT_SSH", "GIT_ASKPASS", "GIT_PROXY", "GIT_TRACE", "GIT_CURL", "GIT_EXEC_PATH")

_SETTINGS = {
    "advice.detachedHead": "false",
    "checkout.workers": "0",  # as many as there are cores: writing the files out is most of a warm prepare
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "core.untrackedCache": "false",
    "fastimport.unpackLimit": "1",  # keep the pack as it is: a process and dozens of small files less
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
    "filter.lfs.smudge": "cat",
    "gc.auto": "0",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
}
_ARGV = ["git", *(part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}"))]

TRANSPORTS = "https:file:ssh"  # ssh only ever through a user's own insteadOf: recipes name https URLs or folders


def environment(index: Path | None = None) -> dict[str, str]:
    """The environment git runs in: no GIT_DIR and the like from a caller, no prompt, English, no optional locks;
    ``index`` in place of the repository's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key.startswith(_KEPT)}
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": TRANSPORTS, "LC_ALL": "C"}
    return {**kept, **fixed, **({"GIT_INDEX_FILE": str(index)} if index else {})}


def run(
    *arguments: str | Path,
    at: Path | None = None,
    stdin: bytes | None = None,
    statuses: Sequence[int] = (0,),
    index: Path | None = None,
) -> bytes:
    """Run git in the repository ``at`` and return what it printed.

    Raises KitError with git's own first complaint when it ends with a status outside ``statuses``, and when git is
    not installed.
    """
    where = ["-C", str(at)] if at else []
    try:
        done = subprocess.run(
            [*_ARGV, *where, *map(str, arguments)],
            env=environment(index),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
        )
    except FileNotFoundError:
        raise _no_git() from None
    if done.returncode not in statuses:
        raise GitError(arguments, at, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def text(*arguments: str | Path, at: Path | None = None, statuses: Sequence[int] = (0,)) -> str:
    """Like :func:`run`, decoded and stripped."""
    return run(*arguments, at=at, statuses=statuses).decode("utf-8", "surrogateescape").strip()


def show(*arguments: str | Path, at: Path, index: Path | None = None) -> None:
    """Run git with its output going to the user (a pager, colours)."""
    sys.stdout.flush()
    subprocess.run([*_ARGV, "-C", str(at), *map(str, arguments)], env=environment(index))


def fetch(at: Path, *arguments: str, stdin: bytes = b"", progress: Progress) -> None:
    """`git fetch` with its progress read from stderr. Raises GitError."""
    process = subprocess.Popen(
        [*_ARGV, "-C", str(at), "fetch", "--progress", "--no-tags", "--no-auto-maintenance", *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stderr
    complaints: list[str] = []
    try:
        process.stdin.write(stdin)
        process.stdin.close()
        buffer = b""
        while chunk := process.stderr.read1(4096):  # type: ignore[attr-defined]
            *lines, buffer = re.split(rb"[\r\n]", buffer + chunk)
            for raw in lines:
                line = raw.decode("utf-8", "replace")
                if counted := re.search(r"Receiving objects:.*\((\d+)/(\d+)\)", line):
                    progress(int(counted[1]), int(counted[2]))
                elif not re.match(r"(remote: )?\w[\w ]+:\s+\d+%", line):
                    complaints.append(line)
        complaints.append(buffer.decode("utf-8", "replace"))
    except BrokenPipeError:
        pass  # git ended early: its status and complaints tell why
    finally:
        if sys.exc_info()[0] is not None:
            process.kill()
        status = process.wait()
    if status:
        raise GitError(("fetch", *arguments), at, "\n".join(complaints))


class GitError(KitError):
    """git refused; ``stderr`` is all it said, ``said`` its first complaint."""

    def __init__(self, arguments: Sequence[str | Path], at: Path | None, stderr: str) -> None:
        self.stderr = stderr.strip()
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        complaints = [line for line in lines if line.startswith(("fatal:", "error:"))]
        self.said = [*complaints, *lines[-1:], "no message"][0]
        place = f" in {at}" if at else ""
        super().__init__(f"git {arguments[0]} failed{place}: {self.said}")


def _no_git() -> KitError:
    return KitError("git was not found on PATH", "install git 2.27 or newer, then run `kit doctor`")


def partial_clone(url: str) -> str:
    """The lines of a repository's config that make it a blobless partial clone of ``url``."""
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    return (
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = origin\n"
        f'[remote "origin"]\n\turl = "{quoted}"\n\tpromisor = true\n\tpartialclonefilter = blob:none\n'
    )


def version() -> tuple[int, ...] | None:
    """The version of the git on PATH, or None where there is none."""
    if not shutil.which("git"):
        return None
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text("version"))
    return tuple(int(part or 0) for part in found.groups()) if found else None
