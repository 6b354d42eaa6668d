"""On which paths a name is bound, and not None: a walk over the statements of a function in the order they may run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from kit.fixes._ast import children, defaults, every, stored, text
from kit.fixes._roles._script import FUNCTIONS, Scope, Script, dotted, last, own
from kit.fixes._roles.uses import own_uses, uses

UNBOUND, NONE, BOUND = "unbound", "None", "bound"
State = frozenset[str]  # what a name may be; empty where no path leads
_NOWHERE: State = frozenset()
_ENDS = ("sys.exit", "exit", "quit", "os._exit")


def missing(script: Script, name: str, statement: ast.stmt, may_be_none: bool = False) -> str:
    """Why a dotted name cannot be relied on at a statement, to be bound and not None; "" where it can."""
    base = name.partition(".")[0]
    state = _state(script, base, statement)
    if state == {UNBOUND}:
        return f"`{base}` is not bound there"
    if (state - {NONE} if may_be_none else state) <= {BOUND} and base == name:
        return ""
    if base == "self" and not _used(script, name, statement):
        if _later(script, name, statement):
            return f"`{name}` is not bound there"
        if early := _early(script, name, statement, ()):
            return f"line {early.lineno} calls that, or hands it on, before `{name}` is bound"
    if base != name and state <= {BOUND} and NONE not in script.once(_attribute, name, script.class_of(statement)):
        return ""
    read = UNBOUND in state and any(
        isinstance(n, ast.Name) and n.id == base and type(n.ctx) is ast.Load for n in own(statement)
    )
    if read or _used(script, name, statement):  # it would have failed there already
        return ""
    return f"`{base if UNBOUND in state else name}` may {'not be bound' if UNBOUND in state else 'be None'} there"


def given(script: Script, name: str, statement: ast.stmt) -> ast.expr | None:
    """What a name was given last where a statement is, whatever way led there; None where that is not one assignment
    of its function, or of the module, above."""
    line = giver(script, name, statement)
    return line.value if line else None


def giver(script: Script, name: str, statement: ast.stmt) -> ast.Assign | ast.AnnAssign | None:
    """The statement above that gave it: what stands there is read as it was there."""
    block = script.block(statement)
    for line in reversed(block[: block.index(statement)]):
        if name in stored(line):
            targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", line)]
            plain = isinstance(line, (ast.Assign, ast.AnnAssign)) and [text(each) for each in targets] == [name]
            return line if plain else None  # type: ignore[return-value]
    above = script.above[statement][-1]
    if not isinstance(above, ast.stmt) or isinstance(above, FUNCTIONS):
        return None
    # what a loop gives it further down is there the next time; a `try` may have done so above
    elsewhere = stored(above.test if isinstance(above, ast.If) else above)
    return None if name in elsewhere else giver(script, name, above)


def _state(script: Script, name: str, statement: ast.stmt) -> State:
    """What a name may be just above a statement."""
    for number, scope in enumerate(script.scopes(statement)):
        walked = script.once(_walk, name, scope)
        if walked.binds and number == 0:
            return walked.at.get(statement, walked.ever)
        if walked.binds:  # what it is where the function that the statement is in is called, if that is seen
            return _come_to(script, walked, script.scopes(statement)[number - 1], ()) or walked.ever
    return frozenset([UNBOUND])


def _come_to(script: Script, walked: _Walk, function: Scope, seen: tuple[Scope, ...]) -> State:
    """What a name may be where a function is called, or handed on to be called, by itself or in another one; nothing
    where that is not seen."""
    state = _NOWHERE
    names = {getattr(each, "name", "") for each in (function, script.class_of(function))}
    for line in uses(script, function):
        inner = script.scopes(line)[0]
        if line in walked.at:
            called = any(isinstance(node, ast.Call) and last(node.func) in names for node in own(line))
            state |= walked.at[line] | (_NOWHERE if called else walked.ever)  # handed on, it may be called later
        elif inner is not function and inner not in seen:
            state |= _come_to(script, walked, inner, (*seen, function))
    return state


def _walk(script: Script, name: str, scope: Scope) -> _Walk:
    return _Walk(name, scope)


def _attribute(script: Script, name: str, owner: ast.ClassDef | None) -> State:
    """What an attribute of `self` is given in the methods of its class, and in the class itself."""
    given = [
        _state(script, value.id, line) - {UNBOUND} if isinstance(value, ast.Name) else values(value)
        for line, value in script.once(_given, name, owner)
    ]
    plain = name.removeprefix("self.")
    of_class = (
        [
            line.value
            for line in owner.body
            if isinstance(line, (ast.Assign, ast.AnnAssign)) and line.value
            if plain in map(dotted, line.targets if isinstance(line, ast.Assign) else [line.target])
        ]
        if owner
        else []
    )
    return _NOWHERE.union(*given, *map(values, of_class))


def _given(script: Script, name: str, owner: ast.ClassDef | None) -> list[tuple[ast.stmt, ast.expr]]:
    """The statements of a class that give an attribute of `self` something, and what."""
    found: list[tuple[ast.stmt, ast.expr]] = []
    for line in script.of_class(owner) if owner else ():
        if isinstance(line, (ast.Assign, ast.AnnAssign)) and line.value:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            found += [(line, line.value)] if name in map(dotted, targets) else []
    return found


def _later(script: Script, name: str, statement: ast.stmt) -> bool:
    """Whether an attribute of `self` is only given something further down in the function of a statement, and not in a
    loop around both."""
    lines = [line for line, _ in script.once(_given, name, script.class_of(statement))]
    return bool(lines) and all(later(script, line, statement) for line in lines)


def _early(script: Script, name: str, statement: ast.stmt, seen: tuple[Scope, ...]) -> ast.stmt | None:
    """The line that calls the method of a statement, or hands it on, above the one there that gives an attribute of
    `self` something, or that calls the method that does; None where there is none."""
    method, owner = script.scopes(statement)[0], script.class_of(statement)
    given = [line for line, _ in script.once(_given, name, owner)]
    if isinstance(method, ast.Module) or owner is None or not given or method in seen:
        return None
    gives = [*given, *(each for line in given for each in own_uses(script, script.scopes(line)[0], owner))]
    for line in own_uses(script, method, owner):
        here = [each for each in gives if script.scopes(each)[0] is script.scopes(line)[0]]
        if here and all(later(script, each, line) for each in here):
            return line
        if not here and (early := _early(script, name, line, (*seen, method))):
            return early
    return None


def later(script: Script, line: ast.stmt, statement: ast.stmt) -> bool:
    """Whether ``line`` is below a statement, in its function and in no loop that comes back to that."""
    both = {*script.above[line]} & {*script.above[statement]}
    here = script.function(line) is script.function(statement) and line.lineno > statement.lineno
    return here and not any(isinstance(node, (ast.For, ast.AsyncFor, ast.While)) for node in both)


def values(node: ast.expr) -> State:
    """What an expression may be, as far as None goes."""
    if isinstance(node, ast.IfExp):
        return values(node.body) | values(node.orelse)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return frozenset([NONE, BOUND])
    return frozenset([NONE if isinstance(node, ast.Constant) and node.value is None else BOUND])


def _used(script: Script, name: str, statement: ast.stmt) -> bool:
    """Whether an attribute of ``name`` is taken for certain on the way to a statement, in its block, or by itself."""
    inner: ast.AST = statement
    for number, node in enumerate((statement, *reversed(script.above[statement]))):
        if isinstance(node, FUNCTIONS) and number:
            block: Sequence[ast.stmt] = node.body
        elif isinstance(node, ast.stmt):
            block = script.block(node)
        else:
            continue
        before = True
        for line in block:
            before = before and line is not inner and line is not node
            if (before or number == 0) and any(_takes(part, name) for part in _certain(line)):
                return True
        if number and any(_takes(part, name) for part in _sure(node)):
            return True
        if isinstance(node, FUNCTIONS) and number:
            return False
        inner = node
    return False


def _certain(line: ast.stmt) -> Iterator[ast.AST]:
    """What is worked out whenever a statement is come to."""
    yield from _sure(line)
    if isinstance(line, (ast.With, ast.AsyncWith)):
        for inner in line.body:
            yield from _certain(inner)


def _sure(line: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(line, (*FUNCTIONS, ast.ClassDef)):
        return
    skipped: set[ast.AST] = set()
    for node in own(line):
        if node in skipped or isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            skipped.update(children(node))
            continue
        if isinstance(node, ast.IfExp):
            skipped.update((node.body, node.orelse))
        elif isinstance(node, ast.BoolOp):
            skipped.update(node.values[1:])
        yield node


def _takes(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Attribute) and dotted(node.value) == name


class _Walk:
    """What ``name`` may be above each statement of a scope (``at``), and all that it is ever given there (``ever``)."""

    def __init__(self, name: str, scope: Scope) -> None:
        self.name, self.ever, self.binds = name, _NOWHERE, False
        self.at: dict[ast.stmt, State] = {}
        self.loops: list[State] = []  # what it may be where each loop around is left or gone on with
        entry: State = frozenset([UNBOUND])
        if not isinstance(scope, ast.Module):
            entry = self._parameter(scope.args) or entry
        self.block(scope.body, entry)

    def _parameter(self, given: ast.arguments) -> State:
        """What a parameter may be; nothing where there is none of that name."""
        for each, default in defaults(given):
            if each.arg == self.name:
                return self.give(frozenset([BOUND]) | (values(default) if default else _NOWHERE))
        if any(each and each.arg == self.name for each in (given.vararg, given.kwarg)):
            return self.give(frozenset([BOUND]))
        return _NOWHERE

    def give(self, state: State) -> State:
        self.binds, self.ever = True, self.ever | state
        return state

    def block(self, body: Sequence[ast.stmt], state: State) -> State:
        for statement in body:
            self.at[statement] = self.at.get(statement, _NOWHERE) | state
            state = self.step(statement, state)
        return state

    def step(self, node: ast.stmt, state: State) -> State:
        """What the name may be below a statement, given what it may be above."""
        walrus = (each for each in own(node) if isinstance(each, ast.NamedExpr))
        if any(self.names(each.target) for each in walrus):
            state = self.give(frozenset([BOUND]))
        if isinstance(node, ast.If):
            yes, no = self.asked(node.test, state)
            return self.block(node.body, yes) | self.block(node.orelse, no)
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            return self.loop(node, state)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            bound = any(item.optional_vars and self.names(item.optional_vars) for item in node.items)
            return self.block(node.body, self.give(frozenset([BOUND])) if bound else state)
        if isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            return self.attempt(node, state)  # type: ignore[arg-type]
        if isinstance(node, ast.Match):
            return frozenset.union(state, *(self.block(case.body, self.matched(case, state)) for case in node.cases))
        if isinstance(node, (ast.Break, ast.Continue)):
            if self.loops:
                self.loops[-1] |= state
            return _NOWHERE
        if isinstance(node, (ast.Return, ast.Raise)) or _ends(node):
            return _NOWHERE
        return self.simple(node, state)

    def simple(self, node: ast.stmt, state: State) -> State:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return self.give(frozenset([BOUND])) if node.name == self.name else state
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
            return self.give(frozenset([BOUND])) if self.name in names else state
        if isinstance(node, ast.Assert):
            return self.asked(node.test, state)[0]
        if isinstance(node, ast.Delete):
            return frozenset([UNBOUND]) if any(map(self.names, node.targets)) else state
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if node.value is not None and any(map(self.names, targets)):
                whole = any(isinstance(each, ast.Name) for each in targets)
                return self.give(values(node.value) if whole else frozenset([BOUND]))
        return state

    def matched(self, case: ast.match_case, state: State) -> State:
        names = [getattr(part, "name", None) or getattr(part, "rest", None) for part in every(case.pattern)]
        return self.give(frozenset([BOUND])) if self.name in names else state

    def names(self, target: ast.expr) -> bool:
        return any(isinstance(n, ast.Name) and n.id == self.name and type(n.ctx) is not ast.Load for n in every(target))

    def loop(self, node: ast.For | ast.AsyncFor | ast.While, state: State) -> State:
        endless = isinstance(node, ast.While) and text(node.test) in ("True", "1")
        target = None if isinstance(node, ast.While) else node.target
        self.loops.append(_NOWHERE)
        for _ in range(2):  # what the body leaves comes back to its top
            inner = self.asked(node.test, state)[0] if isinstance(node, ast.While) else state
            if target is not None and self.names(target):
                inner = self.give(frozenset([BOUND]))
            state = state | self.block(node.body, inner) | self.loops[-1]
        left = self.loops.pop()
        after = _NOWHERE if endless else self.asked(node.test, state)[1] if isinstance(node, ast.While) else state
        return self.block(node.orelse, after) | left

    def attempt(self, node: ast.Try, state: State) -> State:
        out = self.block(node.body, state)
        seen = frozenset.union(
            state, out, *(self.at.get(each, _NOWHERE) for each in every(node) if isinstance(each, ast.stmt))
        )
        named = [self.give(frozenset([BOUND])) if handler.name == self.name else seen for handler in node.handlers]
        caught = [self.block(handler.body, entry) for handler, entry in zip(node.handlers, named, strict=True)]
        out = frozenset.union(self.block(node.orelse, out), *caught)
        self.block(node.finalbody, seen | out)
        bound = any(
            self.at.get(each) and self.step(each, seen) == {BOUND}
            for each in node.finalbody
            if isinstance(each, ast.Assign)
        )
        return frozenset([BOUND]) if bound else out

    def asked(self, test: ast.expr, state: State) -> tuple[State, State]:
        """What the name may be where a test holds, and where it does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.asked(test.operand, state)[::-1]
        if isinstance(test, ast.BoolOp):
            both = isinstance(test.op, ast.And)
            kept = state
            for part in test.values:
                kept = self.asked(part, kept)[0 if both else 1]
            return (kept, state) if both else (state, kept)
        code = text(test)
        if code == self.name or code.startswith(f"isinstance({self.name},"):
            return state - {NONE}, state
        if code == f"{self.name} is None":
            return state - {BOUND}, state - {NONE}
        if code == f"{self.name} is not None":
            return state - {NONE}, state - {BOUND}
        return state, state


def _ends(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and dotted(call.func) in _ENDS
