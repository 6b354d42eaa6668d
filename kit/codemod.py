"""Run one fix on one file: exact count, independent postcondition, second run.

libcst keeps every byte that is not edited; where it would not (a form feed before a statement), that is a conflict.
Its visitors cost as much as parsing does (80 ms for an 1,800-line script), and all the fixes are about statements, so
blocks of statements are walked directly and expressions are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import libcst as cst

from kit.errors import KitError
from kit.fixes import Fix, Options, Outcome, Site
from kit.fixes._ast import bound_names, loose_names, parse
from kit.fixes._block import Block, written


@dataclass(frozen=True)
class Result:
    """The outcome of a fix on a file; ``reason`` and ``line`` (from 1) say why it is a conflict or gone, ``places`` how
    many it was applied at."""

    outcome: Outcome
    content: bytes
    reason: str = ""
    line: int = 0
    places: int = 0


def run(fix: Fix, content: bytes, name: str, count: int | None = 1, options: Options | None = None) -> Result:
    """Apply ``fix`` to the file ``content``, whose ``name`` appears in messages.

    ``count`` places must need it, no more and no fewer; None: as many as there are. The result is ``applied`` only if
    afterwards the fix's own postcondition holds at every site and a second run finds nothing to do. Raises KitError
    with file and line where the file is not Python.
    """
    options = options or {}
    tree = parse(content, name)
    before = fix.sites(tree, options)
    todo = [site for site in before if not site.done]
    if not before:
        return Result(Outcome.gone, content, "the construct it is about is not in this file")
    if not todo:
        return Result(Outcome.satisfied, content)
    if refusal := _refusal(fix, tree, todo):
        return Result(Outcome.conflict, content, *refusal)
    if len(todo) != (count or len(todo)):
        places = ", ".join(str(site.line) for site in todo)
        reason = f"expected {count} place{'s' * (count != 1)} to fix, found {len(todo)} (lines {places})"
        return Result(Outcome.conflict, content, reason, todo[0].line)

    try:
        module, lost = (_written[content], 0) if content in _written else _parse(content)
    except cst.ParserSyntaxError as error:
        raise KitError(f"{name}:{error.raw_line}: libcst cannot read this: {error.message}", "update libcst") from None
    except UnicodeDecodeError as error:  # in a comment, where Python itself lets it pass
        line = content.count(b"\n", 0, error.start) + 1
        raise KitError(f"{name}:{line}: not {error.encoding}: {error.reason}", "save the file as UTF-8") from None
    if lost:
        reason = "libcst would not keep this line as it is (a form feed, a lone carriage return, blanks at the end?)"
        return Result(Outcome.conflict, content, reason, lost)
    edited, counted = _edit(fix, module, options)
    if counted != len(todo):
        reason = (
            f"expected {len(todo)} edit{'s' * (len(todo) != 1)}, made {counted}: the code is not as the fix knows it"
        )
        return Result(Outcome.conflict, content, reason, todo[0].line)
    result = written(edited)
    after = fix.sites(parse(result, name), options)
    if len(after) < len(before) or not all(site.done for site in after):
        line = next((site.line for site in after if not site.done), todo[0].line)
        return Result(Outcome.conflict, content, "its own postcondition does not hold after the edit", line)
    known = loose_names(content, name)
    orphans = loose_names(result, name) - known
    if orphans and (orphans := orphans & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
        names = ", ".join(f"`{name}`" for name in sorted(orphans))
        reason = f"the edit takes away what binds {names}, which is still used"
        return Result(Outcome.conflict, content, reason, todo[0].line)
    if _edit(fix, edited, options)[1]:
        return Result(Outcome.conflict, content, "a second run would change the file again", todo[0].line)
    _written.clear()
    _written[result] = edited
    return Result(Outcome.applied, result, places=len(todo))


# What the last fix made: the next one need not parse it again, which is half of what a fix costs.
_written: dict[bytes, cst.Module] = {}


@lru_cache(maxsize=1)  # often several fixes, or the series of several recipes, are tried on one file
def _parse(content: bytes) -> tuple[cst.Module, int]:
    """The module, and the first line (from 1) that libcst would write otherwise, or 0."""
    module = cst.parse_module(content)
    if written(module) == content:
        return module, 0
    pairs = zip_longest(content.splitlines(True), written(module).splitlines(True))
    return module, next(line for line, (ours, theirs) in enumerate(pairs, 1) if ours != theirs)


def _refusal(fix: Fix, tree: ast.Module, sites: Sequence[Site]) -> tuple[str, int] | None:
    for site in sites:
        if site.refuses:
            return site.refuses, site.line
        for name in (*fix.NEEDS, *site.needs):
            if name not in bound_names(tree, site.line):
                return f"`{name}` is not bound there", site.line
    return None


def _edit(fix: Fix, module: cst.Module, options: Options) -> tuple[cst.Module, int]:
    """The module with a fix's splices made, and how many of them count."""
    counted = 0

    def block(statements: Sequence[Any], enclosing: tuple[cst.CSTNode, ...]) -> Sequence[Any]:
        nonlocal counted
        inner: list[Any] = [_rebuild(statement, enclosing, block) for statement in statements]
        splices = sorted(fix.edits(Block(inner, enclosing, module), options), key=lambda splice: -splice.start)
        for splice in splices:
            inner[splice.start : splice.stop] = splice.statements
            counted += splice.counted
        changed = splices or any(new is not old for new, old in zip(inner, statements, strict=False))
        return inner if changed else statements

    body = block(module.body, ())
    return (module if body is module.body else module.with_changes(body=body)), counted


def _rebuild(node: cst.CSTNode, enclosing: tuple[cst.CSTNode, ...], block: _EditBlock) -> cst.CSTNode:
    """``node`` with the blocks inside it edited; the node itself where nothing changed."""
    changes: dict[str, object] = {}
    for name in _BLOCKS if isinstance(node, _HOLDERS) else ():
        part = getattr(node, name, None)
        if isinstance(part, cst.IndentedBlock):
            body = block(part.body, (*enclosing, node))
            if body is not part.body:
                changes[name] = part.with_changes(body=body)
        elif isinstance(part, (list, tuple)):
            items = [_rebuild(item, (*enclosing, node), block) for item in part]
            if any(new is not old for new, old in zip(items, part, strict=True)):
                changes[name] = items
        elif isinstance(part, _HOLDERS):
            new = _rebuild(part, (*enclosing, node), block)
            if new is not part:
                changes[name] = new
    return node.with_changes(**changes) if changes else node


_EditBlock = Callable[[Sequence[Any], tuple[cst.CSTNode, ...]], Sequence[Any]]
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
_HOLDERS = (cst.BaseCompoundStatement, cst.Else, cst.Finally, cst.ExceptHandler, cst.ExceptStarHandler, cst.MatchCase)
