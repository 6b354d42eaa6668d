"""Pop from the list of weights only where there is one to pop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import calls, guarded, statements

if TYPE_CHECKING:
    from kit.codemod import Block

TITLE = "guard weights.pop() against an empty list"
WHY = """\
accelerate hands the save hook an empty list of weights under DeepSpeed, because DeepSpeed saves the model itself. An
unguarded `weights.pop()` then ends the run at its first checkpoint with `IndexError: pop from empty list`. Opening the
checkpoint to every DeepSpeed rank is not enough without this."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2606",)
NEEDS = ("weights",)


def sites(tree: ast.Module, options: Options) -> list[Site]:
    return [
        Site(statement.lineno, guarded(statement, above, "weights") or guarded(statement, above, "len(weights) > 0"))
        for statement, above in statements(tree)
        if calls(statement, "weights.pop")
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if block.guarded("weights") or block.guarded("len(weights) > 0"):
        return
    for index, statement in enumerate(block.statements):
        if block.calls(statement, "weights.pop"):
            guard = block.parse("if weights:\n    pass\n")[0]
            leading = statement.leading_lines  # type: ignore[attr-defined]
            body = [statement.with_changes(leading_lines=())]
            yield Splice(index, index + 1, [block.with_body(guard.with_changes(leading_lines=leading), body)])
