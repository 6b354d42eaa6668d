"""What one process alone is given, and every process needs to save the state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from kit.fixes import _deepspeed
from kit.fixes._alike import FILLS, RANKS
from kit.fixes._ast import every, same, text
from kit.fixes._roles import Script, paths
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import FUNCTIONS, Function, own

_ONE = re.compile(r"on_(local_)?main_process|on_process|on_last_process|rank_zero_only|main_process_only")


def of_one(script: Script, gate: ast.If, common: Sequence[ast.stmt], ways: set[ast.stmt]) -> tuple[str, int]:
    """A name, or an attribute, that every process reads in ``gate`` and the main one alone was given, and the line
    where it was; ("", 0) where there is none. ``common``: what every process comes to there; ``ways``: what
    leads to the save, and is opened with the gate."""
    inside = [gate, *script.inside(gate)]
    parts = [*every(gate.test), *(part for line in common for part in own(line))]
    read = {text(part) for part in parts if isinstance(part, (ast.Name, ast.Attribute)) and type(part.ctx) is ast.Load}
    whole = [line for line in common if not list(_ways(script, line, {gate, *ways}))]
    read |= {text(line.target) for line in common if isinstance(line, ast.AugAssign)}
    read -= {name for line in whole if not isinstance(line, ast.AugAssign) for name in _bound(line)}
    read |= {text(part) for part in every(gate.test) if isinstance(part, (ast.Name, ast.Attribute))}
    owner, scopes = script.class_of(gate), script.scopes(gate)
    for line, _ in script.statements:
        for name in sorted(_of_main(script, line, {gate, *ways} if line in inside else set()) & read):
            mine = script.class_of(line) is owner if name.startswith("self.") else script.scopes(line)[0] in scopes
            if mine and not (
                paths.later(script, line, gate)
                or (name not in _filled(script, line) and _given_anew(script, name, line, gate))
            ):
                return name, line.lineno
    return "", 0


def _bound(line: ast.stmt) -> set[str]:
    """The names and attributes that a statement itself gives something."""
    if isinstance(line, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in line.names}
    parts = (part for part in own(line) if isinstance(part, (ast.Name, ast.Attribute)))
    return {text(part) for part in parts if type(part.ctx) is ast.Store}


def _given_anew(script: Script, name: str, line: ast.stmt, gate: ast.If) -> bool:
    """Whether a name is given something else than by a statement, on whatever way to a gate."""
    value = paths.given(script, name, gate)
    return value is not None and value is not getattr(line, "value", None)


def _of_main(script: Script, line: ast.stmt, opened: set[ast.stmt], within: tuple[Function, ...] = ()) -> set[str]:
    """The names, attributes and containers that a statement gives something on one process alone, below what is
    ``opened``."""
    function = script.function(line)
    calls = script.calls.get(function.name, []) if function else []
    given = _bound(line) | _filled(script, line)
    if calls and all(roles.alone(script, each) for _, each in calls):
        return given
    value = getattr(line, "value", None) if isinstance(line, (ast.Assign, ast.AnnAssign)) else None
    choices = [part.test for part in every(value) if isinstance(part, ast.IfExp)] if value else []
    if any(roles.mentions_main(script, test, line) for test in choices) or _made_by_one(script, value, within):
        return _bound(line)
    empty = isinstance(value, ast.Constant) and value.value is None  # taken from the others
    ways = list(_ways(script, line, opened))
    return {name for name in given if any((not way and empty) or not _gives(script, way, name) for way in ways)}


def _ways(script: Script, line: ast.stmt, opened: set[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """The blocks that other processes go through where a statement is in one of those of an `if`, or a `match`, that
    asks which process this is, in its function and inside those that are ``opened``."""
    inner: ast.AST = line
    for node in reversed(script.above[line]):
        if isinstance(node, FUNCTIONS) or node in opened:
            return
        if isinstance(node, ast.If) and _asks(script, node.test, node):
            yield node.orelse if inner in node.body else node.body
        if isinstance(node, ast.Match) and _asks(script, node.subject, node):
            whole = any(isinstance(case.pattern, ast.MatchAs) and not case.guard for case in node.cases)
            yield from [[], *(case.body for case in node.cases if case is not inner)][whole:]
        inner = node


def _asks(script: Script, test: ast.expr, statement: ast.stmt) -> bool:
    """Whether a test asks which process this is, and does not let DeepSpeed's in."""
    asked = roles.mentions_main(script, test, statement) or bool(RANKS.search(text(test)))
    return asked and not any(map(_deepspeed.asks, every(test)))


def _gives(script: Script, way: list[ast.stmt], name: str) -> bool:
    """Whether a block gives a name something, and not None."""
    lines = [line for each in way for line in _all(script, each)]
    return any(name in _bound(line) and not same(getattr(line, "value", None), "None") for line in lines)


def _made_by_one(script: Script, value: ast.expr | None, within: tuple[Function, ...]) -> bool:
    """Whether a function of the script, which gives a value, gives it to one process alone."""
    made = script.called(value) if isinstance(value, ast.Call) else None
    if made is None or made in within:
        return False
    if any(_ONE.search(text(each)) for each in made.decorator_list):
        return True
    lines = list(script.inside(made))
    back = [line for line in lines if isinstance(line, ast.Return)]
    names = {text(line.value) for line in back if line.value}
    return any(list(_ways(script, line, set())) for line in back) or any(
        names & _of_main(script, line, set(), (*within, made)) for line in lines
    )


def _filled(script: Script, line: ast.stmt) -> set[str]:
    """The containers that a statement puts something in."""
    owners = [node.value for node in own(line) if isinstance(node, ast.Subscript) and type(node.ctx) is ast.Store]
    for call in (node for node in own(line) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in (*FILLS, "pop", "clear", "remove"):
            owners.append(call.func.value)
    made = {text(each): script.assigned.get(text(each), ()) for each in owners}
    return {name for name, values in made.items() if values and all(map(roles.is_container, values))}


def _all(script: Script, line: ast.stmt) -> list[ast.stmt]:
    return [line, *script.inside(line)]
