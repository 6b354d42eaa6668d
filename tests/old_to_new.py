"""A fix for the tests of codemods: `old()` becomes `new()`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kit import codemod
from kit.fixes import Options, Outcome, Site, Splice
from kit.fixes._block import Block

HINT = ": bind it above, or skip the fix"
LACKS = (
    "what it would write does not have the effect it wants there: make the change by hand (`kit fix --explain` shows "
    "one), or skip the fix"
)


def _sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements `old()` and `new()`, wherever they are."""
    found = [
        Site(node.lineno, ast.unparse(node) == "new()")
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and ast.unparse(node) in ("old()", "new()")
    ]
    return sorted(found, key=lambda site: site.line)


def _edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, _ in block.wanted():
        (new,) = block.parse("new()\n")
        above = block.statements[index].leading_lines  # type: ignore[attr-defined]
        yield Splice(index, index + 1, [new.with_changes(leading_lines=above)])


def make_fix(**changes: Any) -> Any:
    """A fix that turns `old()` into `new()`."""
    parts = {"TITLE": "new", "WHY": "", "LINKS": (), "NEEDS": (), "sites": _sites, "edits": _edits}
    return SimpleNamespace(**(parts | changes))


def run(text: str, count: int = 1, **changes: Any) -> codemod.Result:
    return codemod.run(make_fix(**changes), text.encode(), "pkg/train.py", count)


def applied(content: bytes, places: int = 1) -> codemod.Result:
    return codemod.Result(Outcome.applied, content, places=places)
