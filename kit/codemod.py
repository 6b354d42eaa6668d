"""Run one fix on one file: exact count, independent postcondition, second run.

libcst keeps every byte that is not edited. Its visitors cost as much as parsing does (80 ms for an 1,800-line script),
and all the fixes are about statements, so blocks of statements are walked directly and expressions are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import libcst as cst
from libcst.helpers import get_full_name_for_node

from kit.fixes import Fix, Options, Outcome, Site
from kit.fixes._ast import bound_names, parse, requires


@dataclass(frozen=True)
class Result:
    """The outcome of a fix on a file; ``reason`` and ``line`` (from 1) say why it is a conflict or gone."""

    outcome: Outcome
    content: bytes
    reason: str = ""
    line: int = 0


@dataclass
class Block:
    """A run of statements and what encloses it, as a fix's ``edits`` sees them."""

    statements: Sequence[cst.BaseStatement]
    enclosing: tuple[cst.CSTNode, ...]  # outermost first; the block's own statement is the last
    module: cst.Module = field(repr=False)

    def parse(self, text: str) -> list[cst.BaseStatement]:
        """Statements from source, in the file's own indentation and line endings."""
        body = cst.parse_module(text, self.module.config_for_parsing).body
        return [statement for statement in body if isinstance(statement, cst.BaseStatement)]

    def expression(self, text: str) -> cst.BaseExpression:
        return cst.parse_expression(text, self.module.config_for_parsing)

    def blank_lines(self, count: int) -> list[cst.EmptyLine]:
        return [cst.EmptyLine(indent=False)] * count

    def test(self, statement: cst.CSTNode) -> str:
        """The test of an `if` as `ast` writes it (spacing and quotes do not matter); "" for other statements."""
        return self._code(statement.test) if isinstance(statement, cst.If) else ""

    def calls(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether a statement is just a call of ``name`` (dotted)."""
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return False
        small = statement.body[0]
        call = small.value if isinstance(small, cst.Expr) else None
        return isinstance(call, cst.Call) and get_full_name_for_node(call.func) == name

    def imports(self, statement: cst.CSTNode, module: str) -> list[str]:
        """The names a `from module import …` line imports as themselves; none for other statements."""
        if not isinstance(statement, cst.SimpleStatementLine) or not isinstance(statement.body[0], cst.ImportFrom):
            return []
        line = statement.body[0]
        if isinstance(line.names, cst.ImportStar) or not line.module or get_full_name_for_node(line.module) != module:
            return []
        return [alias.evaluated_name for alias in line.names if alias.asname is None]

    def body(self, statement: cst.CSTNode) -> Sequence[cst.BaseStatement]:
        """The statements inside a compound statement written over several lines."""
        inner = getattr(statement, "body", None)
        return inner.body if isinstance(inner, cst.IndentedBlock) else ()

    def with_body(self, statement: cst.BaseStatement, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        return statement.with_deep_changes(statement.body, body=body)  # type: ignore[attr-defined]

    def contains_call(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether ``name`` is called by a statement somewhere inside."""
        return self.calls(statement, name) or any(self.contains_call(inner, name) for inner in self.body(statement))

    def is_step_limit(self, statement: cst.CSTNode) -> bool:
        """`if global_step >= args.max_train_steps: break`."""
        if not isinstance(statement, cst.If) or self.test(statement) != "global_step >= args.max_train_steps":
            return False
        last = self.body(statement)[-1:]
        ends = bool(last) and isinstance(last[0], cst.SimpleStatementLine) and isinstance(last[0].body[-1], cst.Break)
        return ends and statement.orelse is None

    def in_loop(self, *, holding_loops: bool) -> bool:
        """Whether this block is the body of a `for`, and has (or has no) further `for` directly inside it."""
        inside = bool(self.enclosing) and isinstance(self.enclosing[-1], cst.For)
        return inside and holding_loops == any(isinstance(statement, cst.For) for statement in self.statements)

    def guarded(self, condition: str) -> bool:
        """Whether an `if` around this block, in the same function, requires ``condition``."""
        inner: cst.CSTNode | None = None
        for node in reversed(self.enclosing):
            if isinstance(node, cst.FunctionDef):
                return False
            taken = isinstance(node, cst.If) and (inner is None or node.orelse is not inner)
            if taken and requires(ast.parse(self._code(node.test), mode="eval").body, condition):  # type: ignore[attr-defined]
                return True
            inner = node
        return False

    def _code(self, node: cst.CSTNode) -> str:
        return ast.unparse(ast.parse(f"({self.module.code_for_node(node)})"))


def run(fix: Fix, content: bytes, name: str, count: int = 1, options: Options | None = None) -> Result:
    """Apply ``fix`` to the file ``content``, whose ``name`` appears in messages.

    ``count`` places must need it, no more and no fewer. The result is ``applied`` only if afterwards the fix's own
    postcondition holds at every site and a second run finds nothing to do. Raises KitError with file and line where the
    file is not Python.
    """
    options = options or {}
    tree = parse(content, name)
    before = fix.sites(tree, options)
    todo = [site for site in before if not site.done]
    if not before:
        return Result(Outcome.gone, content, "the construct it is about is not in this file")
    if not todo:
        return Result(Outcome.satisfied, content)
    if missing := _unbound(fix, tree, todo):
        return Result(Outcome.conflict, content, *missing)
    if len(todo) != count:
        places = ", ".join(str(site.line) for site in todo)
        reason = f"expected {count} place{'s' * (count != 1)} to fix, found {len(todo)} (lines {places})"
        return Result(Outcome.conflict, content, reason, todo[0].line)

    module = cst.parse_module(content)
    edited, counted = _edit(fix, module, options)
    if counted != count:
        reason = f"expected {count} edit{'s' * (count != 1)}, made {counted}: the code is not as the fix knows it"
        return Result(Outcome.conflict, content, reason, todo[0].line)
    result = edited.bytes
    after = fix.sites(parse(result, name), options)
    if len(after) < len(before) or not all(site.done for site in after):
        line = next((site.line for site in after if not site.done), todo[0].line)
        return Result(Outcome.conflict, content, "its own postcondition does not hold after the edit", line)
    if _edit(fix, edited, options)[1]:
        return Result(Outcome.conflict, content, "a second run would change the file again", todo[0].line)
    return Result(Outcome.applied, result)


def _unbound(fix: Fix, tree: ast.Module, sites: Sequence[Site]) -> tuple[str, int] | None:
    for site in sites:
        for name in fix.NEEDS:
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
