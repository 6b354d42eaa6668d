"""Small questions that several fixes ask of an `ast` tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kit.errors import KitError

Ancestors = tuple[ast.AST, ...]


def parse(content: bytes, name: str) -> ast.Module:
    """Parse with `ast`. Raises KitError with file and line."""
    try:
        return ast.parse(content, name)
    except SyntaxError as error:
        raise KitError(f"{name}:{error.lineno or 1}: not valid Python: {error.msg}", "mend the file first") from None
    except ValueError as error:
        raise KitError(f"{name}:1: not valid Python: {error}", "mend the file first") from None


def walk(tree: ast.AST, above: Ancestors = ()) -> Iterator[tuple[ast.AST, Ancestors]]:
    """Every node with its ancestors, outermost first, in source order."""
    yield tree, above
    for child in ast.iter_child_nodes(tree):
        yield from walk(child, (*above, tree))


def statements(tree: ast.AST, above: Ancestors = ()) -> Iterator[tuple[ast.stmt, Ancestors]]:
    """Every statement with its ancestors, outermost first, in source order; expressions are not entered."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt):
            yield child, (*above, tree)
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from statements(child, (*above, tree))


def same(node: ast.AST | None, text: str) -> bool:
    """Whether an expression is ``text``, whatever its spacing and quotes."""
    return node is not None and ast.unparse(node) == ast.unparse(ast.parse(text, mode="eval").body)


def conjuncts(test: ast.expr) -> list[ast.expr]:
    """`a and b and c` as [a, b, c]; anything else as itself."""
    return list(test.values) if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def requires(test: ast.expr, condition: str) -> bool:
    """Whether ``test`` can only be true where ``condition`` is."""
    return any(same(part, condition) for part in conjuncts(test))


def guarded(node: ast.AST, above: Ancestors, condition: str) -> bool:
    """Whether ``node`` runs only where ``condition`` held: an `if` around it, in the same function, requires it."""
    inner = node
    for ancestor in reversed(above):
        if isinstance(ancestor, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return False
        if isinstance(ancestor, ast.If) and inner in ancestor.body and requires(ancestor.test, condition):
            return True
        inner = ancestor
    return False


def calls(node: ast.AST, name: str) -> bool:
    """Whether a statement is just a call of ``name`` (dotted)."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and same(node.value.func, name)


def is_step_limit(statement: ast.AST) -> bool:
    """`if global_step >= args.max_train_steps: break`."""
    return (
        isinstance(statement, ast.If)
        and same(statement.test, "global_step >= args.max_train_steps")
        and isinstance(statement.body[-1], ast.Break)
        and not statement.orelse
    )


def body_after(statement: ast.AST, above: Ancestors) -> list[ast.stmt]:
    """The statements that follow ``statement`` in its own block."""
    for _, value in ast.iter_fields(above[-1]):
        if isinstance(value, list) and statement in value:
            return value[value.index(statement) + 1 :]
    return []


def bound_names(tree: ast.Module, line: int) -> set[str]:
    """The names that mean something at ``line``: the module's, and those of the functions around it.

    A name counts wherever in its scope it is bound; the order of execution is not followed.
    """
    scopes: list[ast.AST] = [tree]
    for node, _ in walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno < line <= (node.end_lineno or 0):
            scopes.append(node)
    return {name for scope in scopes for name in _bound_in(scope)}


def _bound_in(scope: ast.AST) -> Iterator[str]:
    if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = scope.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            yield argument.arg
        yield from (argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument)
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        pending.extend(ast.iter_child_nodes(node))
