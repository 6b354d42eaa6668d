"""Break kit on purpose, one place at a time, and count what the tests let live: python tests/bench/bench_mutants.py

The mutants are cosmic-ray's (`pip install 'cosmic-ray>=8.7'`, Python 3.11 or newer), a sample of those of the modules
below; each runs the tests of its module in a clone of this checkout's last commit. Annotations are left out: nothing
runs them. A survivor is printed with its change: a test kills it, or mutants.toml says why none can. Those it says are
counted apart, if they live.
"""

from __future__ import annotations

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import dataclasses
import difflib
import fnmatch
import gc
import importlib.util
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import tomllib

try:
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
except ImportError:
    sys.exit("bench_mutants.py needs cosmic-ray: pip install 'cosmic-ray>=8.7'")

ROOT = Path(__file__).parents[2]
SECONDS, CPU_SECONDS, MEMORY = 900, 90, 8 * 2**30  # a mutant may loop, and eat: it has died then
PYTEST = ["-n", "0", "-p", "no:cacheprovider", "-W", "error::SyntaxWarning"]
# Module, and the tests that are to notice: pytest's words.
ENGINE = {
    "kit/patchfile.py": [
        "tests/test_patchfile.py",
        "tests/test_patchfit.py",
        "tests/test_patch_roundtrip.py",
        "tests/test_patchwrite.py",
    ],
    "kit/patchfit.py": ["tests/test_patchfit.py", "tests/test_patchfile.py", "tests/test_patch_roundtrip.py"],
    "kit/patchwrite.py": ["tests/test_patchwrite.py", "tests/test_patch_roundtrip.py"],
    "kit/series.py": [
        "tests/test_series.py",
        "tests/test_extending.py",
        "tests/test_derive.py",
        "tests/test_workspace_misfits.py",
        "tests/test_workspace.py",
        "tests/test_rebase.py",
    ],
    "kit/codemod.py": [
        "tests/test_codemod.py",
        "tests/test_codemod_bytes.py",
        "tests/test_codemod_conflicts.py",
        "tests/fixes/test_weights_pop.py",
    ],
    "kit/lock.py": ["tests/test_lock.py", "tests/test_strange_lock.py", "tests/test_verify.py"],
    "kit/store.py": ["tests/test_store.py", "tests/test_archive.py", "tests/test_workspace_misfits.py"],
    "kit/inplace.py": ["tests/test_inplace.py", "tests/test_patch_env.py"],
}


class Equivalent(NamedTuple):
    """Mutants that no test can tell from the module, and why: those of an operator (a pattern that its end matches) on
    a line ("": on any)."""

    modules: str  # a pattern, as of a path
    operators: str
    line: str
    why: str

    def holds(self, mutant: Mutant) -> bool:
        return (
            fnmatch.fnmatch(mutant.module, self.modules)
            and fnmatch.fnmatch(mutant.operator, f"*{self.operators}")
            and self.line in ("", mutant.text)
        )


EQUIVALENT = [
    Equivalent(**each)
    for each in tomllib.loads(Path(__file__).with_name("mutants.toml").read_text("utf-8"))["equivalent"]
]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change that cosmic-ray makes: the ``occurrence``-th place (from 0) of an operator in a module."""

    module: str
    operator: str
    occurrence: int
    line: int
    text: str  # of that line


def modules() -> dict[str, list[str]]:
    """The modules whose mutants are drawn: the engine's, and each general fix."""
    found = dict(ENGINE)
    shared = ["tests/fixes/test_other_names.py", "tests/fixes/test_every_fix.py"]
    shared += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests/fixes").glob("test_situations_*.py"))]
    for path in sorted((ROOT / "kit/fixes").glob("[a-z]*.py")):
        stem, name = path.stem, path.stem.replace("_", "-")
        own = [*(ROOT / "tests/fixes").glob(f"test_{stem}.py"), *(ROOT / "tests/fixes").glob(f"test_{stem}_*.py")]
        chosen = ["-k", f"{name} or {stem} or loading_fixes"]
        found[str(path.relative_to(ROOT))] = [*(str(each.relative_to(ROOT)) for each in own), *shared, *chosen]
    return found


def mutants(module: str) -> Iterator[Mutant]:
    """All of a module's, but those in annotations."""
    source = (ROOT / module).read_text("utf-8")
    annotations = [
        part
        for node in ast.walk(ast.parse(source))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
    ]
    spans = [((x.lineno, x.col_offset), (x.end_lineno or 0, x.end_col_offset or 0)) for x in annotations]
    tree, lines = get_ast(source), source.splitlines()
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        places = [start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node)]
        for occurrence, start in enumerate(places):
            if not any(first <= start < last for first, last in spans):
                yield Mutant(module, name, occurrence, start[0], lines[start[0] - 1].strip())


