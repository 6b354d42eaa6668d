"""What the judges read scripts with: Python's `ast`, and none of kit."""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

Place = tuple[ast.AST, list[ast.stmt], int]  # a statement's parent, the list it is in, and where in it

MAIN = "accelerator.is_main_process"
DEEPSPEED = "accelerator.distributed_type == DistributedType.DEEPSPEED"


def parse(content: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(content)


@lru_cache(maxsize=4)
def is_python(content: bytes) -> bool:
    try:
        return bool(parse(content).body)
    except (SyntaxError, ValueError):
        return False


def lines(before: bytes, after: bytes) -> tuple[set[bytes], set[bytes]]:
    """The lines that went, and those that came, of a file that is not Python."""
    old, new = before.splitlines(), after.splitlines()
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    return set(gone), set(come)


@lru_cache(maxsize=4)  # of what one fix made, and the next one got
def undefined(content: bytes) -> Counter[str]:
    """The names that functions and the module read from the module's scope, where nothing defines them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = symtable.symtable(ast.unparse(ast.parse(content)), "judged", "exec")
    known = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    known |= {table.get_name() for table in top.get_children()} | set(dir(builtins)) | {"__file__", "__name__"}

    def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        yield table
        for child in table.get_children():
            yield from tables(child)

    every = list(tables(top))
    symbols = [symbol for table in every for symbol in table.get_symbols()]
    known |= {symbol.get_name() for symbol in symbols if symbol.is_declared_global() and symbol.is_assigned()}
    used = (symbol.get_name() for symbol in symbols if symbol.is_referenced() and symbol.is_global())
    return Counter(name for name in used if name not in known)


def places(tree: ast.AST) -> Iterator[Place]:
    """Every statement in its list, inner lists first, so that a list may be edited while it is gone through."""
    for _, value in list(ast.iter_fields(tree)):
        if isinstance(value, list):
            for index in range(len(value) - 1, -1, -1):
                if isinstance(value[index], ast.AST):
                    yield from places(value[index])
                if isinstance(value[index], ast.stmt):
                    yield tree, value, index


def is_(node: ast.AST, code: str) -> bool:
    """Whether a statement reads like ``code``; a long one is not written out to see that it does not."""
    model = template(code)
    short = len(getattr(node, "body", ())) == len(getattr(model, "body", ()))
    return type(node) is type(model) and short and ast.unparse(node) == code


@cache
def template(code: str) -> ast.stmt:
    return ast.parse(code).body[0]


def called(node: ast.AST) -> str:
    """What a statement that is a call, and nothing else, calls."""
    return ast.unparse(node.value.func) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else ""


def terms(test: ast.expr) -> list[str]:
    """What a test asks for, all of it."""
    return [ast.unparse(each) for each in test.values] if is_and(test) else [ast.unparse(test)]


def is_and(test: ast.expr) -> bool:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)


def choices(test: ast.expr) -> list[str]:
    """What a test asks for, any of it."""
    either = isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)
    return [ast.unparse(each) for each in (test.values if either else [test])]


def texts_above(block: list[ast.stmt], index: int) -> list[str]:
    """The two statements above one."""
    return [ast.unparse(node) for node in block[max(index - 2, 0) : index]]


def short(text: str) -> str:
    """The line a statement begins with."""
    return text.partition("\n")[0]


class Rewritten(ast.NodeTransformer):
    """A tree with nodes replaced, the inner ones first."""

    def __init__(self, change: Callable[[ast.AST], ast.AST | None]) -> None:
        self.change = change

    def generic_visit(self, node: ast.AST) -> ast.AST | None:
        return self.change(super().generic_visit(node))


def rewritten(tree: ast.Module, change: Callable[[ast.AST], ast.AST | None]) -> ast.Module:
    changed: ast.Module = Rewritten(change).visit(tree)
    return changed


def text(node: ast.AST | None) -> str:
    return ast.unparse(node) if node else ""


def functions(tree: ast.Module, name: str = "") -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith(name)]


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported_by(tree: ast.AST, module: str, name: str) -> bool:
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return any(alias.name == name for line in lines for alias in line.names)


def without_names(tree: ast.Module) -> ast.Module:
    """What fixes import: DistributedType of accelerate's, and copy."""
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [alias for alias in node.names if alias.name not in ("DistributedType", "copy")]
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom)) or node.names]
    return tree
