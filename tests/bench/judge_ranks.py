"""A judge that runs: what a fix made of a script is run on two ranks, in several worlds, beside the script as it was.

Nothing of what the script needs is there; see `stub_world.py`. An edit is wrong where it makes ranks differ in the
collectives they come to, where it makes two ranks write a file that one wrote, or where it raises what was not raised.
"""

from __future__ import annotations
import __future__

import ast
import random
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import judge_words
import stub_modules
import stub_world
from stub_values import Stop
from stub_world import Run, Thing

NUMBERS = range(5)
NUMBER = re.compile(r"\d+")  # in the name of a file: of a step, and an edit may come to others
WORLDS = [(n, deepspeed, resumed) for n in NUMBERS for deepspeed, resumed in ((0, 0), (1, 0), (n % 2, 1))]


@dataclass(frozen=True)
class Verdict:
    """What was wrong with an edit ("": nothing), and how many of the statements it wrote were come to in a run that
    nothing ended."""

    fault: str
    seen: int
    statements: int


def judged(before: bytes, after: bytes) -> Verdict:
    """Run a script as it was and as a fix made it. Raises SyntaxError where it is no Python."""
    tree = judge_words.parse(after)
    new = written(before, after, tree)
    functions = around(tree, new)
    old = [[ran(before, before, rank, world, functions) for rank in (0, 1)] for world in WORLDS]
    now = [[ran(after, before, rank, world, functions) for rank in (0, 1)] for world in WORLDS]
    known = Known(
        {text for runs in old for run in runs for text in run.raised.values()},
        {each for runs in old for each in mismatch(runs)},
        {each for runs in old for each in twice(runs)},
    )
    faults = [compared(before, after, known) for before, after in zip(old, now, strict=True)]
    seen = {line for runs in now for run in runs if not set(run.parts) - set(run.whole) for line in run.lines} & new
    return Verdict(next(filter(None, faults), ""), len(seen), len(new))


@dataclass(frozen=True)
class Known:
    """What was so before an edit in any world: exceptions, collectives that ranks differ in, files written by both."""

    raised: set[str]
    differ: set[tuple[str, str]]
    twice: set[tuple[str, str]]


def compared(old: list[Run], now: list[Run], known: Known) -> str:
    """What is wrong in one world after an edit, of both ranks, that was not before it."""
    number, deepspeed, resumed = now[0].number, " of DeepSpeed" * now[0].deepspeed, ", resumed" * now[0].resumed
    where = f"in world {number}{deepspeed}{resumed}"
    for was, run in zip(old, now, strict=True):
        for stage, text in run.raised.items():
            unbound = "NameError" in text or "UnboundLocalError" in text
            if text not in known.raised and (unbound or stage not in was.raised):
                return f"rank {run.rank} {where}: {text}"
    run_before = set(old[0].parts) & set(old[1].parts)  # who comes to a function, its callers say
    parts = run_before & set(now[0].whole) & set(now[1].whole)
    whole = parts <= set(old[0].whole) & set(old[1].whole)  # else it went on where it had ended
    before = mismatch(old)
    differ = mismatch(now) - (before if whole else known.differ)
    apart = any(name == "load_state" for _, name in before)  # from then on each rank counts its own steps
    if names := {name for part, name in differ if part in parts and not apart}:
        return f"ranks differ {where}: {', '.join(sorted(names))}"
    were = {(part, NUMBER.sub("#", file)) for part, file in (twice(old) if whole else known.twice)}
    if files := {file for part, file in twice(now) if part in parts and (part, NUMBER.sub("#", file)) not in were}:
        return f"written on both ranks {where}: {', '.join(sorted(files))}"
    return ""


def twice(ranks: list[Run]) -> set[tuple[str, str]]:
    return set(ranks[0].files) & set(ranks[1].files)


def mismatch(ranks: list[Run]) -> set[tuple[str, str]]:
    """The collectives that one rank comes to, and the other does not then."""
    one, other = (run.collectives for run in ranks)
    codes = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return {name for kind, a, b, c, d in codes if kind != "equal" for name in (*one[a:b], *other[c:d])}


