"""Print a line at the end of every training step, so that the terminal keeps up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Loop, body_after, calls, is_step_limit, over_epochs, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "print a line after the step-limit break"
WHY = """\
The progress bar rewrites one line with carriage returns. On Ubuntu, and wherever the output goes through a pipe or a
log collector that waits for a newline, nothing is shown until the run ends (the seeds' "the terminal may not update in
step"). `accelerator.print("")` ends the line once a step, on the main process only."""
LINKS = ()
NEEDS = ("accelerator",)
GENERAL = True


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The step-limit breaks of loops over batches (not that of a loop over epochs, where stop-at-max-steps puts one);
    in order where a print follows in the same block."""
    found = []
    for statement, above in statements(tree):
        loop = next((node for node in reversed(above) if isinstance(node, Loop)), None)
        if is_step_limit(statement) and loop and not over_epochs(loop):
            after = body_after(statement, above)
            found.append(Site(statement.lineno, bool(after) and calls(after[0], "accelerator.print")))
    return found


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if not block.loop() or block.holds_batches():
        return
    for index, statement in enumerate(block.statements):
        following = block.statements[index + 1 : index + 2]
        printed = bool(following) and block.calls(following[0], "accelerator.print")
        if block.is_step_limit(statement) and not printed:
            yield Splice(index + 1, index + 1, block.parse('accelerator.print("")\n'))
