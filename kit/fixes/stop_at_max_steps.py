"""Leave the loop over epochs, not only the one over batches, when the step limit is reached."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import is_step_limit, statements

if TYPE_CHECKING:
    from kit.codemod import Block

TITLE = "stop at max_train_steps after a resume, too"
WHY = """\
The step-limit `break` leaves the loop over batches only. A run resumed in the middle of an epoch starts that epoch from
its first batch, reaches the limit one epoch early, and then goes on with the next epoch: one step too many for each
epoch left, and a checkpoint past the limit (4 steps and a checkpoint-4 where 3 were asked for)."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2636",)
NEEDS = ("global_step", "args")

_CODE = "if global_step >= args.max_train_steps:\n    break\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops over epochs around a loop over batches with a step-limit break."""
    return [
        Site(statement.lineno, is_step_limit(statement.body[0]))
        for statement, _ in statements(tree)
        if isinstance(statement, ast.For) and any(_has_limit(inner) for inner in statement.body)
    ]


def _has_limit(loop: ast.AST) -> bool:
    return isinstance(loop, ast.For) and any(is_step_limit(statement) for statement in loop.body)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if not block.in_loop(holding_loops=True) or block.is_step_limit(block.statements[0]):
        return
    if any(block.is_step_limit(inner) for loop in block.statements for inner in block.body(loop)):
        yield Splice(0, 0, block.parse(_CODE))
