"""Run one fix on one file: exact count, independent postcondition, second run.

libcst keeps every byte that is not edited; where it would not (a form feed before a statement), that is a conflict.
Its visitors cost as much as parsing does (80 ms for an 1,800-line script), and all the fixes are about statements, so
blocks of statements are walked directly and expressions are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import libcst as cst
from libcst.helpers import get_full_name_for_node

from kit.errors import KitError
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
        """Statements from source with four spaces and line feeds; written, they have the file's own."""
        body = cst.parse_module(text).body
        return [statement for statement in body if isinstance(statement, cst.BaseStatement)]

    def expression(self, text: str) -> cst.BaseExpression:
        return cst.parse_expression(text)

    def blank_lines(self, count: int) -> list[cst.EmptyLine]:
        return [cst.EmptyLine(indent=False)] * count

    def test(self, statement: cst.CSTNode) -> str:
        """The test of an `if` as `ast` writes it (spacing and quotes do not matter); "" for other statements."""
        return self._code(statement.test) if isinstance(statement, cst.If) else ""

    def requires(self, statement: cst.CSTNode, condition: str) -> bool:
        """Whether a statement is an `if` that is only taken where ``condition`` holds."""
        return isinstance(statement, cst.If) and requires(_expression(self._code(statement.test)), condition)

    def narrowed(self, statement: cst.BaseStatement, condition: str) -> cst.BaseStatement:
        """An `if` with `and condition` added to its test, which is a comparison, a name or an `and` of such."""
        test = cst.BooleanOperation(statement.test, cst.And(), self.expression(condition))  # type: ignore[attr-defined]
        return statement.with_changes(test=test)

    def calls(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether a statement is just a call of ``name`` (dotted)."""
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return False
        small = statement.body[0]
        call = small.value if isinstance(small, cst.Expr) else None
        return isinstance(call, cst.Call) and get_full_name_for_node(call.func) == name

    def imports(self, statement: cst.CSTNode) -> tuple[str, list[str]]:
        """The module of a `from module import …` line and the names it imports as themselves; none for others."""
        line = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and statement.body else None
        if not isinstance(line, cst.ImportFrom) or isinstance(line.names, cst.ImportStar) or not line.module:
            return "", []
        names = [alias.evaluated_name for alias in line.names if alias.asname is None]
        return "" if line.relative else get_full_name_for_node(line.module) or "", names

    def with_import(self, statement: cst.BaseStatement, name: str) -> list[cst.BaseStatement]:
        """A `from module import …` line that imports ``name`` too, in its alphabetical place; one in parentheses stays
        as it is, with a line of its own below."""
        line: cst.ImportFrom = statement.body[0]  # type: ignore[attr-defined]
        names = list(line.names)  # type: ignore[arg-type]
        if line.lpar or len(statement.body) > 1:  # type: ignore[attr-defined]
            alone = cst.ImportFrom(line.module, [cst.ImportAlias(cst.Name(name))])
            return [statement, cst.SimpleStatementLine([alone])]
        at = sum(alias.evaluated_name < name for alias in names)
        names.insert(at, cst.ImportAlias(cst.Name(name)))
        return [statement.with_deep_changes(line, names=names)]

    def body(self, statement: cst.CSTNode) -> Sequence[cst.BaseStatement]:
        """The statements inside a compound statement written over several lines."""
        inner = getattr(statement, "body", None)
        return inner.body if isinstance(inner, cst.IndentedBlock) else ()

    def leading(self, statement: cst.CSTNode) -> tuple[list[cst.EmptyLine], list[cst.EmptyLine]]:
        """The blank lines above a statement, and from its first comment on the rest."""
        lines = list(statement.leading_lines)  # type: ignore[attr-defined]
        blank = next((index for index, line in enumerate(lines) if line.comment), len(lines))
        return lines[:blank], lines[blank:]

    def with_body(self, statement: cst.BaseStatement, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        return statement.with_deep_changes(statement.body, body=body)  # type: ignore[attr-defined]

    def contains_call(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether ``name`` is called by a statement somewhere inside."""
        return self.calls(statement, name) or any(self.contains_call(inner, name) for inner in self.body(statement))

    def is_step_limit(self, statement: cst.CSTNode) -> bool:
        """`if global_step >= args.max_train_steps: break`, with no `else`."""
        if self.test(statement) != "global_step >= args.max_train_steps" or statement.orelse:  # type: ignore[attr-defined]
            return False
        last = statement.body.body[-1]  # type: ignore[attr-defined]
        return isinstance(last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last, cst.Break)

    def loop(self) -> cst.For | cst.While | None:
        """The loop this block is the body of."""
        last = self.enclosing[-1] if self.enclosing else None
        return last if isinstance(last, (cst.For, cst.While)) else None

    def holds_batches(self) -> bool:
        """Whether one of these statements is the loop over batches: the innermost one with the step-limit break."""
        return any(
            self._limited(loop) and not any(map(self._limited, self.body(loop)))
            for loop in self.statements
            if isinstance(loop, (cst.For, cst.While))
        )

    def _limited(self, loop: cst.CSTNode) -> bool:
        return isinstance(loop, (cst.For, cst.While)) and any(map(self.is_step_limit, self.body(loop)))

    def guarded(self, condition: str) -> bool:
        """Whether an `if` or `while` around this block, in the same function, requires ``condition``."""
        inner: cst.CSTNode | None = None
        for node in reversed(self.enclosing):
            if isinstance(node, cst.FunctionDef):
                return False
            taken = isinstance(node, (cst.If, cst.While)) and (inner is None or node.orelse is not inner)
            if taken and requires(_expression(self._code(node.test)), condition):  # type: ignore[attr-defined]
                return True
            inner = node
        return False

    def _code(self, node: cst.CSTNode) -> str:
        return ast.unparse(ast.parse(f"({self.module.code_for_node(node)})"))


def _expression(code: str) -> ast.expr:
    return ast.parse(code, mode="eval").body


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

    try:
        module, lost = _parse(content)
    except cst.ParserSyntaxError as error:
        raise KitError(f"{name}:{error.raw_line}: libcst cannot read this: {error.message}", "update libcst") from None
    if lost:
        reason = "libcst would not keep this line as it is (a form feed, a lone carriage return, blanks at the end?)"
        return Result(Outcome.conflict, content, reason, lost)
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


@lru_cache(maxsize=1)  # often several fixes are tried on one file
def _parse(content: bytes) -> tuple[cst.Module, int]:
    """The module, and the first line (from 1) that libcst would write otherwise, or 0."""
    module = cst.parse_module(content)
    if (written := module.bytes) == content:
        return module, 0
    pairs = zip_longest(content.splitlines(True), written.splitlines(True))
    return module, next(line for line, (ours, theirs) in enumerate(pairs, 1) if ours != theirs)


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
