"""Small questions that several fixes ask of an `ast` tree."""

from __future__ import annotations

import ast
import builtins
import io
import re
import symtable
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from kit.errors import KitError

Ancestors = tuple[ast.AST, ...]
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # of a compound statement


@lru_cache(maxsize=4)  # one fix after another asks for the same file, before and after
def parse(content: bytes, name: str) -> ast.Module:
    """Parse with `ast`; the tree is everybody's, and is not to be changed. Raises KitError with file and line."""
    try:
        with warnings.catch_warnings():  # an invalid escape in upstream's strings is not ours to report
            warnings.simplefilter("ignore")
            return ast.parse(content, name)
    except SyntaxError as error:
        raise KitError(f"{name}:{error.lineno or 1}: not valid Python: {error.msg}", "mend the file first") from None
    except ValueError as error:
        raise KitError(f"{name}:1: not valid Python: {error}", "mend the file first") from None
    except (MemoryError, RecursionError):  # both are what Python's parser makes of a thousand brackets
        raise KitError(f"{name}:1: expressions too deep to read", "leave the file out") from None


def decoded(content: bytes) -> tuple[str, str]:
    """A script's text and its encoding. Raises UnicodeDecodeError for what Python lets pass in a comment."""
    encoding = "utf-8"
    with suppress(SyntaxError):  # of first lines that are not, which decoding says, too, and where
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode(encoding), encoding


def undecodable(content: bytes, name: str, error: UnicodeDecodeError) -> KitError:
    """What to say of such a comment, with file and line."""
    line = content.count(b"\n", 0, error.start) + 1
    return KitError(f"{name}:{line}: not {error.encoding}: {error.reason}", "save the file as UTF-8")


def walk(tree: ast.AST, above: Ancestors = ()) -> Iterator[tuple[ast.AST, Ancestors]]:
    """Every node with its ancestors, outermost first, in source order."""
    yield tree, above
    for child in children(tree):
        yield from walk(child, (*above, tree))


def _fields(kind: type[ast.AST]) -> tuple[tuple[str, bool], ...]:
    """The fields of a kind of node that hold nodes, but for Load and Store, each with whether it is a list.

    Its docstring is its grammar: `Call(expr func, expr* args, keyword* keywords)`.
    """
    fields = re.findall(r"(\w+)([?*]*) (\w+)[,)]", kind.__doc__ or "")
    return tuple((name, "*" in count) for held, count, name in fields if held not in _NO_NODES)


_NO_NODES = {"identifier", "int", "string", "constant", "expr_context"}
_FIELDS = {kind: _fields(kind) for kind in vars(ast).values() if isinstance(kind, type) and issubclass(kind, ast.AST)}


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below one, in a third of the time of `ast.iter_child_nodes`; without Load and Store."""
    found: list[ast.AST] = []
    for name, many in _FIELDS[type(node)]:
        value: Any = getattr(node, name, None)
        if many:
            found += value
        elif value is not None:
            found.append(value)
    return [each for each in found if each] if isinstance(node, (ast.Dict, ast.arguments)) else found  # `**` has no key


def every(tree: ast.AST) -> list[ast.AST]:
    """A node and all below it, in the order of `ast.walk`."""
    return [*_whole(tree)] if isinstance(tree, (ast.Module, ast.stmt)) else _below(tree)


def _below(tree: ast.AST) -> list[ast.AST]:
    found = [tree]
    for node in found:
        found += children(node)
    return found


_whole = lru_cache(maxsize=4096)(_below)  # of the same statements each fix asks again and again


def stored(*nodes: ast.AST) -> set[str]:
    """The names that are given a value in some nodes."""
    found = (each for node in nodes for each in every(node) if isinstance(each, ast.Name))
    return {each.id for each in found if isinstance(each.ctx, ast.Store)}


@lru_cache(maxsize=16)
def statements(tree: ast.AST) -> tuple[tuple[ast.stmt, Ancestors], ...]:
    """Every statement with its ancestors, outermost first, in source order; expressions are not entered."""
    return tuple(_statements(tree, ()))


def _statements(tree: ast.AST, above: Ancestors) -> Iterator[tuple[ast.stmt, Ancestors]]:
    above = (*above, tree)
    for name in BLOCKS:
        inner = getattr(tree, name, ())
        for child in inner if isinstance(inner, list) else ():
            if isinstance(child, ast.stmt):
                yield child, above
            yield from _statements(child, above)


def block_of(node: ast.stmt, above: Ancestors) -> list[ast.stmt]:
    """The statements that ``node`` stands among."""
    lists = (value for _, value in ast.iter_fields(above[-1]) if isinstance(value, list))
    return next(value for value in lists if node in value)


def defaults(given: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    """The parameters that have a name, each with its default."""
    plain = [*given.posonlyargs, *given.args]
    values: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    named = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return [*zip(plain, [*values, *given.defaults], strict=True), *named]


def same(node: ast.AST | None, text: str) -> bool:
    """Whether an expression is ``text``, whatever its spacing and quotes."""
    return _alike(node, expression(text))


@lru_cache(maxsize=1024)
def expression(text: str) -> ast.expr:
    """An expression parsed; the tree is everybody's."""
    return ast.parse(text, mode="eval").body


