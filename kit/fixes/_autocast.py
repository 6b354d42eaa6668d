"""Where a function runs under torch's autocast, on what it does not, and what makes images there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kit.fixes._ast import Ancestors, autocasts, children, defaults, every, handed, statements, stored, text
from kit.fixes._roles import Script
from kit.fixes._roles._script import FUNCTIONS, Function, dotted, last, own, shown

PIPELINES = ("pipeline", "pipe")
# What is handed a pipeline and makes no images with it, by its name.
_SETS_UP = re.compile(
    r"isinstance|type|id|print|hasattr|getattr|setattr|delattr|info|debug|append"
    r"|(enable|disable|set|apply|patch|load|register|optimi[sz]e|compile|add|fuse|replace|free|flush)(_\w+)?"
)
_PARTS = ("vae.decode", "vae.encode", "decode", "encode", "decode_latents", "__call__")
_THREADS = ("map", "submit", "Thread")  # what these call is not under autocast


_CALLED = "the pipeline is also called"


@dataclass(frozen=True)
class Work:
    """Where a pipeline makes images, or may: the line of that, whether it is under autocast, and what it is."""

    line: int
    under: bool
    what: str


def works(script: Script, function: Function) -> list[Work]:
    """Where what a function calls its pipeline makes images, there or in functions of the script that are handed it,
    by whatever name; and where it is handed on to what may do so anywhere."""
    return [*_works(script, function, frozenset(PIPELINES), ())]


def _works(script: Script, function: Function, names: frozenset[str], seen: tuple[Function, ...]) -> Iterator[Work]:
    nodes = every(function)
    whole = _decorated(function)
    inner = [node for node in nodes if isinstance(node, FUNCTIONS) and _decorated(node)]
    under = {node for each in (*contexts(function), *inner) for node in every(each)}
    above = {child: node for node in nodes for child in children(node)}
    names, kept = _names(function, names)
    for node in nodes:
        if not isinstance(node, ast.Name) or node.id not in names or type(node.ctx) is not ast.Load:
            continue
        if any(each in kept or (each is not function and node.id in _own(each)) for each in _up(above, node)):
            continue  # it makes images where that is called
        what, call = _use(above, node)
        made = script.called(call) if call and call.func is not node else None
        here = (whole or node in under) and "threads" not in what and not (made and _yields(made))
        if made in (function, *seen):
            continue
        if made:
            taken = frozenset(_taken(made, call, node))  # type: ignore[arg-type]
            if all(work.under for work in _works(script, made, taken, (*seen, function))):
                continue
            what = _CALLED
        if what:
            yield Work(node.lineno, here, what)


def unknown(script: Script, function: Function) -> str:
    """Why it is not known when a function runs under autocast: it enters one by hand, or a context that a function of
    the script makes, or may leave out, or that comes from elsewhere; "" where all is in sight."""
    named = _named(function)
    for line, _ in statements(function):
        for call in (node for node in own(line) if isinstance(node, ast.Call)):
            of = call.func.value if isinstance(call.func, ast.Attribute) else call
            if last(call.func) == "__enter__" and ("autocast" in text(of) or text(of) in named):
                return f"autocast is entered by hand (line {call.lineno}): write it as a `with`, or skip the fix"
            made = script.called(call)
            if made and not autocasts(function) and autocasts(made) and any(_pipeline(each) for each in call.args):
                where = f"{shown(call)} runs it under autocast (line {call.lineno})"
                return f"{where}: take the dtype out by hand, or skip the fix"
            if made and made is not function and _gives(made) and (_chosen(made) or not autocasts(function)):
                return _MADE.format(text(call.func), call.lineno)
    items = [item for node in every(function) if isinstance(node, ast.With) for item in node.items]
    for call in (each for item in items if isinstance(each := item.context_expr, ast.Call)):
        if text(call.func) in named or ("autocast" in last(call.func) and not autocasts(function)):
            return _MADE.format(text(call.func), call.lineno)
    for item in items:
        name = dotted(item.context_expr)
        given = [*script.given(item.context_expr), *script.assigned.get(last(item.context_expr), ())]
        made_so = "autocast" in name or any(autocasts(each) for each in given)
        if name and made_so and name not in {*named, *stored(function)}:
            where = f"(line {item.context_expr.lineno})"
            return f"`{name}` comes from elsewhere {where}: make it in this function, or skip the fix"
    return ""


_MADE = "`{}` makes the context it runs under (line {}): write `torch.autocast` there, or skip the fix"


def _pipeline(node: ast.expr) -> bool:
    return last(node) in PIPELINES


def _gives(made: Function) -> bool:
    """Whether a function gives autocast to whoever calls it."""
    given = [node.value for node in every(made) if isinstance(node, ast.Return) and node.value]
    named = _named(made)
    return (_yields(made) and autocasts(made)) or any(autocasts(each) or text(each) in named for each in given)


def _chosen(made: Function) -> bool:
    """Whether that may be another context, or one that is switched off."""
    return any(isinstance(node, (ast.If, ast.IfExp)) or getattr(node, "arg", "") == "enabled" for node in every(made))


def _decorated(function: Function) -> bool:
    """Whether all of a function is under autocast."""
    return any("autocast" in text(each) for each in function.decorator_list)


def _yields(function: Function) -> bool:
    """Whether what a function does is done later, where what it gives is gone through."""
    return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in every(function))


def _own(node: ast.AST) -> set[str]:
    """The names of what a function is handed."""
    return {each.arg for each, _ in defaults(node.args)} if isinstance(node, (*FUNCTIONS, ast.Lambda)) else set()


def _use(above: dict[ast.AST, ast.AST], node: ast.Name) -> tuple[str, ast.Call | None]:
    """What a name of a pipeline is used for, if that may make images, and the call that it is for."""
    owner = above.get(node)
    part = ""
    while isinstance(owner, ast.Attribute):
        part, node, owner = f"{part}.{owner.attr}".lstrip("."), owner, above.get(owner)  # type: ignore[assignment]
    called = isinstance(owner, ast.Call) and owner.func is node
    if (part and part != "vae") or isinstance(getattr(node, "ctx", None), ast.Store):
        return _CALLED * (called and part in _PARTS), None
    if called:
        return _CALLED, owner  # type: ignore[return-value]
    if isinstance(owner, ast.keyword):
        owner = above.get(owner)
    if isinstance(owner, ast.Call):
        name = last(owner.func)
        if name in _THREADS and (name == "Thread" or isinstance(owner.func, ast.Attribute)):
            return f"{shown(owner)} has threads call the pipeline", owner
        return ("" if _SETS_UP.fullmatch(name) else f"{shown(owner)} is handed the pipeline, and may call it"), owner
    while isinstance(owner, (ast.Tuple, ast.List)):
        owner = above.get(owner)
    if isinstance(owner, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.If, ast.IfExp, ast.While, ast.Assert, ast.For)):
        return "", None
    if isinstance(owner, ast.Assign) and all(isinstance(each, ast.Name) for each in owner.targets):
        return "", None
    return "the pipeline is handed on to what may call it", None


def _names(function: Function, names: frozenset[str]) -> tuple[frozenset[str], set[ast.AST]]:
    """What else a pipeline, or what calls it, goes by in a function; and what such a name is given."""
    kept: set[ast.AST] = set()
    while True:
        more = {*names}
        for line, _ in statements(function):
            if isinstance(line, FUNCTIONS) and _reads(line, names) and not _decorated(line) and not _yields(line):
                more.add(line.name)
                kept.add(line)
            elif isinstance(line, ast.For):
                more |= {name for name, value in _each(line) if dotted(value) in names}
            elif isinstance(line, ast.Assign) and _calls_later(line.value, names):
                plain = [each.id for each in line.targets if isinstance(each, ast.Name)]
                more |= {*plain}
                kept |= {line.value} if plain and not isinstance(line.value, ast.Name) else set()
        if more == names:
            return names, kept
        names = frozenset(more)


def _each(loop: ast.For) -> Iterator[tuple[str, ast.expr]]:
    """What a loop over things that are written out gives the names that it goes over them by."""
    targets = _parts(loop.target)
    for element in loop.iter.elts if isinstance(loop.iter, (ast.Tuple, ast.List)) else ():
        yield from ((last(name), value) for name, value in zip(targets, _parts(element), strict=False))


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]


def _calls_later(value: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression is a pipeline, or its VAE, or what calls one later on: a `partial`, a `lambda`."""
    if isinstance(value, ast.Call):
        return last(value.func) == "partial" and any(dotted(each) in names for each in value.args)
    later = isinstance(value, (ast.Lambda, ast.GeneratorExp)) and _reads(value, names)
    return later or dotted(value).removesuffix(".vae") in names


