"""Every test but those under tests/upstream, tests/smoke and tests/bench runs on a machine of its own: see `sandbox`.

There nothing of the user's is read or written: a write outside the test's folder fails it on the spot.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hypothesis
import hypothesis.configuration
import pytest
import support
from support import REAL, REPOSITORY, Done, Kit, Root

from kit import recipes
from kit.recipe import ARCHIVES

pytest.register_assert_rewrite("fixing", "situations")
# What is compiled, asserts rewritten and all, is kept for the next run, and beside no source.
if "KIT_MUTANT" not in os.environ:  # in bench_mutants.py: a mutant may be as long as another, and of the same second
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(support.BYTECODE)

NOT_HERMETIC = ("upstream", "smoke", "bench")
MEMORY, OURS = Path("/dev/shm"), "kit-tests-"
ROOM = 2**30  # bytes: of containers, many have 64 MiB there
REACH_SECONDS = 30
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that write, and which of their arguments are paths, each with the argument that holds its dir_fd.
_EVENTS = {
    "os.chmod": ((0, 2),),
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
_allowed: list[Path] = []  # where this test may write; none: anywhere


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait, for a time limit or for a process to end."""
    return (os.cpu_count() or 1) + 1


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook; it cannot be removed, so it asks whether a test is being watched."""
    if not _allowed:
        return
    if event == "os.mkdir" and Path(arguments[0]).is_dir():
        return  # nothing will be made: `mkdir(exist_ok=True)`
    if event == "open" and arguments[2] & _WRITING:
        _check(event, arguments[0], None)
    for path, folder in _EVENTS.get(event, ()):
        _check(event, arguments[path], None if folder is None else arguments[folder])


def _check(event: str, path: Any, folder: int | None) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return  # a file descriptor: it was checked when it was opened
    full = Path(os.fsdecode(path))
    if not full.is_absolute():
        full = (Path(f"/proc/self/fd/{folder}").readlink() if folder is not None and folder >= 0 else Path.cwd()) / full
    full = Path(os.path.normpath(full))
    kernel = full.is_relative_to("/dev") or full.is_relative_to("/proc")
    if "__pycache__" in full.parts or (kernel and not str(full).startswith(f"{MEMORY}/{OURS}")):
        return
    if not any(full.is_relative_to(root) for root in _allowed):
        allowed = list(_allowed)
        _allowed.clear()  # reporting writes too
        pytest.fail(f"{event} outside the test's folder: {full} (allowed: {', '.join(map(str, allowed))})")


sys.addaudithook(_watch)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run side by side (pytest-xdist), but those that share something real in one process, one after another: a
    recipe's smoke runs its workspaces and environments, a module of tests/upstream its cache."""
    for item in items:
        parts = item.path.relative_to(REPOSITORY / "tests").parts
        if parts[0] in NOT_HERMETIC:
            about = getattr(getattr(item, "callspec", None), "params", {}).get("name", "")
            stem = item.path.stem.removeprefix("test_").replace("_", "-")
            stem = "hidream" if "hidream_env" in item.fixturenames else stem  # type: ignore[attr-defined]
            of = max(
                (name for name in recipes.names() if name == about or stem.startswith(name)), key=len, default=stem
            )
            item.add_marker(pytest.mark.xdist_group(of if parts[0] == "smoke" else "/".join(parts)))


def pytest_collection_finish() -> None:
    """What is there now stays, and trees are many small objects: Python need not look through them again and again."""
    gc.freeze()
    gc.set_threshold(100_000, 50)


