"""Where a loop over epochs asks whether this is the last one."""

from __future__ import annotations

import ast
import re
from typing import Any

from kit.fixes._ast import conjuncts, every, text
from kit.fixes._roles._script import Script, dotted, last, own
from kit.fixes._roles.loops import COUNTED, Loop, names_of, option

_LAST = re.compile(r"(^|_)(last|final)(_|$)")
_EARLIER = (ast.Lt, ast.LtE, ast.NotEq)  # `epoch + 1 < epochs`


def last_epoch(script: Script, loop: Loop) -> ast.expr | None:
    """Where a loop over epochs, or what stands below it, asks whether this is the last one: it compares its number with
    where they end, but for what it does in those before only, itself or in what it calls; or it works out how many are
    left and asks for that."""
    target = every(loop.target) if isinstance(loop, ast.For) else []
    if told := [part for part in target if isinstance(part, ast.Name) and _LAST.search(part.id)]:
        return told[0]
    number, ends = _number(script, loop), _ends(script, loop)
    below = script.below(loop)
    lines = [*script.inside(loop), *below, *(inner for line in below for inner in script.inside(line))]
    asked = {name for line in lines for name in _tested(line)}
    for line in lines:
        if isinstance(line, ast.Match) and _matches(script, line, number, ends):
            return line.subject
        left = isinstance(loop, ast.For) and bool(asked & {dotted(target) for target in getattr(line, "targets", ())})
        earlier = [part for part in _earlier(line) if not _meant(script, part.left) & (ends - number)]
        asks = [value for part in own(line) for value in script.properties.get(dotted(part), ())]
        for node in [*own(line), *asks]:
            compares = isinstance(node, ast.Compare) and node not in earlier
            works_out = left and isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.Div))
            if (compares or works_out) and _both(script, node, number, ends):
                return node  # type: ignore[return-value]
            if isinstance(node, ast.Call) and _asks_for(script, node, number, ends):
                return node
    return None


def _matches(script: Script, line: ast.Match, number: set[str], ends: set[str]) -> bool:
    """Whether a `match` is of a loop's number and of where that ends: in its subject, a pattern or a guard."""
    cases = [[case.pattern, *([case.guard] if case.guard else [])] for case in line.cases]
    asked = [_meant(script, line.subject, *parts) for parts in cases]
    told = any(_LAST.search(name.rpartition(".")[2]) for names in asked for name in names if names & number)
    return told or any(_of_both(names, number, ends) for names in asked)


def _number(script: Script, loop: Loop) -> set[str]:
    """What a loop's number goes by."""
    test = _compared(loop)
    of = test.left if test else loop.test if isinstance(loop, ast.While) else loop.target
    return {name for name in _meant(script, of) if not name.isdigit()}


def _compared(loop: Loop) -> ast.Compare | None:
    """What a `while` compares its number with: `epoch < epochs`."""
    return loop.test if isinstance(loop, ast.While) and isinstance(loop.test, ast.Compare) else None


def _ends(script: Script, loop: Loop) -> set[str]:
    """What the last number of a loop goes by."""
    if isinstance(loop, ast.While):
        test = _compared(loop)
        ends = _meant(script, *(test.comparators if test else [loop.test]))
    else:
        counted = [node for node in every(loop.iter) if isinstance(node, ast.Call) and last(node.func) in COUNTED]
        ends = _meant(script, *(counted[0].args[:2][-1:] if counted else [loop.iter]))
        if counted and len(counted[0].args) == 3:  # it may count down
            ends |= {str(int(name) + 1) for name in ends if name.isdigit()}
        if text(loop.iter).startswith("reversed("):
            ends |= {"0"}
    return ends | {str(int(name) - 1) for name in ends if name.isdigit()}


def _earlier(line: ast.stmt) -> list[ast.Compare]:
    """What a statement asks to do something in the epochs before the last alone: `epoch + 1 < epochs`."""
    alone = isinstance(line, ast.If) and not line.orelse
    asks: Any = getattr(line, "test" if alone else "value", None)
    parts = conjuncts(asks) if alone or isinstance(asks, ast.BoolOp) else []
    return [part for part in parts if isinstance(part, ast.Compare) and isinstance(part.ops[0], _EARLIER)]


def _both(script: Script, node: ast.AST, number: set[str], ends: set[str]) -> bool:
    """Whether an expression is of a loop's number and of where that ends."""
    return _of_both(_meant(script, node), number, ends)


def _of_both(asked: set[str], number: set[str], ends: set[str]) -> bool:
    others = ends - number
    return bool(asked & number) and (bool(asked & others) if others else len(asked & number) > 1)


def _tested(line: ast.stmt) -> set[str]:
    """The names that a statement asks for."""
    return names_of(line.test) if isinstance(line, (ast.If, ast.While)) else set()


def _asks_for(script: Script, call: ast.Call, number: set[str], ends: set[str]) -> bool:
    """Whether a function of the script, or a lambda, is handed a loop's number and compares it with where that ends."""
    given = script.assigned.get(dotted(call.func), ())
    made: list[Any] = [each for each in given if isinstance(each, ast.Lambda)]
    for function in (*made, *filter(None, [script.called(call)])):
        names = [each.arg for each in function.args.args if each.arg != "self"]
        places = [name for name, value in zip(names, call.args, strict=False) if dotted(value) in number]
        known = {*places, *({each.arg for each in call.keywords if each.arg and dotted(each.value) in number})}
        words = {name.rpartition(".")[2] for name in ends - number}
        for node in every(function) if known else ():
            meant = _meant(script, node) if isinstance(node, ast.Compare) else set()
            if meant & known and words & {name.rpartition(".")[2] for name in meant}:
                return True
    return False


def _meant(script: Script, *nodes: ast.AST) -> set[str]:
    """What some expressions are made of, and what that was given: names, and where they go up to a number, that one."""
    found: set[str] = set()
    pending = list(nodes)
    for node in pending:
        holders = [each.value for each in every(node) if isinstance(each, ast.Attribute)]
        for each in every(node):
            found |= {option(each), *_by_another_name(script, option(each))} - {""}
            found |= {str(each.value)} if isinstance(each, ast.Constant) and type(each.value) is int else set()
            given = script.given(each) if each not in holders else []
            pending += [value for value in given if value not in pending and dotted(_base(value))]
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def _by_another_name(script: Script, name: str) -> set[str]:
    """What an option is called by what its holder was given: `cfg.epochs` is `self.config.epochs`."""
    holder, dot, rest = name.partition(".")
    given = script.assigned.get(holder, ()) if dot else ()
    return {f"{dotted(value)}.{rest}" for value in given if dotted(value)}


def _base(node: ast.expr) -> ast.expr:
    """What a number is added to or taken from."""
    return node.left if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)) else node
