"""A script's statements, calls and imports, each list made once; and what a name means there."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from kit.fixes._ast import Ancestors, children, handed, statements, text

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Made = TypeVar("_Made")
_APART = (ast.stmt, ast.excepthandler, ast.match_case)
_LEAVES = (ast.Return, ast.Continue, ast.Break)


@lru_cache(maxsize=8192)  # every fix asks for the same statements, before and after
def own(statement: ast.AST) -> tuple[ast.AST, ...]:
    """A statement's expressions, outermost first, in source order; not those of the statements inside it."""
    found = []
    pending = [child for child in children(statement) if not isinstance(child, _APART)][::-1]
    while pending:
        node = pending.pop()
        found.append(node)
        pending.extend(children(node)[::-1])
    return tuple(found)


def for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, whose body binds nothing in a run."""
    return isinstance(node, ast.If) and last(node.test) == "TYPE_CHECKING"


class Script:
    """A file's tree, and what is asked of it again and again."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.statements = statements(tree)
        self.memory: dict[object, Any] = {}  # what the other modules worked out, by what they were asked

    def once(self, work: Callable[..., _Made], *about: Hashable) -> _Made:
        """What ``work`` makes of this script and of ``about``, worked out the first time it is asked for."""
        key = (work, *about)
        if key not in self.memory:
            self.memory[key] = work(self, *about)
        return self.memory[key]  # type: ignore[no-any-return]

    @cached_property
    def above(self) -> dict[ast.AST, Ancestors]:
        """Each statement's ancestors, outermost first."""
        return dict(self.statements)

    @cached_property
    def calls(self) -> dict[str, list[tuple[ast.Call, ast.stmt]]]:
        """Every call with the statement it is in, by the last part of what it calls."""
        found: dict[str, list[tuple[ast.Call, ast.stmt]]] = defaultdict(list)
        for statement, _ in self.statements:
            for node in own(statement):
                if isinstance(node, ast.Call):
                    found[last(node.func)].append((node, statement))
        return found

    def calls_of(self, function: Function) -> list[tuple[ast.Call, ast.stmt]]:
        """The calls of a function of this script, each with the statement it is in."""
        return [each for each in self.calls.get(function.name, ()) if self.called(each[0]) is function]

    @cached_property
    def imports(self) -> dict[str, tuple[str, ast.stmt]]:
        """What each imported name stands for, in full, and the statement that imports it, wherever that is but under
        TYPE_CHECKING, which binds nothing in a run; by the first of several."""
        return {name: given[0] for name, given in self.imported.items()}

    @cached_property
    def imported(self) -> dict[str, list[tuple[str, ast.stmt]]]:
        """The same by each import of a name."""
        found: dict[str, list[tuple[str, ast.stmt]]] = defaultdict(list)
        for statement, above in self.statements:
            if above and for_types(above[-1]) and statement in above[-1].body:  # type: ignore[attr-defined]
                continue
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found[name].append((alias.name if alias.asname else name, statement))
            elif isinstance(statement, ast.ImportFrom):
                module = "." * statement.level + (statement.module or "")
                for alias in statement.names:
                    found[alias.asname or alias.name].append((f"{module}.{alias.name}", statement))
        return found

    def full(self, node: ast.AST) -> str:
        """A dotted name in full: `th.cuda.synchronize` is `torch.cuda.synchronize` where torch was imported as `th`;
        "" for what is no dotted name."""
        name = dotted(node)
        base, dot, rest = name.partition(".")
        meant = self.imports.get(base)
        return f"{meant[0]}{dot}{rest}" if meant else name

    def spelt(self, name: str) -> str:
        """How the script writes a dotted name that begins with a module it imports (`torch.cuda`); "" where it does
        not import that."""
        base, dot, rest = name.partition(".")
        for local, (meant, _) in self.imports.items():
            if meant == base:
                return f"{local}{dot}{rest}"
        return ""

    @cached_property
    def torch(self) -> str:
        """How the script writes torch, or would."""
        return self.spelt("torch") or "torch"

    @cached_property
    def assigned(self) -> dict[str, list[ast.expr]]:
        """What each name is given, wherever that is, by assignments that it comes first in."""
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for line, _ in self.statements:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                found[line.targets[0].id].append(line.value)
        return found

    @cached_property
    def attributes(self) -> dict[str, list[ast.expr]]:
        """What each attribute is given, by how it is written: `self.a`, `args.a`."""
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for line, _ in self.statements:
            for target in line.targets if isinstance(line, ast.Assign) else ():
                if isinstance(target, ast.Attribute) and dotted(target):
                    found[dotted(target)].append(line.value)  # type: ignore[attr-defined]
        return found

    def given(self, node: ast.AST) -> list[ast.expr]:
        """What a name, or an attribute, is given, wherever that is, or gives back as a property; nothing for other
        expressions."""
        name = dotted(node)
        return [*self.assigned.get(name, ()), *self.attributes.get(name, ()), *self.properties.get(name, ())]

    @cached_property
    def properties(self) -> dict[str, list[ast.expr]]:
        """What each property that does nothing else gives back, by how a method of its object reads it: `self.a`."""
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for node, _ in self.statements:
            if isinstance(node, FUNCTIONS) and any("property" in text(each) for each in node.decorator_list):
                back = node.body[-1]
                if isinstance(back, ast.Return) and back.value and len(node.body) <= 2:
                    found[f"self.{node.name}"].append(back.value)
        return found

    @cached_property
    def functions(self) -> dict[str, list[Function]]:
        """Every function by its name."""
        found: dict[str, list[Function]] = defaultdict(list)
        for node, _ in self.statements:
            if isinstance(node, FUNCTIONS):
                found[node.name].append(node)
        return found

    def called(self, call: ast.Call) -> Function | None:
        """The function of this script that a call is of: by its name, a method of `self`, or of what a name was given
        that is one of a class of the script; None where there is none, or several."""
        name = dotted(call.func)
        found = (
            self.functions.get(name.removeprefix("self."), []) if name.count(".") <= name.startswith("self.") else []
        )
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if owner is not None and dotted(owner) not in ("", "self"):
            made = {last(value.func) for value in self.given(owner) if isinstance(value, ast.Call)}
            named = [each for each in self.functions.get(last(call.func), ()) if made]
            found = [each for each in named if (of := self.class_of(each)) and of.name in made]
        return found[0] if len(found) == 1 else None

    def scopes(self, statement: ast.AST) -> list[Scope]:
        """The functions around a statement, innermost first, and the module."""
        return [node for node in reversed(self.above.get(statement, (self.tree,))) if isinstance(node, Scope)]

    def at(self, line: int) -> ast.stmt:
        """The innermost statement at a line, or the last one that begins above it."""
        return max(
            (node for node, _ in self.statements if node.lineno <= line),
            key=lambda node: (node.lineno, node.col_offset),
        )

    def function(self, statement: ast.AST) -> Function | None:
        """The innermost function around a statement."""
        scope = self.scopes(statement)[0]
        return scope if isinstance(scope, FUNCTIONS) else None

    def class_of(self, statement: ast.AST) -> ast.ClassDef | None:
        """The class that `self` is of in a statement."""
        return next((node for node in reversed(self.above.get(statement, ())) if isinstance(node, ast.ClassDef)), None)

    def of_class(self, owner: ast.ClassDef) -> list[ast.stmt]:
        """The statements of a class and its methods."""
        return [statement for statement, above in self.statements if owner in above]

    def block(self, statement: ast.AST) -> list[ast.stmt]:
        """The block that a statement is in: the list of it and its neighbours."""
        for name in ("body", "orelse", "finalbody"):
            value = getattr(self.above[statement][-1], name, ())
            if isinstance(value, list) and any(each is statement for each in value):
                return value
        return []

    def below(self, statement: ast.stmt) -> list[ast.stmt]:
        """What stands below a statement in its block."""
        block = self.block(statement)
        return block[block.index(statement) + 1 :]

    def left_above(self, statement: ast.AST, raises: bool = False) -> Iterator[ast.expr]:
        """What is asked by the `if`s that leave a block above a statement, in its function, innermost first: `if not
        main: return`; ``raises``: by those that raise, too."""
        for inner in [statement, *reversed(self.above.get(statement, ()))]:
            if isinstance(inner, Scope) and inner is not statement:
                return
            block = self.block(inner) if isinstance(inner, ast.stmt) else []
            above = block[: block.index(inner)] if block else []  # type: ignore[arg-type]
            yield from (test for line in _entered(above) if (test := leaving(line, raises)) is not None)

    def is_elif(self, statement: ast.stmt) -> bool:
        """Whether a statement is the `elif` of an `if`."""
        parent = self.above[statement][-1]
        return isinstance(parent, ast.If) and parent.orelse == [statement] and parent.col_offset == statement.col_offset

    def inside(self, statement: ast.AST) -> Iterator[ast.stmt]:
        """The statements in a statement, at any depth, those of functions and classes in it left out."""
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            value = getattr(statement, name, ())
            for child in value if isinstance(value, list) else ():
                if isinstance(child, ast.stmt):
                    yield child
                if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                    yield from self.inside(child)

    @cached_property
    def words(self) -> set[str]:
        """The texts that stand in the script as constants."""
        nodes = (node for statement, _ in self.statements for node in own(statement))
        return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _entered(lines: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Some statements, and those in a `with` or a `try` among them, which leave the same block."""
    for line in lines:
        yield line
        if isinstance(line, (ast.With, ast.AsyncWith, ast.Try)):
            yield from _entered(line.body)


def leaving(line: ast.stmt, raises: bool = False) -> ast.expr | None:
    """What is asked by an `if` whose body ends in leaving, or in a `raise`; None for other statements."""
    leaves = isinstance(line, ast.If) and isinstance(line.body[-1], (*_LEAVES, *[ast.Raise] * raises))
    return line.test if leaves else None  # type: ignore[attr-defined]


def dotted(node: ast.AST) -> str:
    """`a.b.c` as written; "" for what is no dotted name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def last(node: ast.AST) -> str:
    """The last part of a name, dotted or not; "" for others."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def mode(script: Script, call: ast.Call) -> str:
    """How an `open` opens a file, as a function or as a path's method: "r", "wb", …; "?" where that is not written out,
    "" for other calls."""
    if last(call.func) != "open":
        return ""
    place = int(isinstance(call.func, ast.Name) or dotted(call.func).partition(".")[0] in script.imports)
    given = handed(call, "mode", at=place)
    plain = given[0] if given else ast.Constant("r")
    known = isinstance(plain, ast.Constant) and isinstance(plain.value, str)
    return plain.value if known and all(each.arg for each in call.keywords) else "?"  # type: ignore[attr-defined]


def shown(call: ast.Call) -> str:
    """A call as a message names it, its arguments left out."""
    return f"`{text(call.func)}(…)`"


@lru_cache(maxsize=8)  # before and after each of several fixes
def read(tree: ast.Module) -> Script:
    """What there is to know of a script."""
    return Script(tree)