@pytest.fixture(scope="session", autouse=True)
def _hypothesis_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """hypothesis keeps no examples, and what it caches stays out of the repository."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    hypothesis.settings.register_profile("kit", database=None, deadline=None)
    hypothesis.settings.load_profile("kit")


@pytest.fixture(scope="session")
def real_environment() -> Mapping[str, str]:
    """The environment kit was started in, for what must reach real upstreams: HOME, git configuration, proxies."""
    return MappingProxyType(REAL)


@pytest.fixture(scope="session")
def reach(real_environment: Mapping[str, str]) -> Callable[[str], None]:
    """Skip the test unless the repository, or the archive, at a URL answers; each is asked once."""
    asked: dict[str, str] = {}

    def ask(url: str) -> str:
        if url.endswith(ARCHIVES):
            try:
                with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS):
                    return ""
            except OSError as error:
                return str(error)
        environment = {**real_environment, "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", "ls-remote", "--exit-code", url, "HEAD"]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=REACH_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer within {REACH_SECONDS} s"
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it has no HEAD"])[-1]

    def reach(url: str) -> None:
        if url not in asked:
            asked[url] = ask(url)
        if asked[url]:
            pytest.skip(f"{url} cannot be reached: {asked[url]}")

    return reach


@pytest.fixture(scope="session")
def package_index(real_environment: Mapping[str, str]) -> None:
    """Skip the test unless uv finds packages, as the user has it configured."""
    command = [support.UV, "pip", "compile", "--quiet", "--no-deps", "-"]
    done = subprocess.run(command, input="setuptools", env=real_environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"uv finds no packages: {' '.join(done.stderr.split())}")


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests' folders are: in memory, if there is such a place, with room, and programs may run there."""
    place = tmp_path_factory.getbasetemp()
    if os.access(MEMORY, os.W_OK):
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize > ROOM and not found.f_flag & os.ST_NOEXEC:
            place = MEMORY
    with tempfile.TemporaryDirectory(prefix=OURS, dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """As pytest's own; that of a hermetic test is in memory (a disk takes nine times as long to make and remove its
    small files), and gone when the test has ended, or, with --basetemp, not."""
    if not _hermetic(request) or _keeps(request.config):
        yield request.getfixturevalue("tmp_path_factory").mktemp(re.sub(r"\W", "_", request.node.name)[:30])
        return
    folder = Path(tempfile.mkdtemp(dir=request.getfixturevalue("in_memory")))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _keeps(config: pytest.Config) -> bool:
    """Whether --basetemp was given; pytest-xdist gives one to each of its workers."""
    words = config.workerinput["mainargv"] if hasattr(config, "workerinput") else config.invocation_params.args
    return any(str(word).startswith("--basetemp") for word in words)


def _hermetic(request: pytest.FixtureRequest) -> bool:
    parts: tuple[str, ...] = request.node.path.relative_to(REPOSITORY / "tests").parts
    return parts[0] not in NOT_HERMETIC


@pytest.fixture(autouse=True)
def hermetic(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, in_memory: Path
) -> Iterator[None]:
    """Run the test in a sandbox under its tmp_path, with its cwd in tmp_path/work."""
    if not _hermetic(request):
        yield
        return
    with support.sandbox(tmp_path):
        _allowed.extend([tmp_path_factory.getbasetemp(), in_memory, REPOSITORY / ".pytest_cache"])
        try:
            yield
        finally:
            _allowed.clear()


@pytest.fixture
def kit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run `kit` in this process, as the console script does."""
    from kit.cli import main

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["kit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """What `root` is a copy of."""
    place = tmp_path_factory.mktemp("template")
    with support.sandbox(place):
        root = Root(place / "root", place / "upstream", support.make_upstream(place / "upstream"))
        root.recipe()
        root.refresh()
    return root


@pytest.fixture
def root(tmp_path: Path, _template: Root) -> Root:
    """A recipe folder with the recipe `tiny` on a tiny upstream, its patches written."""
    root = Root(tmp_path / "root", tmp_path / "upstream", _template.pin)
    shutil.copytree(_template.upstream, root.upstream, symlinks=True)
    shutil.copytree(_template.place, root.place, symlinks=True)
    root.recipe()
    return root


@pytest.fixture
def made(root: Root, kit: Kit) -> Path:
    """The workspace of `tiny` for the CPU, at ./made."""
    done = support.prepare(root, kit)
    assert (done.status, done.err) == (0, "")
    return support.MADE