def _alike(one: object, other: object) -> bool:
    """Whether two nodes say the same; where they differ, this most often sees so at once."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, ast.AST):
        fields = (name for name in one._fields if name not in ("ctx", "kind"))
        return all(_alike(getattr(one, name), getattr(other, name)) for name in fields)
    return one == other


@lru_cache(maxsize=8192)  # several fixes ask for the same statements
def text(node: ast.AST) -> str:
    """A node's code as `ast` writes it: its spacing, quotes and comments do not matter."""
    return ast.unparse(node)


def conjuncts(test: ast.expr) -> list[ast.expr]:
    """`a and (b and c)` as [a, b, c]; anything else as itself."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [part for value in test.values for part in conjuncts(value)]
    return [test]


def requires(test: ast.expr, condition: str) -> bool:
    """Whether ``test`` can only be true where ``condition`` is."""
    return any(same(part, condition) for part in conjuncts(test))


def guarded(node: ast.AST, above: Ancestors, condition: str) -> bool:
    """Whether ``node`` runs only where ``condition`` held: an `if` or `while` around it, in the same function,
    requires it."""
    inner = node
    for ancestor in reversed(above):
        if isinstance(ancestor, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return False
        branches = isinstance(ancestor, (ast.If, ast.While)) and inner in ancestor.body
        if branches and requires(ancestor.test, condition):  # type: ignore[attr-defined]
            return True
        inner = ancestor
    return False


def calls(node: ast.AST, name: str) -> bool:
    """Whether a statement is just a call of ``name`` (dotted)."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and same(node.value.func, name)


def handed(call: ast.Call, *names: str, at: int | None = 0) -> list[ast.expr]:
    """What a call is given in its place ``at`` (None: in none) and under these names."""
    placed = [] if at is None else call.args[at : at + 1]
    return [*placed, *(each.value for each in call.keywords if each.arg in names)]


def calls_of(tree: ast.Module, name: str) -> list[ast.Call | None]:
    """What a module does with ``name``: the calls that are a statement or all it assigns; None for any other use."""
    parts = [getattr(node, "value", None) for node in every(tree) if isinstance(node, (ast.Expr, ast.Assign))]
    calls = [part for part in parts if isinstance(part, ast.Call) and same(part.func, name)]
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in every(tree))
    return [*calls, *[None] * (uses - len(calls))]


def imports(tree: ast.Module, name: str) -> bool:
    """Whether a `from … import …` at the module's top binds ``name``."""
    return any(
        isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names)
        for node in tree.body
    )


