"""A script as lines, of which libcst reads the statements that an edit touches.

It takes longer over a whole script than all the rest of a fix; and what it does not read stays, to the last byte.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, overload

import libcst as cst

from kit.fixes import Splice
from kit.fixes._ast import BLOCKS, Ancestors, decoded

_BLANKS = " \t\f"
_ENDS = "\r\n"


class Lost(Exception):
    """libcst would write a line (from 1) otherwise than it is."""

    def __init__(self, line: int) -> None:
        self.line = line


class Change(NamedTuple):
    """Other text for the lines ``start`` to ``stop`` (from 0)."""

    start: int
    stop: int
    text: str


class Span(NamedTuple):
    """The lines ``start`` to ``stop`` (from 0) of a statement, with the comments and the blank lines above, and those
    below in its blocks, that libcst counts to it."""

    start: int
    stop: int


class Place(NamedTuple):
    """A block: its statements, those that share a line together, the blanks they start with, and what they are in."""

    groups: Sequence[Sequence[ast.stmt]]
    indent: str
    above: Ancestors


@dataclass(frozen=True)
class Lines:
    """A script's `ast` and its lines with their ends, the last one with an end too."""

    tree: ast.Module
    lines: Sequence[str]
    whole: bool  # the last line has an end in the file, too
    encoding: str
    end: str  # of most lines

    @cached_property
    def shape(self) -> cst.Module:
        """A module without statements that has the script's indentation, line ends and encoding."""
        indented = (place for place in self.blocks if place.indent)
        first = min(indented, key=lambda place: place.groups[0][0].lineno, default=None)
        indent = first.indent if first else "    "
        return cst.Module([], encoding=self.encoding, default_newline=self.end, default_indent=indent)

    @cached_property
    def blocks(self) -> list[Place]:
        """The blocks of statements, those inside others before them; what stands on the line of a head is none."""
        return list(self._blocks(self.tree.body, (self.tree,))) if self.tree.body else []

    def _blocks(self, nodes: Sequence[ast.stmt], above: Ancestors) -> Iterator[Place]:
        for node in nodes:
            yield from self._inside(node, above)
        yield Place(self._groups(nodes), self._indent(nodes) if len(above) > 1 else "", above)

    def _inside(self, node: ast.AST, above: Ancestors) -> Iterator[Place]:
        """The blocks in a statement, an `except` or a `case`."""
        for part in filter(None, (getattr(node, name, None) for name in BLOCKS)):
            if not isinstance(part[0], ast.stmt) or self._is_elif(part[0]):
                for each in part:
                    yield from self._inside(each, (*above, node))
            elif self._is_block(part):
                yield from self._blocks(part, (*above, node))

    def bytes(self, changes: Sequence[Change]) -> bytes:
        """The script as a file, with the ``changes`` made."""
        text = self.text(0, len(self.lines), changes)
        return (text if self.whole else text.removesuffix("\n").removesuffix("\r")).encode(self.encoding)

    def text(self, start: int, stop: int, changes: Sequence[Change] = ()) -> str:
        """The lines ``start`` to ``stop`` (from 0) with those of the ``changes`` that are among them."""
        parts: list[str] = []
        for change in sorted(change for change in changes if start <= change.start < stop):
            parts += [*self.lines[start : change.start], change.text]
            start = change.stop
        return "".join([*parts, *self.lines[start:stop]])

    def code(self, statements: Sequence[cst.BaseStatement], indent: str) -> str:
        """Statements as text, at an indentation."""
        if not indent:
            return self.shape.with_changes(body=statements).code
        block = cst.IndentedBlock(statements, indent=indent)
        return self.shape.code_for_node(block).removeprefix(self.end)

    def read(self, text: str, indent: str, line: int) -> cst.BaseStatement:
        """A statement's text, at an indentation, as libcst has it; it begins at ``line`` (from 1). Raises Lost where
        libcst would write it otherwise."""
        end = self.end
        # libcst takes the indentation of a text's first block for that of all: so the script's own comes first
        above = ["if 1:", f"{self.shape.default_indent}pass", "if 1:" if indent else "pass", ""]
        try:
            found: Any = cst.parse_module(f"{end.join(above)}{text}{indent}pass{end}").body
        except cst.ParserSyntaxError as error:
            error.raw_line += line - len(above)
            raise
        statement: cst.BaseStatement = found[1].body.body[0] if indent else found[2]
        if (written := self.code([statement], indent)) != text:
            pairs = zip(_split(text), _split(written), strict=False)
            raise Lost(next((at for at, (ours, theirs) in enumerate(pairs, line) if ours != theirs), line))
        return statement

    def _indent(self, nodes: Sequence[ast.stmt]) -> str:
        """The blanks that the statements of a block start with."""
        return self._blanks(nodes[0].lineno - 1)

    def _is_block(self, nodes: Sequence[ast.stmt]) -> bool:
        """Whether statements stand below the head of what they are in, not on its line."""
        first = self.first(nodes[0])
        above = self.lines[first - 1].rstrip(_ENDS)
        continued = above.endswith("\\") and "#" not in above
        return len(self._indent(nodes)) == nodes[0].col_offset and not continued

    def _is_elif(self, node: ast.stmt) -> bool:
        return isinstance(node, ast.If) and self.lines[node.lineno - 1].lstrip(_BLANKS).startswith("elif")

    def _groups(self, nodes: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
        """The statements of a block, those that share a line together."""
        groups: list[list[ast.stmt]] = []
        for node in nodes:
            end = groups[-1][-1].end_lineno or 0 if groups else 0
            if end and (node.lineno == end or (node.lineno == end + 1 and self.lines[end - 1].rstrip().endswith("\\"))):
                groups[-1].append(node)
            else:
                groups.append([node])
        return groups

    def spans(self, groups: Sequence[Sequence[ast.stmt]], top: bool) -> list[Span]:
        """The lines of each group of a block's; ``top``: the module's own, where what is above the first is its."""
        found: list[Span] = []
        for group in groups:
            first, last = self.first(group[0]), group[-1].end_lineno or 0
            start, above = first, found[-1].stop if found else first if top else 0
            while start > above and self._empty(start - 1):
                start -= 1
            found.append(Span(start, last + self._below(group[-1], last)))
        return found

    def _below(self, node: ast.stmt, line: int) -> int:
        """How many lines from ``line`` (from 0) on libcst counts to the last block in a statement: those without code
        down to the last one with the block's indentation."""
        if isinstance(node, ast.Match):
            indent = self._blanks(node.cases[0].pattern.lineno - 1)
        else:
            block = self._last_block(node)
            indent = self._indent(block) if block and self._is_block(block) else ""
        count, at = 0, line
        while indent and at < len(self.lines) and self._empty(at):
            at += 1
            if self.lines[at - 1].startswith(indent):
                count = at - line
        return count

    def _last_block(self, node: ast.AST) -> list[ast.stmt]:
        """The block that a compound statement ends with; none in others."""
        parts: list[list[ast.stmt]] = [part for name in BLOCKS if (part := getattr(node, name, None))]
        last = parts[-1] if parts else []
        deeper = last and (isinstance(last[-1], ast.ExceptHandler) or self._is_elif(last[0]))
        return self._last_block(last[-1]) if deeper else last

    def first(self, node: ast.stmt) -> int:
        """The line (from 0) that a statement starts on, with its decorators."""
        decorators = getattr(node, "decorator_list", ())
        line: int = min([node.lineno, *(each.lineno for each in decorators)]) - 1
        while decorators and line and not self.lines[line].lstrip(_BLANKS).startswith("@"):
            line -= 1
        return line

    def _blanks(self, line: int) -> str:
        text = self.lines[line]
        return text[: len(text) - len(text.lstrip(_BLANKS))]

    def _empty(self, line: int) -> bool:
        """Whether there is no code on a line (from 0)."""
        text = self.lines[line].strip(_BLANKS + _ENDS)
        return not text or text.startswith("#")


@dataclass(frozen=True)
class Statements(Sequence[cst.BaseStatement]):
    """The statements of a block, in which ``changes`` were made, each read when it is asked for."""

    lines: Lines
    groups: Sequence[Sequence[ast.stmt]]
    indent: str
    changes: Sequence[Change]

    @cached_property
    def spans(self) -> list[Span]:
        return self.lines.spans(self.groups, top=not self.indent)

    @cached_property
    def _read(self) -> dict[int, cst.BaseStatement]:
        return {}

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> cst.BaseStatement: ...
    @overload
    def __getitem__(self, index: slice) -> list[cst.BaseStatement]: ...
    def __getitem__(self, index: int | slice) -> cst.BaseStatement | list[cst.BaseStatement]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        span = self.spans[index]
        at = index % len(self)
        if at not in self._read:
            self._read[at] = self.lines.read(self._text(span), self.indent, span.start + 1)
        return self._read[at]

    def head(self, index: int) -> cst.BaseStatement:
        """`pass` with what is above a statement: that one may be long."""
        start, first = self.spans[index].start, self.lines.first(self.groups[index][0])
        line = f"{self.indent}pass{self.lines.end}"
        return self.lines.read(self.lines.text(start, first) + line, self.indent, start + 1)

    def _text(self, item: Span | cst.BaseStatement) -> str:
        """The text of a statement, or of what is put in its place."""
        if isinstance(item, Span):
            return self.lines.text(item.start, item.stop, self.changes)
        return self.lines.code([item], self.indent)

    def spliced(self, splices: Sequence[Splice]) -> list[Change]:
        """The changes with those of ``splices``, the last one first, made at this block."""
        items: list[Any] = list(self.spans)
        for splice in sorted(splices, key=lambda splice: -splice.start):
            items[splice.start : splice.stop] = splice.statements
        texts = [self._text(each) for each in items]
        nothing = "" if items or not self.indent else f"{self.indent}pass{self.lines.end}"
        start, stop = self.spans[0].start, self.spans[-1].stop
        outside = [change for change in self.changes if not start <= change.start < stop]
        return [*outside, Change(start, stop, "".join(texts) or nothing)]


@lru_cache(maxsize=4)  # before and after each of several fixes
def of(content: bytes, tree: ast.Module) -> Lines:
    """The lines of a script, of which ``tree`` is the `ast`. Raises UnicodeDecodeError for what Python lets pass in a
    comment."""
    script, encoding = decoded(content)
    lines = _split(script)
    whole = bool(lines) and lines[-1].endswith(tuple(_ENDS))
    first = lines[0] if lines else ""
    end = first[len(first.rstrip(_ENDS)) :] or "\n"
    if lines and not whole:
        lines[-1] += end
    return Lines(tree, lines, whole, encoding, end)


def _split(text: str) -> list[str]:
    """The lines of a text, as Python counts them."""
    return list(io.StringIO(text, newline=""))
