"""Leave the loop over epochs, not only the one over batches, when the step limit is reached."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import is_step_limit, over_epochs, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "stop at max_train_steps after a resume, too"
WHY = """\
The step-limit `break` leaves the loop over batches only. A run resumed in the middle of an epoch starts that epoch from
its first batch, reaches the limit one epoch early, and then goes on with the next epoch: one step too many for each
epoch left, and a checkpoint past the limit (4 steps and a checkpoint-4 where 3 were asked for)."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2636",)
NEEDS = ("global_step", "args")
GENERAL = True

_CODE = "if global_step >= args.max_train_steps:\n    break\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops over epochs around a loop over batches with a step-limit break."""
    return [
        Site(statement.lineno, is_step_limit(statement.body[0]))  # type: ignore[attr-defined]
        for statement, _ in statements(tree)
        if over_epochs(statement)
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    loop = block.loop()
    if loop and not loop.orelse and block.holds_batches() and not block.is_step_limit(block.statements[0]):
        yield Splice(0, 0, block.parse(_CODE))
