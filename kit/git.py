"""Every call to git, through GitPython's command object: a scrubbed environment, fixed arguments, no shell.

The user's configuration is read, so that their `url.<base>.insteadOf`, proxies and certificates work; what could run
code or change bytes on the way (hooks, filters, templates, submodules, line endings, signing) is switched off. That of
a repository is not read at all: it may come from a stranger, and names programs in a dozen places. So nothing is
fetched on the way either: only `fetch` does that, into kit's own cache. So GitPython's `Repo` is not used: it reads
that configuration, and goes where its `core.worktree` says. Nor is GitPython imported before git is really called
(60 ms).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import KitError

if TYPE_CHECKING:
    from git.cmd import Git

Progress = Callable[[float, float], None]
FLOOR = (2, 29)  # `fetch --stdin` and `--no-write-fetch-head` came with it (its release notes)
SILENT = 60  # seconds without a word from the other side, after which a fetch is given up

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
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": str(SILENT),
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "log.showSignature": "false",
    "maintenance.auto": "false",
    # https, as recipes name; the others only where the user's own insteadOf leads there, not a server's redirect
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    **{f"protocol.{name}.allow": "user" for name in ("file", "git", "http", "ssh")},
    "submodule.recurse": "false",
    "tag.gpgSign": "false",
}
# What a command is always given: attributes name no program, and git does not look into a repository inside this one.
_PLAIN = ("--no-ext-diff", "--no-textconv")
_FLAGS = {"status": ("--ignore-submodules=dirty",), "log": _PLAIN, "show": _PLAIN}
_FLAGS["diff"] = (*_FLAGS["status"], *_PLAIN)
_ARGV = ["git", *(part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}"))]


def environment(index: Path | None = None) -> dict[str, str]:
    """The environment git runs in: no GIT_DIR and the like from a caller, no prompt, English, no optional locks;
    ``index`` in place of the repository's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key.startswith(_KEPT)}
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
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
    limit = SILENT if arguments[0] == "ls-remote" else None
    process = _start(*_call(arguments, at, index), subprocess.DEVNULL if stdin is None else subprocess.PIPE)
    try:
        out, said = process.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        raise GitError(arguments, at, f"fatal: timed out: no answer for {SILENT} s") from None
    if process.returncode not in statuses:
        raise GitError(arguments, at, said.decode("utf-8", "replace"))
    return bytes(out)