def explained(mutant: Mutant) -> str:
    """Why no test can tell a mutant from its module; "" where none was found."""
    return next((each.why for each in EQUIVALENT if each.holds(mutant)), "")


def outdated() -> list[Equivalent]:
    """What is explained of a line that no module has any more."""
    found = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (ROOT / "kit").rglob("*.py")}
    lines = {name: {line.strip() for line in source.splitlines()} for name, source in found.items()}
    return [
        each
        for each in EQUIVALENT
        if not any(fnmatch.fnmatch(name, each.modules) and {each.line} <= {"", *its} for name, its in lines.items())
    ]


def change(mutant: Mutant, before: str) -> tuple[str, str]:
    """The module's source with the mutant, and its change as a diff without context ("" where there is none)."""
    operator = cosmic_ray.plugins.get_operator(mutant.operator)()
    after = mutate_code(before, operator, mutant.occurrence) or before
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return after, "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def settle(scratch: str, tests: list[str]) -> None:
    """Make this process one that tests mutants: in a clone of its own, with all imported that is not kit's."""
    place = tempfile.mkdtemp(dir=scratch)
    subprocess.run(["git", "clone", "-q", ROOT, place], check=True)
    os.chdir(place)
    os.environ["PYTHONPATH"] = place
    subprocess.run(
        [sys.executable, "-m", "pytest", "--co", "-q", *PYTEST, *tests], check=True, stdout=subprocess.DEVNULL
    )
    os.environ["PYTHONDONTWRITEBYTECODE"] = os.environ["KIT_MUTANT"] = "1"
    sys.dont_write_bytecode = True  # from here on: a mutant may be as long as another, and of the same second
    sys.path[0] = place
    for name in ("hypothesis", "libcst", "numpy", "pytest", "_pytest.assertion.rewrite", "jinja2", "git", "pydantic"):
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    gc.freeze()


def passes(tests: list[str]) -> bool:
    """Whether the tests pass in a process forked from this one, within ``CPU_SECONDS`` and ``SECONDS``."""
    child = multiprocessing.get_context("fork").Process(target=_test, args=(tests,))
    child.start()
    child.join(SECONDS)
    code = child.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # type: ignore[arg-type]
    child.join()
    return code == 0


def _test(tests: list[str]) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os._exit(pytest.main(["-x", "-q", *PYTEST, *tests]))


def survives(mutant: Mutant, tests: list[str]) -> tuple[bool, str]:
    """Whether the tests pass with it, and its change."""
    path = Path(mutant.module)
    before = path.read_text("utf-8")
    after, diff = change(mutant, before)
    if not diff:
        return False, ""
    path.write_text(after, encoding="utf-8")
    try:
        return passes(tests), diff
    finally:
        path.write_text(before, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=120, metavar="N", help="how many mutants (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--only", default="", metavar="WORD", help="modules whose path has this word in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="how many at a time")
    given = parser.parse_args()
    if gone := outdated():
        sys.exit("\n".join(f"mutants.toml: {each.modules} has no such line: {each.line}" for each in gone))
    tests = {name: its for name, its in modules().items() if given.only in name}
    every = [mutant for name in tests for mutant in mutants(name)]
    drawn = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    print(f"{len(drawn)} of {len(every)} mutants of {len(tests)} modules, seed {given.seed}", flush=True)
    files = sorted({each for its in tests.values() for each in its if each.endswith(".py")})
    fresh = multiprocessing.get_context("spawn")
    counted: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in sorted(tests)}
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ProcessPoolExecutor(given.jobs, fresh, settle, (scratch, files)) as pool,
    ):
        names = sorted({each.module for each in drawn})
        if failing := [
            name
            for name, fine in zip(names, pool.map(passes, [tests[name] for name in names]), strict=True)
            if not fine
        ]:
            sys.exit(f"their tests fail as they are, so every mutant would die: {', '.join(failing)}")
        results = pool.map(survives, drawn, [tests[each.module] for each in drawn])
        for mutant, (alive, diff) in zip(drawn, results, strict=True):
            why = explained(mutant)
            counted[mutant.module]["died" if not alive else "equivalent" if why else "live"] += 1
            if alive and not why:
                print(f"{mutant.module}:{mutant.line}: lives: {mutant.operator}\n{diff}", flush=True)
    for module, its in counted.items():
        if its:
            print(f"{module:40} {_told(its)}")
    print(_told(sum(counted.values(), collections.Counter())))


def _told(its: collections.Counter[str]) -> str:
    noticed = its["died"] / max(its.total() - its["equivalent"], 1)
    return f"{its['died']} of {its.total()} died, {its['equivalent']} equivalent, {its['live']} live ({noticed:.1%})"


if __name__ == "__main__":
    main()
