"""Fixes that are tables: which statement of which function, and what goes there.

A statement is known by the names around it and by how it starts, as `ast` writes it: its line number, its spacing and
its quotes do not matter. `sites` and `edits` of the fix come from the table, by way of `ast` and of libcst.
"""

from __future__ import annotations

import ast
import copy
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import BLOCKS, Ancestors, block_of, every, expression, statements, text

if TYPE_CHECKING:
    import libcst as cst

    from kit.fixes._block import Block


@dataclass(frozen=True)
class Put:
    """Statements put after a statement, before it, or in place of it and those down to ``to`` in the same block;
    ``top``: only among the function's own statements, not in a block inside."""

    scope: str  # the classes and functions around it, dotted; "" for the module
    at: str
    code: str
    how: str = "after"  # or "before", "replace"
    to: str = ""
    top: bool = False


@dataclass(frozen=True)
class Swap:
    """An expression put in place of another one, inside a simple statement."""

    scope: str
    at: str
    old: str
    new: str


Row = Put | Swap


def table(*rows: Row) -> tuple[Callable[[ast.Module, Options], list[Site]], Callable[..., Iterator[Splice]]]:
    """The ``sites`` and ``edits`` of a fix. Each row is a place: the recipe's ``count`` is how many there are."""

    def sites(tree: ast.Module, options: Options) -> list[Site]:
        return [site for row in rows for site in _sites(tree, row)]

    def edits(block: Block, options: Options) -> Iterator[Splice]:
        scope = _scope(block.above)
        for row in rows:
            if row.scope == scope:
                yield from _put(block, row) if isinstance(row, Put) else _swap(block, row)

    return sites, edits


def _scope(above: Sequence[object]) -> str:
    kinds = ("FunctionDef", "AsyncFunctionDef", "ClassDef")
    names = (getattr(node, "name", "") for node in above if type(node).__name__ in kinds)
    return ".".join(getattr(name, "value", name) for name in names)


@lru_cache(maxsize=4)  # a row asks after the other
def _inside(tree: ast.Module) -> dict[str, list[tuple[ast.stmt, Ancestors]]]:
    """The statements of each scope."""
    found: dict[str, list[tuple[ast.stmt, Ancestors]]] = {}
    for node, above in statements(tree):
        found.setdefault(_scope(above), []).append((node, above))
    return found


@lru_cache(maxsize=8192)
def _starts(node: ast.stmt) -> str:
    """How a statement starts, as `ast` writes it: all but the blocks inside, which cost most."""
    hollow = copy.copy(node)
    for name in BLOCKS:
        if isinstance(getattr(node, name, None), list):
            setattr(hollow, name, [])
    return ast.unparse(hollow)


def _begins(node: ast.stmt, words: str) -> bool:
    """Whether a statement, as `ast` writes it, starts with ``words``."""
    return (text(node) if "\n" in words else _starts(node)).startswith(words)


def _are(nodes: Sequence[ast.stmt | None], wanted: Sequence[str]) -> bool:
    """Whether statements are what is ``wanted``; how they start most often shows that they are not."""
    pairs = zip(nodes, wanted, strict=False)
    same = (node is not None and code.startswith(_starts(node)) and text(node) == code for node, code in pairs)
    return len(nodes) == len(wanted) and all(same)


def _sites(tree: ast.Module, row: Row) -> Iterator[Site]:
    inside = _inside(tree).get(row.scope, [])
    if isinstance(row, Swap):
        for node, _ in inside:
            if _begins(node, row.at):
                parts = [text(part) for part in every(node) if isinstance(part, ast.expr)]
                if _same(row.old) in parts or _same(row.new) in parts:
                    yield Site(node.lineno, _same(row.new) in parts)
        return
    wanted = _code(row.code)
    for node, above in inside:
        if row.top and not isinstance(above[-1], ast.FunctionDef):
            continue
        block = block_of(node, above)
        index, anchored = block.index(node), _begins(node, row.at)
        if not anchored and row.how != "replace":
            continue
        start = {"after": index + 1, "before": max(index - len(wanted), 0), "replace": index}[row.how]
        done = _are(block[start : start + len(wanted)], wanted)
        if anchored or (done and row.how == "replace"):
            yield Site(node.lineno, done)


@cache
def _code(code: str) -> tuple[str, ...]:
    return tuple(ast.unparse(node) for node in ast.parse(textwrap.dedent(code)).body)


def _same(code: str) -> str:
    """An expression as `ast` writes it."""
    return text(expression(code))


def _put(block: Block, row: Put) -> Iterator[Splice]:
    wanted = _code(row.code)
    for index, node in block.simple():
        if not _begins(node, row.at) or (row.top and not block.owner()):
            continue
        if row.how == "before" and not _are(block.nodes[max(index - len(wanted), 0) : index], wanted):
            blank = block.leading(block.statements.head(index))[0]
            new = _new(block, row)
            yield Splice(index, index, [_with_lines(new[0], blank), *new[1:]])
        elif row.how == "after" and not _are(block.nodes[index + 1 : index + 1 + len(wanted)], wanted):
            yield Splice.below(index, _new(block, row))
        elif row.how == "replace" and not _are(block.nodes[index : index + len(wanted)], wanted):
            stop = next((at for at, each in block.simple() if at >= index and _begins(each, row.to)), None)
            if stop is not None:
                above = block.statements[index].leading_lines  # type: ignore[attr-defined]
                new = _new(block, row)
                yield Splice(index, stop + 1, [_with_lines(new[0], above), *new[1:]])


def _new(block: Block, row: Put) -> list[cst.BaseStatement]:
    """The statements that a row puts there."""
    return [_unindented(block, each) for each in block.parse(textwrap.dedent(row.code).strip("\n") + "\n")]


def _with_lines(statement: cst.BaseStatement, above: Sequence[cst.EmptyLine]) -> cst.BaseStatement:
    """A statement with lines above those it has: blank ones and comments."""
    return statement.with_changes(leading_lines=[*above, *statement.leading_lines])  # type: ignore[attr-defined]


def _unindented(block: Block, statement: cst.BaseStatement) -> cst.BaseStatement:
    """A statement whose blank lines above hold no blanks, however deep it goes."""
    lines = [line if line.comment else block.blank_lines(1)[0] for line in statement.leading_lines]  # type: ignore
    return statement.with_changes(leading_lines=lines)


def _swap(block: Block, row: Swap) -> Iterator[Splice]:
    import libcst as cst

    for index, it in block.simple():
        parts = [text(part) for part in every(it) if isinstance(part, ast.expr)] if _begins(it, row.at) else []
        statement = block.statements[index] if _same(row.old) in parts else None
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        places: list[cst.CSTNode] = []
        pending: list[cst.CSTNode] = [statement]
        while pending:
            node = pending.pop()
            if isinstance(node, cst.BaseExpression) and block.code(node) == _same(row.old):
                places.append(node)
            pending.extend(node.children)
        for place in places[:1]:
            yield Splice.instead(index, [statement.deep_replace(place, block.expression(row.new))])  # type: ignore
