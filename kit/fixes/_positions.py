"""Put text in place of parts of an expression, by where `ast` says that they are; the rest stays as it is written."""

from __future__ import annotations

import ast

Position = tuple[int, int]  # a line, from 1 on, and a column, in bytes
Change = tuple[Position, Position, str]  # from where, to where, and what goes there


def parsed(code: str) -> ast.expr:
    """The expression that some code is, which may go on over lines as inside parentheses."""
    return ast.parse(f"({code}\n)", mode="eval").body


def start(node: ast.expr | ast.keyword) -> Position:
    return node.lineno, node.col_offset


def end(node: ast.expr | ast.keyword, back: int = 0) -> Position:
    """Where a node ends, or ``back`` bytes before that."""
    return node.end_lineno or 0, (node.end_col_offset or 0) - back


def written(code: str, node: ast.expr) -> str:
    """How a part of code that `parsed` was given is written, in parentheses if it goes on over lines without any."""
    part = ast.get_source_segment(f"({code}\n)", node) or ""
    try:
        ast.parse(part)
    except SyntaxError:
        return f"({part})"
    return part


def changed(code: str, changes: list[Change]) -> str:
    """Code that `parsed` was given, with parts of it changed."""
    lines = f"({code}".encode().splitlines(keepends=True)
    for (line, column), (stop_line, stop), new in sorted(changes, reverse=True):
        kept = lines[line - 1][:column] + new.encode() + lines[stop_line - 1][stop:]
        lines[line - 1 : stop_line] = [kept]
    return b"".join(lines).decode()[1:]
