"""Pop from the list of weights only where there is one to pop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import guarded, has_call, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "guard weights.pop() against an empty list"
WHY = """\
accelerate hands the save hook an empty list of weights under DeepSpeed, because DeepSpeed saves the model itself. An
unguarded `weights.pop()` then ends the run at its first checkpoint with `IndexError: pop from empty list`. Opening the
checkpoint to every DeepSpeed rank is not enough without this."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2606",)
NEEDS = ("weights",)
GENERAL = True

_GUARDS = ("weights", "len(weights) > 0")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    return [
        Site(statement.lineno, any(guarded(statement, above, guard) for guard in _GUARDS))
        for statement, above in statements(tree)
        if has_call(statement, "weights.pop")
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if block.calls(statement, "weights.pop") and not any(map(block.guarded, _GUARDS)):
            guard = block.parse("if weights:\n    pass\n")[0]
            leading = statement.leading_lines  # type: ignore[attr-defined]
            body = [statement.with_changes(leading_lines=())]
            yield Splice(index, index + 1, [block.with_body(guard.with_changes(leading_lines=leading), body)])