def _start(argv: Sequence[str], variables: dict[str, str], stdin: int, output: bool = True) -> Git.AutoInterrupt:
    """A git process, which ends with the object that is returned. Raises KitError where git is not installed."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # else its import fails where there is no git
    from git import Git, GitCommandNotFound

    for name in os.environ.keys() - variables.keys():
        if name.startswith("GIT_") and not name.startswith("GIT_PYTHON_"):
            del os.environ[name]  # GitPython adds to the environment of this process, and takes nothing away
    try:
        return Git().execute(argv, as_process=True, istream=stdin, with_stdout=output, env=variables)
    except GitCommandNotFound:
        raise _no_git() from None


def text(*arguments: str | Path, at: Path | None = None, statuses: Sequence[int] = (0,)) -> str:
    """Like :func:`run`, decoded and stripped."""
    return run(*arguments, at=at, statuses=statuses).decode("utf-8", "surrogateescape").strip()


def show(*arguments: str | Path, at: Path, index: Path | None = None) -> None:
    """Run git with its output going to the user (a pager, colours)."""
    sys.stdout.flush()
    argv, variables = _call(arguments, at, index)
    try:
        subprocess.run(argv, env=variables)
    except FileNotFoundError:
        raise _no_git() from None


# Files in a tree are the bytes of their blobs, and text is shown as text, whatever upstream's .gitattributes and the
# user's configuration say.
BYTES = "* -text -ident -filter !working-tree-encoding !diff !merge\n"


def _call(arguments: Sequence[str | Path], at: Path | None, index: Path | None) -> tuple[list[str], dict[str, str]]:
    """A command line of git and its environment, in the repository ``at`` (None: in none, wherever the user stands).

    Its objects, references, index and HEAD are its own; its configuration, hooks and attributes are kit's: git takes
    them from another folder (GIT_COMMON_DIR). Raises GitError where it is no repository, or not one of its own.
    """
    command, *rest = map(str, arguments)
    words = [command, *_FLAGS.get(command, ()), *rest]
    if at is None:
        return [*_ARGV, "-C", "/", *words], environment(index)
    at = at.absolute()
    bare = not os.path.lexists(at / ".git")
    own = at if bare else at / ".git"
    head, staged = own / "HEAD", own / "index"
    odd = [own] * (own.is_symlink() or not own.is_dir())
    odd += [path for path in (head, staged) if path.is_symlink() or (path.exists() and not path.is_file())]
    if odd or not head.exists():
        raise GitError(arguments, at, f"fatal: not a git repository of kit's: {(odd or [own])[0]}")
    there = [name for name in _PARTS if (own / name).exists()] + [name for name in _INFO if (own / name).is_file()]
    common = _common(str(own), bare, tuple(there), tempfile.gettempdir())
    places = {"GIT_DIR": str(own), "GIT_COMMON_DIR": common, **({} if bare else {"GIT_WORK_TREE": str(at)})}
    return [*_ARGV, "-C", str(at), *words], {**environment(index), **places}


_PARTS = ("objects", "refs", "packed-refs", "logs", "shallow")
_INFO = ("info/exclude", "info/sparse-checkout")


@functools.cache
def _common(own: str, bare: bool, there: tuple[str, ...], folder: str) -> str:
    """What stands in for the part of the repository ``own`` that holds its configuration, with links to what it has
    of its parts (``there``): made in ``folder``, once for all calls of this process, at whose end it goes."""
    place = Path(tempfile.mkdtemp(prefix="kit-", dir=folder))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    sparse = str("info/sparse-checkout" in there).lower()
    keys = {"bare": str(bare).lower(), "sparseCheckout": sparse, "sparseCheckoutCone": sparse}
    keys["logAllRefUpdates"] = "false"
    text = "".join(f"\t{key} = {value}\n" for key, value in keys.items())
    (place / "config").write_text(f"[core]\n{text}", encoding="utf-8")
    (place / "info").mkdir()
    (place / "info" / "attributes").write_text(BYTES, encoding="utf-8")
    for name in there:
        (place / name).symlink_to(Path(own, name))
    return str(place)


def fetch(at: Path, *arguments: str, stdin: bytes = b"", progress: Progress) -> None:
    """`git fetch` into a repository of kit's cache, with its progress read from stderr. Raises GitError, also where
    nothing is heard for SILENT seconds."""
    argv = [*_ARGV, "--git-dir", str(at), "fetch", "--progress", "--no-tags", *arguments]
    process = _start(argv, environment(), subprocess.PIPE, output=False)
    assert process.proc and process.stdin and process.stderr
    complaints: list[str] = []
    silent = False
    try:
        with contextlib.suppress(BrokenPipeError):  # git ended early: its status and complaints tell why
            process.stdin.write(stdin)
            process.stdin.close()
        buffer = b""
        while not (silent := not select.select([process.stderr], [], [], SILENT)[0]):
            if not (chunk := os.read(process.stderr.fileno(), 4096)):
                break
            *lines, buffer = re.split(rb"[\r\n]", buffer + chunk)
            for raw in lines:
                line = raw.decode("utf-8", "replace")
                if counted := re.search(r"Receiving objects:.*\((\d+)/(\d+)\)", line):
                    progress(int(counted[1]), int(counted[2]))
                elif not re.match(r"(remote: )?\w[\w ]+:\s+\d+%", line):
                    complaints.append(line)
        complaints.append(buffer.decode("utf-8", "replace"))
    finally:
        if silent or sys.exc_info()[0] is not None:
            process.terminate()  # it ends what it started to talk to the other side
        status = process.proc.wait()  # AutoInterrupt.wait raises
        process.stderr.close()
    if silent:
        raise GitError(("fetch", *arguments), at, f"fatal: timed out: nothing was heard for {SILENT} s")
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
        super().__init__(f"git {arguments[0]} failed{place}: {self.said}", _advice(self.stderr))


def _advice(stderr: str) -> str:
    """What to do about what git says; nothing where it is not known."""
    if re.search(r"No space left on device|[Dd]isk quota exceeded|file write error", stderr):
        return "the disk is full: make room, or set KIT_CACHE to a folder that has some"
    if found := re.search(r"dubious ownership in repository at '([^']+)'", stderr):
        return f"it belongs to another user; if you trust it: git config --global --add safe.directory {found[1]}"
    if re.search(r"unknown option|^usage:", stderr, re.MULTILINE) and (found_version := version() or FLOOR) < FLOOR:
        return f"git {_dotted(found_version)} is too old: install git {_dotted(FLOOR)} or newer"
    return ""


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _no_git() -> KitError:
    return KitError("git was not found on PATH", f"install git {_dotted(FLOOR)} or newer, then run `kit doctor`")


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