def pipeline_move(statement: ast.stmt) -> ast.Call | None:
    """The call by which a statement moves a pipeline to a device, with or without a dtype."""
    call = statement.value if isinstance(statement, (ast.Assign, ast.Expr)) else None
    if isinstance(call, ast.Call) and (same(call.func, "pipeline.to") or same(call.func, "pipe.to")):
        placed = call.args or any(keyword.arg == "device" for keyword in call.keywords)
        return call if placed and not pipeline_cast(statement) else None
    return None


DTYPE = re.compile(r"dtype$|^torch\.(b?float|half)")


def pipeline_cast(statement: ast.stmt) -> bool:
    """Whether all that a statement does is to give a pipeline a dtype."""
    call = statement.value if isinstance(statement, (ast.Assign, ast.Expr)) else None
    plain = isinstance(call, ast.Call) and (same(call.func, "pipeline.to") or same(call.func, "pipe.to"))
    given = [*call.args, *(each.value for each in call.keywords)] if plain else []  # type: ignore[union-attr]
    named = plain and [each.arg for each in call.keywords] == ["dtype"]  # type: ignore[union-attr]
    return len(given) == 1 and (named or bool(DTYPE.search(text(given[0]))))


def validation_moves(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.FunctionDef]]:
    """The pipeline moves in functions named `log_validation…`, each with its function."""
    for statement, above in statements(tree):
        function = next((node for node in reversed(above) if isinstance(node, ast.FunctionDef)), None)
        move = pipeline_move(statement)
        if move and function and function.name.startswith("log_validation"):
            yield move, function


def casts(call: ast.Call) -> bool:
    """Whether a `.to(device, …)` also gives a dtype."""
    placed = len(call.args) > 1 or bool(call.args and DTYPE.search(text(call.args[0])))
    return placed or any(keyword.arg == "dtype" for keyword in call.keywords)


def autocasts(function: ast.AST) -> bool:
    """Whether something in ``function`` runs under torch's autocast."""
    return any(
        isinstance(node, ast.Call) and "autocast" in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))
        for node in every(function)
    )


@lru_cache(maxsize=64)
def bound_names(tree: ast.Module, line: int) -> frozenset[str]:
    """The names that mean something at ``line`` (from 1): the module's, and those of the functions around it.

    In the innermost scope a name counts if it is bound above that line; in those around it, which may have run on by
    the time the function is called, anywhere.
    """
    scopes: list[ast.AST] = [tree]
    for node, _ in statements(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno < line <= (node.end_lineno or 0):
            scopes.append(node)
    around = {name for scope in scopes[:-1] for name, _ in _bound_in(scope)}
    return frozenset(around | {name for name, bound in _bound_in(scopes[-1]) if bound < line})


def _bound_in(scope: ast.AST) -> Iterator[tuple[str, int]]:
    """The names a scope binds, each with the line it does so on."""
    if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = scope.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            yield argument.arg, scope.lineno
        yield from ((argument.arg, scope.lineno) for argument in (arguments.vararg, arguments.kwarg) if argument)
    pending = children(scope)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
            continue
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (((alias.asname or alias.name).split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            yield node.name, node.lineno
        pending.extend(children(node))


@lru_cache(maxsize=4)
def loose_names(content: bytes, name: str) -> set[str]:
    """The names a script reads from its module's scope, or the builtins', that nothing in it binds there.

    Raises KitError, with file and line, where a script parses and has no scopes: an argument twice, `global` too late.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pending = [symtable.symtable(content, name, "exec")]  # type: ignore[arg-type]
    except SyntaxError as error:
        raise KitError(f"{name}:{error.lineno or 1}: not valid Python: {error.msg}", "mend the file first") from None
    read: set[str] = set()
    bound = set(dir(builtins))
    while pending:
        table = pending.pop()
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module" or symbol.is_declared_global()
            if at_top and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            elif symbol.is_referenced() and symbol.is_global():
                read.add(symbol.get_name())
        pending += table.get_children()
    return read - bound
