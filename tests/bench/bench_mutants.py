"""Break kit on purpose, one place at a time, and count what the tests let live: python tests/bench/bench_mutants.py

The mutants are cosmic-ray's (`pip install 'cosmic-ray>=8.7'`), a sample of those of the modules below; each runs the
tests of its module in a clone of this checkout's last commit. Annotations are left out: nothing runs them. A survivor
is printed with its change: a test kills it, or EQUIVALENT says why none can.
"""

from __future__ import annotations

import argparse
import ast
import collections
import concurrent.futures
import dataclasses
import difflib
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
except ImportError:
    sys.exit("bench_mutants.py needs cosmic-ray: pip install 'cosmic-ray>=8.7'")

ROOT = Path(__file__).parents[2]
ALONE = threading.local()
# Module, and the tests that are to notice: pytest's words.
ENGINE = {
    "kit/patchfile.py": ["tests/test_patchfile.py", "tests/test_patchfit.py", "tests/test_patch_roundtrip.py"],
    "kit/patchfit.py": ["tests/test_patchfit.py", "tests/test_patchfile.py", "tests/test_patch_roundtrip.py"],
    "kit/patchwrite.py": ["tests/test_patchwrite.py", "tests/test_patch_roundtrip.py"],
    "kit/series.py": ["tests/test_workspace.py", "tests/test_workspace_misfits.py", "tests/test_rebase.py"],
    "kit/codemod.py": ["tests/test_codemod.py", "tests/test_codemod_bytes.py", "tests/fixes/test_weights_pop.py"],
    "kit/lock.py": ["tests/test_lock.py", "tests/test_strange_lock.py", "tests/test_verify.py"],
    "kit/store.py": ["tests/test_store.py", "tests/test_archive.py", "tests/test_workspace_misfits.py"],
    "kit/inplace.py": ["tests/test_inplace.py", "tests/test_fix.py"],
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change that cosmic-ray makes: the ``occurrence``-th place (from 0) of an operator in a module."""

    module: str
    operator: str
    occurrence: int
    line: int


def modules() -> dict[str, list[str]]:
    """The modules whose mutants are drawn: the engine's, and each general fix."""
    found = dict(ENGINE)
    for path in sorted((ROOT / "kit/fixes").glob("[a-z]*.py")):
        tests = [f"tests/fixes/test_{path.name}", *map(str, sorted(Path("tests/fixes").glob("test_situations_*.py")))]
        found[str(path.relative_to(ROOT))] = [each for each in tests if (ROOT / each).is_file()]
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
    tree = get_ast(source)
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        places = [start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node)]
        for occurrence, start in enumerate(places):
            if not any(first <= start < last for first, last in spans):
                yield Mutant(module, name, occurrence, start[0])


def survives(mutant: Mutant, tests: list[str], scratch: Path) -> tuple[bool, str]:
    """Whether the tests pass with it, and its change as a diff without context."""
    if not hasattr(ALONE, "place"):
        ALONE.place = Path(tempfile.mkdtemp(dir=scratch))
        subprocess.run(["git", "clone", "-q", ROOT, ALONE.place], check=True)
    path = ALONE.place / mutant.module
    before = path.read_text("utf-8")
    after = mutate_code(before, cosmic_ray.plugins.get_operator(mutant.operator)(), mutant.occurrence)
    lines = difflib.unified_diff(before.splitlines(), (after or before).splitlines(), n=0, lineterm="")
    diff = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
    if not diff:
        return False, ""
    path.write_text(after, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    try:
        environment = {**os.environ, "PYTHONPATH": str(ALONE.place), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ALONE.place, env=environment, capture_output=True, timeout=300)
        return done.returncode == 0, diff
    except subprocess.TimeoutExpired:
        return False, diff
    finally:
        path.write_text(before, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=120, metavar="N", help="how many mutants (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--only", default="", metavar="WORD", help="modules whose path has this word in it")
    given = parser.parse_args()
    tests = {name: its for name, its in modules().items() if given.only in name}
    every = [mutant for name in tests for mutant in mutants(name)]
    drawn = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    print(f"{len(drawn)} of {len(every)} mutants of {len(tests)} modules, seed {given.seed}")
    died: collections.Counter[str] = collections.Counter()
    lived: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda each: survives(each, tests[each.module], Path(scratch)), drawn)
        for mutant, (alive, diff) in zip(drawn, results, strict=True):
            (lived if alive else died)[mutant.module] += 1
            if alive:
                print(f"{mutant.module}:{mutant.line}: lives: {mutant.operator}\n{diff}", flush=True)
    for module in sorted({*died, *lived}):
        print(f"{module:40} {died[module]} of {died[module] + lived[module]} died")
    total = len(drawn)
    print(f"{died.total()} of {total} died ({died.total() / max(total, 1):.1%})")


if __name__ == "__main__":
    main()
