"""Whether every process comes to a save, and with the same folder: whether what it asks is alike on all of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kit.fixes._ast import every, text
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import FUNCTIONS, last, own

# What gives the same on every process for the same arguments.
_PLAIN = re.compile(
    r"join|len|str|int|float|bool|any|all|min|max|abs|round|sum|range|enumerate|zip|sorted|tuple|list|isinstance|hasattr"
    r"|getattr|Path|format|zfill|lower|upper|strip|startswith|endswith"
)
# What may give something else on each process, of whatever it is asked.
_OWN = re.compile(
    r"time|perf_counter|monotonic|now|utcnow|today|item|random|randint|uniform|choice|input|uuid[14]|exists|isfile|isdir"
    r"|is_file|is_dir|listdir|getpid|mkdtemp"
)
_SHARED = re.compile(r"gather\w*|reduce|all_reduce|broadcast\w*")


def unlike(script: Script, gate: ast.If, ways: Sequence[ast.stmt]) -> ast.expr | None:
    """What may differ from one process to another of what leads inside ``gate`` to a save, or names its folder; None
    where all is alike. ``ways``: the saves, and the statements around them inside the gate."""
    given = _given(gate)
    asked = [node for node in roles.operands(gate.test) if not roles.is_main(script, node, gate)]
    for way in ways:
        for call in roles.saves(script, way):
            asked += [*call.args, *(each.value for each in call.keywords)]
            made = script.called(call)
            for line in script.inside(made) if made else ():
                found = _helper(script, line, _given(made)) if roles.saves(script, line) else None  # type: ignore[arg-type]
                if found:
                    return found
        asked += _tests(way)
    found = next((node for node in asked if _differs(script, node, given)), None)
    return found or next((test for test in _around(script, gate) if _of_its_own(script, test)), None)


def _helper(script: Script, line: ast.stmt, given: dict[str, list[ast.expr]]) -> ast.expr | None:
    """What may differ of a save in a function of the script, and of what leads to it there."""
    asked = [each for call in roles.saves(script, line) for each in (*call.args, *(k.value for k in call.keywords))]
    for node in reversed(script.above[line]):
        if isinstance(node, FUNCTIONS):
            break
        asked += _tests(node)
    return next((node for node in asked if _differs(script, node, given)), None)


def _tests(node: ast.AST) -> list[ast.expr]:
    """What a statement asks before it comes to those inside it."""
    if isinstance(node, (ast.If, ast.While)):
        return [node.test]
    return [node.iter] if isinstance(node, ast.For) else []


def _around(script: Script, gate: ast.If) -> Iterator[ast.expr]:
    """The tests around a gate, in its function."""
    for node in reversed(script.above[gate]):
        if isinstance(node, FUNCTIONS):
            return
        if isinstance(node, ast.If):
            yield node.test


def _given(node: ast.AST) -> dict[str, list[ast.expr]]:
    """What the names and attributes that are given something inside a statement are given, by how they are written."""
    found: dict[str, list[ast.expr]] = {}
    for line in every(node):
        if isinstance(line, ast.Assign):
            targets: list[ast.expr] = line.targets
        elif isinstance(line, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            targets = [line.target]
        else:
            continue
        for part in (part for target in targets for part in every(target)):
            if (
                isinstance(part, (ast.Name, ast.Attribute, ast.Subscript))
                and type(part.ctx) is ast.Store
                and line.value
            ):
                found.setdefault(text(part), []).append(line.value)
    return found


def _differs(script: Script, node: ast.expr, given: dict[str, list[ast.expr]], seen: tuple[str, ...] = ()) -> bool:
    """Whether an expression may be something else on each process: it calls what is not known to be alike, or a name in
    it was given that inside the gate."""
    if _of_its_own(script, node):
        return True
    for part in every(node):
        if isinstance(part, (ast.Call, ast.Await)) and not (
            isinstance(part, ast.Call) and _PLAIN.fullmatch(last(part.func))
        ):
            return True
        named = isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)) and text(part) not in seen
        if named and any(_differs(script, value, given, (*seen, text(part))) for value in given.get(text(part), ())):
            return True
    return False


def _of_its_own(script: Script, node: ast.expr) -> bool:
    """Whether an expression asks the clock, the disk, chance, one's own loss: by itself, or by a name given that."""
    values = [node]
    for part in every(node):
        values += script.assigned.get(part.id, []) if isinstance(part, ast.Name) else []
    for value in values:
        called = {last(part.func) for part in every(value) if isinstance(part, ast.Call)}
        if any(map(_OWN.fullmatch, called)) and not any(map(_SHARED.fullmatch, called)):
            return True
    return False


def sharing(lines: Sequence[ast.stmt]) -> ast.stmt | None:
    """The first of some statements that begins on the line on which the one before it ends."""
    for first, second in pairwise(lines):
        if first.end_lineno == second.lineno:
            return second
    return None


def reads(script: Script, saves: Sequence[ast.stmt]) -> set[str]:
    """The attributes, as written, that saves read: in their arguments, or in the function of the script they call."""
    found: set[str] = set()
    for line in saves:
        for call in roles.saves(script, line):
            nodes: list[ast.AST] = [*call.args, *(each.value for each in call.keywords)]
            made = script.called(call)
            nodes += [node for inner in (script.inside(made) if made else ()) for node in own(inner)]
            found |= {text(part) for node in nodes for part in every(node) if isinstance(part, ast.Attribute)}
    return found
