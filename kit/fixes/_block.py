"""Small edits of libcst's tree; imported only when a codemod runs. What is asked of a script is asked of its `ast`
nodes, which stand beside the statements here, and of its roles."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import libcst as cst
from libcst.helpers import get_full_name_for_node

from kit.fixes import Splice
from kit.fixes._ast import text
from kit.fixes._expressions import Expressions, parenthesised
from kit.fixes._lines import Statements
from kit.fixes._roles import Script

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Block:
    """A run of statements as a fix's ``edits`` sees them: the blocks inside them have been edited already. ``groups``:
    the same statements as they were, several where they share a line. ``todo``: the lines of the sites to be edited."""

    statements: Statements
    groups: Sequence[Sequence[ast.stmt]]
    above: tuple[ast.AST, ...]  # what encloses them, outermost first: the module, …, what they are a block of
    module: cst.Module = field(repr=False)
    script: Script = field(repr=False)
    todo: frozenset[int]

    @cached_property
    def nodes(self) -> list[ast.stmt | None]:
        """The statements as they were; None for those that share a line."""
        return [group[0] if len(group) == 1 else None for group in self.groups]

    def wanted(self, heads: bool = False) -> Iterator[tuple[int, ast.stmt]]:
        """The statements that are sites to be edited, each with its place in the block; ``heads``: also those that have
        their body on the line of their head, which may be what is meant."""
        for index, node in enumerate(self.nodes):
            if node is not None and node.lineno in self.todo:
                body = getattr(node, "body", None)
                if heads or not body or body[0].lineno != node.lineno:
                    yield index, node

    def simple(self) -> Iterator[tuple[int, ast.stmt]]:
        """The statements that have a line of their own, each with its place in the block."""
        return ((index, node) for index, node in enumerate(self.nodes) if node is not None)

    @property
    def at_top(self) -> bool:
        """Whether this is the module's own block."""
        return isinstance(self.above[-1], ast.Module)

    def owner(self) -> str:
        """The name of the function this block is the body of; "" for other blocks."""
        last = self.above[-1]
        return last.name if isinstance(last, _FUNCTIONS) else ""

    def in_else(self) -> bool:
        """Whether this block is the `else` of an `if`."""
        last = self.above[-1]
        return isinstance(last, ast.If) and any(node is not None and node in last.orelse for node in self.nodes[:1])

    @cached_property
    def texts(self) -> list[str]:
        """The statements as `ast` writes them; "" for those that share a line."""
        return [text(node) if node is not None else "" for node in self.nodes]

    def parse(self, code: str) -> list[cst.BaseStatement]:
        """Statements from source with four spaces and line feeds; written, they have the file's own."""
        body = cst.parse_module(code).body
        return [statement for statement in body if isinstance(statement, cst.BaseStatement)]

    def statement(self, code: str) -> cst.BaseStatement:
        """The one statement of a source."""
        [only] = self.parse(code)
        return only

    def expression(self, code: str) -> cst.BaseExpression:
        return cst.parse_expression(code)

    def blank_lines(self, count: int) -> list[cst.EmptyLine]:
        return [cst.EmptyLine(indent=False)] * count

    def leading(self, statement: cst.CSTNode) -> tuple[list[cst.EmptyLine], list[cst.EmptyLine]]:
        """The blank lines above a statement, and from its first comment on the rest."""
        lines = list(statement.leading_lines)  # type: ignore[attr-defined]
        blank = next((index for index, line in enumerate(lines) if line.comment), len(lines))
        return lines[:blank], lines[blank:]

    def above_function(self, index: int, functions: Sequence[cst.BaseStatement]) -> Splice:
        """Functions above another one, which keeps its comments: two blank lines between."""
        blank, comments = self.leading(self.statements.head(index))
        new = [functions[0].with_changes(leading_lines=blank), *functions[1:]]
        if [self.module.code_for_node(line) for line in blank] == [self.module.default_newline] * 2:
            return Splice(index, index, new, counted=False)  # the one below, which may be long, is not read
        below = self.statements[index].with_changes(leading_lines=[*self.blank_lines(2), *comments])
        return Splice.instead(index, [*new, below], counted=False)

    def body(self, statement: cst.CSTNode) -> Sequence[cst.BaseStatement]:
        """The statements inside a compound statement written over several lines."""
        inner = getattr(statement, "body", None)
        return inner.body if isinstance(inner, cst.IndentedBlock) else ()

    def with_body(self, statement: cst.BaseStatement, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        return statement.with_deep_changes(statement.body, body=body)  # type: ignore[attr-defined]

    def with_else(self, statement: cst.BaseStatement, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        """An `if` with an `else` that has another body."""
        return statement.with_deep_changes(statement.orelse.body, body=body)  # type: ignore[attr-defined]

    def under(self, head: str, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        """A compound statement (`if x:`) around others; what is above the first of them comes above it."""
        above = body[0].leading_lines  # type: ignore[attr-defined]
        inner = [body[0].with_changes(leading_lines=[]), *body[1:]]
        return self.with_body(self.statement(f"{head}\n    pass\n").with_changes(leading_lines=above), inner)

    def narrowed(self, statement: cst.BaseStatement, condition: str, apart: bool = False) -> cst.BaseStatement:
        """An `if` with `and condition` added to its test; ``apart``: the condition on a line of its own, all of it in
        parentheses."""
        old: cst.BaseExpression = statement.test  # type: ignore[attr-defined]
        if isinstance(old, cst.BooleanOperation) and isinstance(old.operator, cst.Or) and not old.lpar:
            old = parenthesised(old)
        test = cst.BooleanOperation(old, cst.And(), self.expression(condition))
        if apart:
            inner, outer = (
                cst.ParenthesizedWhitespace(indent=True, last_line=cst.SimpleWhitespace(indent))
                for indent in (self.module.default_indent, "")
            )
            test = test.with_changes(
                operator=cst.And(whitespace_before=inner),
                lpar=[cst.LeftParen(whitespace_after=inner)],
                rpar=[cst.RightParen(whitespace_before=outer)],
            )
        return statement.with_changes(test=test)

    def with_operand(self, statement: cst.BaseStatement, operand: str, choice: str) -> cst.BaseStatement:
        """An `if` whose test asks `operand or choice` where it asks ``operand`` (as `ast` writes it): the last one of a
        row of `or`s gets one more beside it."""

        def visit(node: cst.BaseExpression, either: bool) -> cst.BaseExpression:
            if isinstance(node, cst.BooleanOperation):
                mine = isinstance(node.operator, cst.Or)
                if mine and not (either and not node.lpar) and any(self.code(each) == operand for each in _row(node)):
                    plain = node.with_changes(lpar=[], rpar=[])
                    more = cst.BooleanOperation(plain, cst.Or(), self.expression(choice))
                    return more.with_changes(lpar=node.lpar, rpar=node.rpar)
                return node.with_changes(left=visit(node.left, mine), right=visit(node.right, mine))
            if self.code(node) != operand:
                return node
            made = cst.BooleanOperation(node, cst.Or(), self.expression(choice))
            return made if node is whole else parenthesised(made)

        whole: cst.BaseExpression = statement.test  # type: ignore[attr-defined]
        return statement.with_changes(test=visit(whole, False))

    def with_tests(
        self, statement: cst.BaseStatement, change: Callable[[cst.If], str | None]
    ) -> tuple[cst.BaseStatement, int]:
        """An `if` with other tests where ``change`` returns one for it or one of its `elif`s, and how many."""
        if not isinstance(statement, cst.If):
            return statement, 0
        new, count = change(statement), 0
        if isinstance(statement.orelse, cst.If):
            below, count = self.with_tests(statement.orelse, change)
            statement = statement.with_changes(orelse=below) if count else statement
        return (statement.with_changes(test=self.expression(new)), count + 1) if new else (statement, count)

    def with_elif(self, statement: cst.BaseStatement, branch: cst.BaseStatement) -> cst.BaseStatement:
        """An `if` with the `if` ``branch`` as the last `elif` above its `else`."""
        below = statement.orelse  # type: ignore[attr-defined]
        inner = self.with_elif(below, branch) if isinstance(below, cst.If) else branch.with_changes(orelse=below)
        return statement.with_changes(orelse=inner)

    def choosing(self, branch: cst.BaseStatement, statement: cst.BaseStatement) -> cst.BaseStatement:
        """The `if` ``branch`` with ``statement`` as its `else`; what is above that comes above it."""
        inner = statement.with_changes(leading_lines=[])
        below = cst.Else(cst.IndentedBlock([inner]))
        return branch.with_changes(orelse=below, leading_lines=statement.leading_lines)  # type: ignore[attr-defined]

    def importing(self, name: str, beside: ast.stmt | None, module: str) -> Iterator[Splice]:
        """The import of ``name`` in the statement ``beside``, which imports from that module, or on a line of its own
        below it; without one, on a line of its own below the module's first run of imports."""
        for index, group in enumerate(self.groups if beside else ()):
            if beside in group:
                yield Splice.instead(index, self._with_import(index, name, module), counted=False)
        if beside is None and self.at_top:
            place = self.below_imports()
            yield Splice(place, place, self.parse(f"from {module} import {name}\n"), counted=False)

    def below_imports(self) -> int:
        """The place below the module's first run of imports; where there is none, below its docstring."""
        lines = [all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in group) for group in self.groups]
        if True not in lines:
            return int(ast.get_docstring(self.script.tree) is not None)
        return next((at for at in range(lines.index(True), len(lines)) if not lines[at]), len(lines))

    def importing_module(self, name: str) -> Iterator[Splice]:
        """At the module's top, `import name` below the first import, in its alphabetical place, unless it is there."""
        lines = [_modules(group) for group in self.groups] if self.at_top else []
        future = [getattr(group[0], "module", "") == "__future__" for group in self.groups]
        place = next((at + 1 for at, line in enumerate(lines) if line is not None and not future[at]), None)
        if place is not None and not any(name in line for line in lines if line):
            while place < len(lines) and (line := lines[place]) and line[0] < name:
                place += 1
            yield Splice(place, place, self.parse(f"import {name}\n"), counted=False)

    def _with_import(self, index: int, name: str, module: str) -> list[cst.BaseStatement]:
        """A `from module import …` line that imports ``name`` too, in its alphabetical place; one in parentheses, or
        that shares its line, stays as it is, with a line of its own below."""
        statement: Any = self.statements[index]
        line = statement.body[0] if self.nodes[index] else None
        if line is None or line.lpar or isinstance(line.names, cst.ImportStar):
            return [statement, *self.parse(f"from {module} import {name}\n")]
        names = list(line.names)
        at = sum(alias.evaluated_name < name for alias in names)
        names.insert(at, cst.ImportAlias(cst.Name(name)))
        return [statement.with_deep_changes(line, names=names)]

    def call(self, statement: cst.CSTNode) -> cst.Call | None:
        """The call that a line consists of, or assigns the result of."""
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return None
        line = statement.body[0]
        value = line.value if isinstance(line, (cst.Expr, cst.Assign, cst.AnnAssign)) else None
        return value if isinstance(value, cst.Call) else None

    def with_method(self, statement: cst.BaseStatement, call: str) -> cst.BaseStatement:
        """A line that assigns the result of a call, with a method called on that first (``call``)."""
        value = cst.ensure_type(self.call(statement), cst.Call)
        method = cst.ensure_type(self.expression(f"_.{call}"), cst.Call)
        made = method.with_deep_changes(cst.ensure_type(method.func, cst.Attribute), value=value)
        return statement.with_deep_changes(statement.body[0], value=made)  # type: ignore[attr-defined]

    def without(self, statement: cst.BaseStatement, keyword: str) -> cst.BaseStatement:
        """A statement whose call gives ``keyword``, by name or as its second argument, without it."""
        call: cst.Call = self.call(statement)  # type: ignore[assignment]
        numbered = enumerate(call.args)
        kept = [each for at, each in numbered if (each.keyword.value != keyword if each.keyword else at != 1)]
        kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return statement.with_deep_changes(call, args=kept)

    def with_argument(self, statement: cst.BaseStatement, argument: str) -> cst.BaseStatement:
        """A statement whose call, of one argument or more, has one more, laid out as they are."""
        call: cst.Call = self.call(statement)  # type: ignore[assignment]
        added: cst.Call = cst.parse_expression(f"call({argument})")  # type: ignore[assignment]
        above, several = (
            call.whitespace_before_args,
            isinstance(call.whitespace_before_args, cst.ParenthesizedWhitespace),
        )
        comma = cst.Comma(whitespace_after=above if several else cst.SimpleWhitespace(" "))
        last = call.args[-1]
        end = added.args[0].with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg)
        last = last.with_changes(comma=comma, whitespace_after_arg=cst.SimpleWhitespace(""))
        return statement.with_deep_changes(call, args=[*call.args[:-1], last, end])

    def with_parameter(self, function: cst.BaseStatement, name: str, before: str) -> cst.BaseStatement:
        """A function with a parameter ``name`` above the one called ``before``, which is not its first; laid out as the
        one above it."""
        parameters = list(function.params.params)  # type: ignore[attr-defined]
        at = next(index for index, each in enumerate(parameters) if each.name.value == before)
        new = parameters[at - 1].with_changes(name=cst.Name(name), annotation=None)
        parameters.insert(at, new)
        return function.with_deep_changes(function.params, params=parameters)  # type: ignore[attr-defined]

    def with_expressions(
        self, statement: cst.BaseStatement, kind: str, word: str, change: Callable[[str], str | None]
    ) -> cst.BaseStatement:
        """A statement of simple ones (of an `if` the test, of a `with` the items, of a function the decorators) with
        expressions of a ``kind`` (a class of libcst's, such as "Call") replaced, the inner ones first: ``change`` is
        given the code of each that has ``word`` in it, and returns new code or None. An operand is put in parentheses.
        The statement itself where nothing changed."""
        name = next((part for kinds, part in _PARTS if isinstance(statement, kinds)), "")
        if not name and not isinstance(statement, cst.SimpleStatementLine):
            return statement
        part: Any = getattr(statement, name) if name else statement
        parts = part if isinstance(part, (list, tuple)) else [part]
        expressions = Expressions(self.module, kind, word, change)
        new = [each.visit(expressions) if word in self.module.code_for_node(each) else each for each in parts]
        if not expressions.changed:
            return statement
        if not name:
            return new[0]  # type: ignore[no-any-return]
        return statement.with_changes(**{name: new if isinstance(part, (list, tuple)) else new[0]})

    def line(self, statement: cst.CSTNode) -> str:
        """A statement's code, without what stands above it."""
        return self.module.code_for_node(statement.with_changes(leading_lines=())).strip()

    def code(self, node: cst.CSTNode) -> str:
        """An expression as `ast` writes it."""
        return _code(node)

    def name(self, statement: cst.CSTNode) -> str:
        """What the call is of (dotted) that a line consists of, or assigns the result of; "" for other statements."""
        call = self.call(statement)
        return get_full_name_for_node(call.func) or "" if call else ""


_PARTS: tuple[tuple[Any, str], ...] = (
    ((cst.If, cst.While), "test"),
    (cst.With, "items"),
    (cst.For, "iter"),
    ((cst.FunctionDef, cst.ClassDef), "decorators"),
)


def _row(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """`a or b or c` as a, b and c."""
    if isinstance(node, cst.BooleanOperation) and isinstance(node.operator, cst.Or):
        yield from _row(node.left)
        yield from _row(node.right)
    else:
        yield node


def _modules(line: Sequence[ast.stmt]) -> list[str] | None:
    """The modules that a line names by `import …`; None for a line that is not all imports."""
    if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in line):
        return None
    return [alias.name for node in line if isinstance(node, ast.Import) for alias in node.names]


@lru_cache(maxsize=8192)  # most fixes ask for the same tests, before and after
def _code(node: cst.CSTNode) -> str:
    return ast.unparse(ast.parse(f"({cst.Module([]).code_for_node(node)})"))
