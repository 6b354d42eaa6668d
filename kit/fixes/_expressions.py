"""Replace expressions of libcst's tree: see `Block.with_expressions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libcst as cst


def parenthesised(node: Any) -> Any:
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def _parsed(code: str) -> Any:
    """An expression of libcst's that may go on over lines, as inside parentheses."""
    node: Any = cst.parse_expression(f"({code})")
    if not node.lpar:  # it is a generator, whose parentheses these are
        return node
    return node.with_changes(lpar=node.lpar[1:], rpar=node.rpar[:-1])


class Expressions(cst.CSTTransformer):
    """See `Block.with_expressions`."""

    def __init__(self, module: cst.Module, kind: str, word: str, change: Callable[[str], str | None]) -> None:
        super().__init__()
        self.module, self.kind, self.word, self.change = module, kind, word, change
        self.changed = 0
        self.made: list[cst.CSTNode] = []  # the replacements

    def on_leave(self, original: cst.CSTNode, updated: cst.CSTNode) -> Any:
        if type(updated).__name__ == self.kind and self.word in (code := self.module.code_for_node(updated)):
            new = self.change(code)
            if new is not None:
                try:
                    node = _parsed(new)
                except cst.ParserSyntaxError:
                    return updated  # nothing is made, which the fix says
                self.changed += 1
                operand = isinstance(node, (cst.IfExp, cst.BooleanOperation)) and not node.lpar
                if operand:
                    node = parenthesised(node)
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