def written(before: bytes, after: bytes, tree: ast.Module) -> set[int]:
    """The first lines (from 1) of the statements that an edit wrote or changed."""
    codes = SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False).get_opcodes()
    lines = {line + 1 for kind, _, _, start, stop in codes if kind != "equal" for line in range(start, stop)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            if lines & set(range(node.lineno, max(end, node.lineno) + 1)):
                found.add(node.lineno)
    return found


def around(tree: ast.Module, lines: set[int]) -> frozenset[str]:
    """The functions of a module, and methods of its classes (`Class.method`), that have one of some lines."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    named = [(node, node.name) for node in tree.body if isinstance(node, ast.FunctionDef)]
    named += [(node, f"{c.name}.{node.name}") for c in classes for node in c.body if isinstance(node, ast.FunctionDef)]
    return frozenset(name for node, name in named if lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))


@lru_cache(maxsize=4 * len(WORLDS))  # the script as it was, for every fix
def ran(content: bytes, original: bytes, rank: int, world: tuple[int, int, int], functions: frozenset[str]) -> Run:
    """Run a script as a program; then those of its functions that hold an edit and were not come to."""
    run = Run(world[0], rank, bool(world[1]), bool(world[2]))
    stub_world.CURRENT.append(run)
    random.seed(run.number)
    scope: dict[str, Any] = {name: Thing(run, name) for name in judge_words.undefined(original)}
    scope |= {"__name__": "__main__", "__file__": "train.py", "__doc__": ""}
    scope["__builtins__"] = stub_modules.builtins_of(run)
    try:
        attempt(run, "the script", lambda: exec(compiled(content), scope))
        for name in sorted(functions):
            function = scope
            for part in name.split("."):
                function = function.get(part) if isinstance(function, dict) else getattr(function, part, None)
            if isinstance(function, types.FunctionType) and not entered(run, function):
                run.steps = 0
                attempt(run, name, lambda function=function: stub_world.call(run, function))
    finally:
        stub_world.CURRENT.pop()
    run.hooks.clear()
    return run


def attempt(run: Run, what: str, does: Callable[[], object]) -> None:
    run.parts.append(what)
    try:
        does()
        run.whole.append(what)
    except SystemExit:
        run.whole.append(what)
    except Stop:
        pass
    except BaseException as error:  # whatever a script raises is told
        run.raised[what] = f"{type(error).__name__}: {error}"


def entered(run: Run, function: types.FunctionType) -> bool:
    code = function.__code__
    return bool(run.lines & {line for _, _, line in code.co_lines() if line != code.co_firstlineno})


@lru_cache(maxsize=4)
def compiled(content: bytes) -> types.CodeType:
    """A script that says which statements it comes to, and whose imports are of the stubs' world."""
    tree = ast.fix_missing_locations(Prepared().visit(judge_words.parse(content)))
    return compile(tree, "train.py", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)


class Prepared(ast.NodeTransformer):
    """A script's tree, made to run among stubs. What ends a script where something is not as it wants it is passed by,
    and things are unpacked to as many names as there are."""

    KEPT = ("staticmethod", "classmethod", "property", "dataclass", "dataclasses.dataclass", "contextmanager")

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                told = [part for line in block for part in (called("__at__", ast.Constant(line.lineno)), line)]
                setattr(node, name, [part if isinstance(part, ast.stmt) else ast.Expr(part) for part in told])
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        ends, others = ends_it(node.body), ends_it(node.orelse)
        self.generic_visit(node)
        if ends != others:
            node.test = ast.BoolOp(ast.And() if ends else ast.Or(), [node.test, ast.Constant(not ends)])
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.test = ast.BoolOp(ast.And(), [called("__turn__", ast.Constant(node.lineno)), node.test])
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list = [each for each in node.decorator_list if ast.unparse(each).partition("(")[0] in self.KEPT]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list = [each for each in node.decorator_list if ast.unparse(each).partition("(")[0] in self.KEPT]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        names = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        modules = [alias.name if alias.asname else alias.name.partition(".")[0] for alias in node.names]
        return bind(node, names, [called("__module__", ast.Constant(name)) for name in modules])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        found = [alias for alias in node.names if alias.name != "*" and node.module != "__future__"]
        values = [called("__member__", ast.Constant(node.module or "."), ast.Constant(a.name)) for a in found]
        return bind(node, [alias.asname or alias.name for alias in found], values)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        several = [each for each in node.targets if isinstance(each, (ast.Tuple, ast.List))]
        if several:
            node.value = called("__unpack__", node.value, spec(several[0]))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        joins = isinstance(node.func, ast.Attribute) and node.func.attr == "join" and len(node.args) == 1
        if joins and isinstance(node.func.value, ast.Constant):
            node.args = [called("map", ast.Name("str", ast.Load()), node.args[0])]
        if isinstance(node.func, (ast.Name, ast.Attribute)):
            for each in [*node.args, *node.keywords]:
                if isinstance(each, ast.Starred):
                    each.value = called("__spread__", node.func, each.value, ast.Constant(len(node.args) - 1))
                elif isinstance(each, ast.keyword) and each.arg is None:
                    known = [ast.Constant(other.arg) for other in node.keywords if other.arg]
                    each.value = called("__words__", node.func, each.value, ast.List(known, ast.Load()))
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = called("__few__", node.iter)
        return unpacking(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        return unpacking(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.type = called("__caught__", node.type) if node.type else None
        return node


def ends_it(block: list[ast.stmt]) -> bool:
    """Whether a block gives up."""
    return bool(block) and isinstance(block[-1], ast.Raise)


def called(name: str, *given: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(given), [])


def bind(node: ast.stmt, names: list[str], values: list[ast.Call]) -> ast.stmt:
    """An import as an assignment."""
    if not names:
        return ast.copy_location(ast.Pass(), node)
    target = ast.Tuple([ast.Name(name, ast.Store()) for name in names], ast.Store())
    return ast.copy_location(ast.Assign([target], ast.Tuple(list(values), ast.Load())), node)


def unpacking(node: Any) -> Any:
    if isinstance(node.target, (ast.Tuple, ast.List)):
        node.iter = called("__each__", node.iter, spec(node.target))
    return node


def spec(target: ast.expr) -> ast.expr:
    """Names that something is unpacked to, as `stub_modules.Names`."""
    if isinstance(target, (ast.Tuple, ast.List)):
        return ast.Tuple([spec(each) for each in target.elts], ast.Load())
    return ast.Constant("*" if isinstance(target, ast.Starred) else None)
