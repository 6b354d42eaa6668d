"""What one pass over a loader's batches keeps for a later one, which has them in another order: see `sample_caches`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from kit.fixes._ast import every, text
from kit.fixes._caches import by_step
from kit.fixes._roles import Script
from kit.fixes._roles._script import dotted, last, own
from kit.fixes._samples import assigned, in_order, makes

_FILLS = ("append", "appendleft", "extend", "insert", "put", "setdefault", "update")
_ENDS = ("pop", "popleft", "get_nowait")  # which take what is first, or last
# What only counts the batches, shows how far it is, or leaves out the first, or the last.
_AROUND = ("tqdm", "enumerate", "list", "iter", "skip_first_batches", "islice")


@dataclass(frozen=True)
class _Kept:
    """A name that is filled in a pass over the loader ``loader``: the loop, or the comprehension, that does so."""

    name: str
    loader: str
    by: ast.stmt


def kept_in_order(script: Script) -> Iterator[tuple[int, str]]:
    """The lines of a loop over a loader that take what an earlier pass over it kept: by the number of the batch, from
    one end, or side by side with the batches; each with the name of what was kept. Not those that `by_step` knows."""
    kept = _kept(script)
    known = {line for line, *_ in by_step(script.tree)} if kept else set()
    for loop, _ in script.statements if kept else ():
        if not isinstance(loop, ast.For):
            continue
        over = [meant for name in _over(loop.iter) for meant in (name, *_meant(script, name))]
        names = {each.name for each in kept if each.loader in over and _before(script, each, loop)}
        if not names or any(_fixed(script, loop, loader) for loader in over):
            continue
        if beside := names & set(over):
            yield loop.lineno, min(beside)
        counters = _counters(script, loop)
        for line in script.inside(loop):
            if line not in known and (name := _taken(script, line, names, counters)):
                yield line.lineno, name


def _over(node: ast.expr) -> list[str]:
    """The names that are gone over side by side, however they are counted or shown."""
    if isinstance(node, ast.Call) and last(node.func) == "zip":
        return [name for each in node.args for name in _over(each)]
    if isinstance(node, ast.Call) and last(node.func) in _AROUND and node.args:
        return _over(node.args[0])
    return [dotted(node)] if dotted(node) else []


def _meant(script: Script, name: str) -> list[str]:
    """The loaders that a name may stand for, by a choice or without the first batches."""
    values = [part for value in script.assigned.get(name, ()) for part in _choices(value)]
    return [each for value in values for each in _over(value) if each != name and _is_loader(script, each)]


def _choices(value: ast.expr) -> list[ast.expr]:
    return [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]


def _kept(script: Script) -> list[_Kept]:
    """What is filled with something of each batch."""
    found = []
    for statement, _ in script.statements:
        if isinstance(statement, ast.For):
            over = [name for name in _over(statement.iter) if _is_loader(script, name)]
            names = {name for line in script.inside(statement) if (name := _filled(line))} if over else set()
            found += [_Kept(name, loader, statement) for loader in over for name in names]
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.ListComp, ast.DictComp)):
            over = [name for name in _over(statement.value.generators[0].iter) if _is_loader(script, name)]
            names = {dotted(target) for target in statement.targets} - {""}
            found += [_Kept(name, loader, statement) for loader in over for name in names]
    return found


def _is_loader(script: Script, name: str) -> bool:
    """Whether a name is of a loader, by how it is called or made."""
    made = script.assigned.get(name, ())
    return "loader" in name.rpartition(".")[2].lower() or any(makes(value, ("DataLoader",)) for value in made)


def _filled(line: ast.stmt) -> str:
    """The name that a statement puts something in; "" for others."""
    if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call) and isinstance(line.value.func, ast.Attribute):
        return dotted(line.value.func.value) * (line.value.func.attr in _FILLS)
    if isinstance(line, ast.AugAssign) and isinstance(line.value, (ast.List, ast.Tuple)):
        return dotted(line.target)
    target = line.targets[0] if isinstance(line, ast.Assign) else None
    return dotted(target.value) if isinstance(target, ast.Subscript) else ""


def _before(script: Script, kept: _Kept, loop: ast.For) -> bool:
    """Whether something is kept by a pass that ended before a loop, in its function, or by the object that it is of."""
    around = loop in script.above[kept.by] or kept.by in script.above[loop] or kept.by is loop
    here = script.function(kept.by) is script.function(loop)
    return not around and (kept.by.lineno < loop.lineno if here else kept.name.startswith("self."))


def _fixed(script: Script, loop: ast.For, loader: str) -> bool:
    """Whether a loader is known to give the same batches each time."""
    function = script.function(loop)
    return bool(function) and any(n == loader for n, _ in assigned(function)) and in_order(function, loader)  # type: ignore


def _counters(script: Script, loop: ast.For) -> set[str]:
    """The names that count the batches of a loop."""
    counted = [line.target for line in script.inside(loop) if isinstance(line, ast.AugAssign)]
    if isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Call) and "enumerate" in text(loop.iter):
        counted.append(loop.target.elts[0])  # type: ignore[arg-type]
    return {dotted(each) for each in counted} - {""}


def _taken(script: Script, line: ast.stmt, names: set[str], counters: set[str]) -> str:
    """Which of some names a statement takes something from in the order of the batches; "" where none."""
    for node in own(line):
        if isinstance(node, ast.Subscript) and type(node.ctx) is ast.Load:
            owner, given, counted = node.value, [node.slice], True
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", *_ENDS):
            owner, given, counted = node.func.value, node.args, node.func.attr == "get"
        elif isinstance(node, ast.Call) and last(node.func) == "next" and node.args:
            owner, given, counted = _iterated(script, node.args[0]), [], False
        else:
            continue
        by = {dotted(part) for each in given for part in every(each)}
        if dotted(owner) in names and (not counted or counters & by):
            return dotted(owner)
    return ""


def _iterated(script: Script, node: ast.expr) -> ast.expr:
    """What `iter()` made a name of, which is only given that."""
    made = script.assigned.get(text(node), [])
    call = made[0] if len(made) == 1 else None
    return call.args[0] if isinstance(call, ast.Call) and last(call.func) == "iter" and call.args else node