def _reads(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether a function calls one of some names, unless it is handed that itself."""
    calls = [dotted(part.func).partition(".") for part in every(node) if isinstance(part, ast.Call)]
    return any(name in names - _own(node) and part in ("", *_PARTS) for name, _, part in calls)


def _taken(function: Function, call: ast.Call, node: ast.AST) -> Iterator[str]:
    """What a function calls something that a call hands it."""
    given = [each.arg for each, _ in defaults(function.args)]
    given = given[given[:1] == ["self"] :]
    yield from (name for name, each in zip(given, call.args, strict=False) if each is node)
    yield from (each.arg for each in call.keywords if each.value is node and each.arg)


def _up(above: dict[ast.AST, ast.AST], node: ast.AST) -> Iterator[ast.AST]:
    while node in above:
        node = above[node]
        yield node


def contexts(function: Function) -> list[ast.With]:
    """The statements that may put what is in them under autocast."""
    named = _named(function)
    found = [node for node in every(function) if isinstance(node, ast.With)]
    return [
        node
        for node in found
        if any("autocast" in text(item) or text(item.context_expr) in named for item in node.items)
        or any(
            isinstance(line, ast.Expr) and "enter_context(" in text(line) and "autocast" in text(line)
            for line in node.body
        )
    ]


def _named(function: Function) -> dict[str, list[tuple[ast.expr, Ancestors]]]:
    """The names given an autocast, with all that they are given, and what is around that."""
    given: dict[str, list[tuple[ast.expr, Ancestors]]] = {}
    for line, above in statements(function):
        if isinstance(line, ast.Assign):
            for target in line.targets:
                given.setdefault(text(target), []).append((line.value, (*above, line)))
    return {name: each for name, each in given.items() if any("autocast" in text(value) for value, _ in each)}


def off(function: Function) -> list[str]:
    """The conditions on which autocast is off where a pipeline is called, as they are written."""
    asked = {text(item.context_expr): item.context_expr for node in contexts(function) for item in node.items}
    found: list[ast.expr] = []
    for each in (each for name, each in _named(function).items() if name in asked or not asked):
        on = [_around(above) for value, above in each if autocasts(value)]
        for value, above in each:
            otherwise = _around(above) or [_not(test) for tests in on for test in tests]
            found += _switched(value) if autocasts(value) else otherwise
    for value in asked.values():
        found += _switched(value)
    return list(dict.fromkeys(text(each) for each in found))


def _switched(value: ast.expr) -> list[ast.expr]:
    """On what a context that may be autocast is not."""
    if isinstance(value, ast.IfExp):
        first, second = autocasts(value.body), autocasts(value.orelse)
        here = [] if first == second else [_not(value.test) if first else value.test]
        return [*here, *_switched(value.body), *_switched(value.orelse)]
    enabled = handed(value, "enabled", at=None) if isinstance(value, ast.Call) else []
    return [_not(each) for each in enabled if text(each) != "True" and autocasts(value)]


def _around(above: Ancestors) -> list[ast.expr]:
    """On what a statement is come to, by the innermost `if` around it."""
    for node, inner in zip(reversed(above[:-1]), reversed(above[1:]), strict=True):
        if isinstance(node, ast.If):
            return [node.test if inner in node.body else _not(node.test)]
    return []


def _not(test: ast.expr) -> ast.expr:
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return test.operand if negated else ast.UnaryOp(ast.Not(), test)  # type: ignore[attr-defined]
