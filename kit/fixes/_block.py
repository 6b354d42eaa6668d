"""Small questions that fixes ask of libcst's tree, and small edits; imported only when a codemod runs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import libcst as cst
from libcst.helpers import get_full_name_for_node

from kit.fixes import Splice
from kit.fixes._ast import expression, requires


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
        return self.code(statement.test) if isinstance(statement, cst.If) else ""

    def requires(self, statement: cst.CSTNode, condition: str) -> bool:
        """Whether a statement is an `if` that is only taken where ``condition`` holds."""
        return isinstance(statement, cst.If) and requires(expression(self.code(statement.test)), condition)

    def narrowed(self, statement: cst.BaseStatement, condition: str, apart: bool = False) -> cst.BaseStatement:
        """An `if` with `and condition` added to its test; ``apart``: the condition on a line of its own, all of it in
        parentheses."""
        old: cst.BaseExpression = statement.test  # type: ignore[attr-defined]
        if isinstance(old, cst.BooleanOperation) and isinstance(old.operator, cst.Or) and not old.lpar:
            old = old.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
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

    def widened(self, statement: cst.BaseStatement, condition: str) -> cst.BaseExpression:
        """The test of an `if`, which is an `or`, with `or condition` added."""
        return cst.BooleanOperation(statement.test, cst.Or(), self.expression(condition))  # type: ignore[attr-defined]

    def calls(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether a statement is just a call of ``name`` (dotted)."""
        return self.callee(statement) == name and isinstance(statement.body[0], cst.Expr)  # type: ignore[attr-defined]

    def assigned_call(self, statement: cst.CSTNode, name: str) -> cst.Call | None:
        """The call of ``name`` (dotted) whose result is all that a line assigns."""
        alone = self.calls(statement, name) or self.callee(statement) != name
        return None if alone else self._call(statement)

    def imports(self, statement: cst.CSTNode) -> tuple[str, list[str]]:
        """The module of a `from module import …` line and the names it imports as themselves; none for others."""
        line = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and statement.body else None
        if not isinstance(line, cst.ImportFrom) or isinstance(line.names, cst.ImportStar) or not line.module:
            return "", []
        names = [alias.evaluated_name for alias in line.names if alias.asname is None]
        return "" if line.relative else get_full_name_for_node(line.module) or "", names

    def importing(self, name: str, module: str, beside: str) -> Iterator[Splice]:
        """At the module's top, the import of ``name`` where ``beside`` comes from ``module``, unless it is there."""
        lines = [] if self.enclosing else [self.imports(statement) for statement in self.statements]
        place = next((at for at, (library, names) in enumerate(lines) if library == module and beside in names), None)
        if place is not None and not any(name in names for _, names in lines):
            yield Splice(place, place + 1, self._with_import(self.statements[place], name), counted=False)

    def importing_module(self, name: str) -> Iterator[Splice]:
        """At the module's top, `import name` below the first import, in its alphabetical place, unless it is there."""
        lines = [] if self.enclosing else [self.imported(statement) for statement in self.statements]
        future = [self.imports(self.statements[at])[0] == "__future__" for at in range(len(lines))]
        place = next((at + 1 for at, line in enumerate(lines) if line is not None and not future[at]), None)
        if place is not None and not any(name in line for line in lines if line):
            while place < len(lines) and (line := lines[place]) and line[0] < name:
                place += 1
            yield Splice(place, place, self.parse(f"import {name}\n"), counted=False)

    def imported(self, statement: cst.CSTNode) -> list[str] | None:
        """The modules that a line of imports names by `import …`; None for a line that is not all imports."""
        lines = statement.body if isinstance(statement, cst.SimpleStatementLine) else ()
        if not lines or not all(isinstance(line, (cst.Import, cst.ImportFrom)) for line in lines):
            return None
        return [alias.evaluated_name for line in lines if isinstance(line, cst.Import) for alias in line.names]

    def _with_import(self, statement: cst.BaseStatement, name: str) -> list[cst.BaseStatement]:
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

    def with_method(self, statement: cst.BaseStatement, value: cst.Call, call: str) -> cst.BaseStatement:
        """A line that assigns the result of the call ``value``, with a method called on that first (``call``)."""
        method = cst.ensure_type(self.expression(f"_.{call}"), cst.Call)
        made = method.with_deep_changes(cst.ensure_type(method.func, cst.Attribute), value=value)
        return statement.with_deep_changes(statement.body[0], value=made)  # type: ignore[attr-defined]

    def with_call(self, statement: cst.BaseStatement, call: cst.Call, made: str) -> cst.BaseStatement:
        """A line that assigns the result of ``call``, with the call ``made`` in its place: of another function, its
        arguments in front of those there are."""
        new = cst.ensure_type(self.expression(made), cst.Call)
        arguments = [*new.args, *call.args]
        new = new.with_changes(args=arguments, whitespace_before_args=call.whitespace_before_args)
        return statement.with_deep_changes(statement.body[0], value=new)  # type: ignore[attr-defined]

    def named(self, statement: cst.CSTNode) -> bool:
        """Whether all a line does is to give something a name, and only one."""
        line = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and statement.body else None
        return isinstance(line, cst.Assign) and [type(each.target) for each in line.targets] == [cst.Name]

    def loops_over(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether a statement is `for … in name`."""
        return isinstance(statement, cst.For) and self.code(statement.iter) == name

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

    def assigns(self, statement: cst.CSTNode, name: str) -> bool:
        """Whether a statement is just `name = …`."""
        line = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and statement.body else None
        return isinstance(line, cst.Assign) and [self.code(each.target) for each in line.targets] == [name]

    def with_expressions(
        self, statement: cst.BaseStatement, kind: str, word: str, change: Callable[[str], str | None]
    ) -> cst.BaseStatement:
        """A statement of simple ones (of an `if` the test, of a `with` the items) with expressions of a ``kind`` (a
        class of libcst's, such as "Call") replaced, the inner ones first: ``change`` is given the code of each that has
        ``word`` in it, and returns new code or None. An operand is put in parentheses. The statement itself where
        nothing changed."""
        if isinstance(statement, cst.If):
            parts: Sequence[cst.CSTNode] = [statement.test]
        elif isinstance(statement, cst.With):
            parts = statement.items
        else:
            parts = [statement] if isinstance(statement, cst.SimpleStatementLine) else []
        expressions = _Expressions(self, kind, word, change)
        new: list[Any] = [
            part.visit(expressions) if word in self.module.code_for_node(part) else part for part in parts
        ]
        if not expressions.changed:
            return statement
        if isinstance(statement, cst.If):
            return statement.with_changes(test=new[0])
        changed: cst.BaseStatement = statement.with_changes(items=new) if isinstance(statement, cst.With) else new[0]
        return changed

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

    def raises(self, statement: cst.CSTNode, word: str = "") -> bool:
        """Whether the last thing a compound statement does is to raise what ``word`` appears in."""
        last = self.body(statement)[-1:]
        line = last[0].body[-1] if last and isinstance(last[0], cst.SimpleStatementLine) else None
        return isinstance(line, cst.Raise) and word in self.module.code_for_node(line)

    def branches(self, statement: cst.CSTNode) -> tuple[list[str], cst.Else | None]:
        """The tests of an `if` and its `elif`s, and the `else` below them."""
        tests = []
        below: cst.CSTNode | None = statement
        while isinstance(below, cst.If):
            tests.append(self.test(below))
            below = below.orelse
        return tests, below if tests and isinstance(below, cst.Else) else None

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

    def in_else(self) -> bool:
        """Whether this block is the `else` of an `if`."""
        return len(self.enclosing) > 1 and isinstance(self.enclosing[-1], cst.Else)

    def with_else(self, statement: cst.BaseStatement, body: Sequence[cst.BaseStatement]) -> cst.BaseStatement:
        """An `if` with an `else` that has another body."""
        return statement.with_deep_changes(statement.orelse.body, body=body)  # type: ignore[attr-defined]

    def chosen_after(self, name: str) -> bool:
        """Whether this block is the `else` of an `if` that calls ``name``."""
        return self.in_else() and any(self.contains_call(each, name) for each in self.body(self.enclosing[-2]))

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
            if taken and requires(expression(self.code(node.test)), condition):  # type: ignore[attr-defined]
                return True
            inner = node
        return False

    def loop_of_backward(self, node: cst.CSTNode) -> bool:
        """Whether a node is a loop that trains."""
        return isinstance(node, cst.For) and ".backward(" in self.module.code_for_node(node)

    def line(self, statement: cst.CSTNode) -> str:
        """A statement's code, without what stands above it."""
        return self.module.code_for_node(statement.with_changes(leading_lines=())).strip()

    def name(self, statement: cst.CSTNode) -> str:
        """The name of the function that a statement defines; "" for other statements."""
        return statement.name.value if isinstance(statement, cst.FunctionDef) else ""

    def owner(self) -> str:
        """The name of the function this block is the body of; "" for other blocks."""
        return self.name(self.enclosing[-1]) if self.enclosing else ""

    def function(self, name: str) -> ast.FunctionDef | None:
        """The innermost function around this block as `ast` reads it, where its name starts with ``name``."""
        around = next((node for node in reversed(self.enclosing) if isinstance(node, cst.FunctionDef)), None)
        return self.read(around) if around and around.name.value.startswith(name) else None  # type: ignore[return-value]

    def read(self, statement: cst.CSTNode) -> ast.stmt:
        """A statement as `ast` reads it: comments, spacing and quotes do not matter."""
        return ast.parse(self.module.code_for_node(statement)).body[0]

    def callee(self, statement: cst.CSTNode) -> str:
        """What the call is of (dotted) that a line consists of, or assigns the result of; "" for other statements."""
        call = self._call(statement)
        return get_full_name_for_node(call.func) or "" if call else ""

    def without(self, statement: cst.BaseStatement, keyword: str) -> cst.BaseStatement:
        """A statement whose call gives ``keyword`` last, without it."""
        call: cst.Call = self._call(statement)  # type: ignore[assignment]
        kept = [argument for argument in call.args if not argument.keyword or argument.keyword.value != keyword]
        kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return statement.with_deep_changes(call, args=kept)

    def with_argument(self, statement: cst.BaseStatement, argument: str) -> cst.BaseStatement:
        """A statement whose call, of one argument or more, has one more, laid out as they are."""
        call: cst.Call = self._call(statement)  # type: ignore[assignment]
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

    def _call(self, statement: cst.CSTNode) -> cst.Call | None:
        if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
            return None
        line = statement.body[0]
        return line.value if isinstance(line, (cst.Expr, cst.Assign)) and isinstance(line.value, cst.Call) else None

    @cached_property
    def texts(self) -> list[str]:
        """The statements as `ast` writes them."""
        return [ast.unparse(ast.parse(self.module.code_for_node(statement))) for statement in self.statements]

    def code(self, node: cst.CSTNode) -> str:
        """An expression as `ast` writes it."""
        return _code(node)


@lru_cache(maxsize=8192)  # most fixes ask for the same tests, before and after
def _code(node: cst.CSTNode) -> str:
    return ast.unparse(ast.parse(f"({cst.Module([]).code_for_node(node)})"))


@lru_cache(maxsize=4)
def written(module: cst.Module) -> bytes:
    """A module as a file: it takes as long as all else that a fix does."""
    return module.bytes


class _Expressions(cst.CSTTransformer):
    """See `Block.with_expressions`."""

    def __init__(self, block: Block, kind: str, word: str, change: Callable[[str], str | None]) -> None:
        super().__init__()
        self.block, self.kind, self.word, self.change = block, kind, word, change
        self.changed = 0
        self.made: list[cst.CSTNode] = []  # the replacements

    def on_leave(self, original: cst.CSTNode, updated: cst.CSTNode) -> Any:
        if type(updated).__name__ == self.kind and self.word in (code := self.block.module.code_for_node(updated)):
            new = self.change(code)
            if new is not None:
                self.changed += 1
                node = self.block.expression(new)
                operand = isinstance(node, (cst.IfExp, cst.BooleanOperation)) and not node.lpar
                if operand:
                    node = node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
                    self.made.append(node)
                return node
        if isinstance(updated, cst.Expr) and any(updated.value is made for made in self.made):
            self.changed -= 1  # nobody takes its value
            return original
        for name in _WHOLE.get(type(updated), ()):
            part = getattr(updated, name)
            if any(part is made for made in self.made):
                updated = updated.with_changes(**{name: part.with_changes(lpar=part.lpar[1:], rpar=part.rpar[1:])})
        return updated


# Where a whole expression stands, which needs no parentheses.
_WHOLE: dict[type, tuple[str, ...]] = {
    cst.AnnAssign: ("value",),
    cst.Arg: ("value",),
    cst.Assign: ("value",),
    cst.ListComp: ("elt",),
    cst.Return: ("value",),
}
