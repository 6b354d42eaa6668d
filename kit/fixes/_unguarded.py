"""Saves of the state that one process alone comes to, otherwise than by an `if` of the main process."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kit.fixes._alike import RANKS, by_batch
from kit.fixes._ast import every, text
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import FUNCTIONS, Function, dotted, last, own, shown
from kit.fixes._roles.holders import is_accelerator

_ASKS = re.compile(RANKS.pattern + r"|\bget_rank\(|\b(LOCAL_)?RANK\b")
_MAIN = re.compile(r"\b(on|is|only)_?main|main_?(process|only)|master|rank_?(zero|0)")
_SAVER = re.compile(r"save_(\w+_)?state(_\w+)?")
_KEEPS = re.compile(r"save_(\w+_)?(checkpoint|ckpt)(_\w+)?")
_NAMES = 2  # that an answer goes through


def unguarded_saves(script: Script) -> Iterator[tuple[int, str]]:
    """The lines that save state, or call what by its name does, where only one process comes by other ways than an `if`
    of the main process; and how it comes so."""
    for line, _ in script.statements:
        if roles.gates(script, line):
            how = _elsewhere(script, line)
        else:
            how = _by_another_way(script, line) if roles.saves(script, line) else ""
        if how:
            yield line.lineno, f"saved by one process alone ({how})"
        elif roles.saves(script, line) and not roles.gates(script, line) and (asked := by_batch(script, line)):
            yield line.lineno, f"that one process may pass by, and the others would wait (`if {text(asked)}`)"


def _elsewhere(script: Script, line: ast.stmt) -> str:
    """What a statement below an `if` of the main process calls, or hands on, to save the state; "" for nothing."""
    calls = [node for node in own(line) if isinstance(node, ast.Call)]
    named = [call for call in calls if _names_it(script, call, line) or _renamed(script, call)]
    helpers = [call for call in named if not roles.saving(script, call, line)]
    if helpers:
        return "" if script.called(helpers[0]) else f"by {shown(helpers[0])}"
    given = [part for call in calls for part in [*call.args, *(word.value for word in call.keywords)]]
    return next(
        (f"`{text(part)}`" for part in given if isinstance(part, ast.Attribute) and part.attr == roles.SAVE), ""
    )


def _names_it(script: Script, call: ast.Call, line: ast.stmt) -> bool:
    """Whether a call saves the state by its name, or a checkpoint with an Accelerator that it is handed."""
    given = [*call.args, *(each.value for each in call.keywords)]
    handed = any(is_accelerator(script, each, line) for each in given)
    return bool(_SAVER.fullmatch(last(call.func)) or (handed and _KEEPS.fullmatch(last(call.func))))


def _by_another_way(script: Script, line: ast.stmt) -> str:
    """How only one process comes to a statement that saves; "" where all do."""
    if asks := _asks_itself(line):
        return f"`{asks}`"
    if left := next((test for test in script.left_above(line) if _asks(script, test)), None):
        return f"`if {text(left)}`"
    inner: ast.AST = line
    for node in reversed(script.above[line]):
        head = getattr(node, "test", None) or getattr(node, "subject", None)
        if head and (isinstance(node, ast.Match) or inner in getattr(node, "body", [])) and _asks(script, head):
            return f"`{'match' if isinstance(node, ast.Match) else 'if'} {text(head)}`"
        if isinstance(node, FUNCTIONS):
            return _by_function(script, line, node)
        inner = node
    return ""


def _by_function(script: Script, line: ast.stmt, function: Function) -> str:
    """How only one process comes to a function that saves; "" where all do, as far as is seen."""
    for decorator in map(text, function.decorator_list):
        made = script.functions.get(decorator, [])
        asks = any(isinstance(each, ast.If) and _asks(script, each.test) for one in made for each in every(one))
        if asks or _MAIN.search(decorator):
            return f"`@{decorator}`"
    removes = any(not roles.alone(script, each) for each in _removing(script, function))
    handed = _handed(function, [node for node in own(line) if isinstance(node, ast.Call)])
    return f"`{function.name}` also removes files" if handed and removes and not _of_all(function) else ""


def _asks(script: Script, test: ast.expr, through: int = _NAMES) -> bool:
    """Whether a test asks which process this is, itself or by names that hold the answer."""
    if _ASKS.search(text(test)):
        return True
    names = [node.id for node in every(test) if isinstance(node, ast.Name)] if through else []
    values = [value for name in names for value in script.assigned.get(name, ())]
    return any(not isinstance(value, ast.Call) and _asks(script, value, through - 1) for value in values)


def _renamed(script: Script, call: ast.Call) -> bool:
    """Whether a call is of what was given an Accelerator's `save_state`, with its arguments or in a lambda, or asks for
    that by its name."""
    if isinstance(call.func, ast.Call) and last(call.func.func) == "getattr":
        return any(isinstance(each, ast.Constant) and each.value == roles.SAVE for each in call.func.args)
    given = script.assigned.get(call.func.id, ()) if isinstance(call.func, ast.Name) else ()
    made = [part for value in given if not isinstance(value, ast.Name) for part in every(value)]
    return any(isinstance(part, ast.Attribute) and part.attr == roles.SAVE for part in made)


def _handed(function: ast.AST, calls: list[ast.Call]) -> bool:
    """Whether a function saves with an Accelerator that it is handed: who comes there, its callers say."""
    given = {each.arg for each in function.args.args}  # type: ignore[attr-defined]
    return any(dotted(call.func).partition(".")[0] in given - {"self"} for call in calls)


def _asks_itself(line: ast.stmt) -> str:
    """What a simple statement that saves asks of the process itself: `main and save()`; "" where it asks nothing."""
    for node in own(line) if not hasattr(line, "body") else ():
        asked = [node.test] if isinstance(node, ast.IfExp) else getattr(node, "ifs", ())
        asked = node.values[:1] if isinstance(node, ast.BoolOp) else asked
        if found := next((each for each in asked if _ASKS.search(text(each))), None):
            return text(found)
    return ""


def _of_all(function: Function) -> bool:
    """Whether a function is the program's own, or trains: every process comes there."""
    calls = [last(node.func) for node in every(function) if isinstance(node, ast.Call)]
    return function.name == "main" or "backward" in calls


def _removing(script: Script, function: ast.AST) -> list[ast.stmt]:
    """The simple statements of a function that remove files."""
    lines = [line for line in script.inside(function) if not hasattr(line, "body")]
    return [line for line in lines if roles.removals(script, line)]
