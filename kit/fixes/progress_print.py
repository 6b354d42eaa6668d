"""Print a line at the end of every training step, so that the terminal keeps up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last
from kit.fixes._roles.holders import accelerator, has_accelerator
from kit.fixes._roles.loops import limits

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "print a line after the step-limit break"
WHY = """\
The progress bar rewrites one line with carriage returns. On Ubuntu, and wherever the output goes through a pipe or a
log collector that waits for a newline, nothing is shown until the run ends (MindSpeed-MM: "the terminal may not update
in step"). `accelerator.print("")` ends the line once a step, on the main process only."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "a local matter: not for upstream"
EXAMPLE = """\
def main(args, accelerator, loader):
    for global_step, batch in enumerate(loader):
        if global_step >= args.max_train_steps:
            break
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The breaks at the step limit out of loops over batches (not that which heads a loop over epochs, where
    stop-at-max-steps puts one); in order where a print follows in the same block."""
    script = read(tree)
    found = []
    for each in limits(script):
        why = accelerator(script, each.statement)[1]
        printed = _printed(script, each.statement)
        other = "its `else` is taken in every step: put what is in it below" if each.statement.orelse else ""
        way = "print with the Accelerator that trains" if has_accelerator(script) else "print by hand on one process"
        reason = f"{why}: {way}, or skip the fix" if why else other
        found.append(Site(each.statement.lineno, printed, refuses="" if printed else reason))
    return found


def _printed(script: Script, statement: ast.stmt) -> bool:
    """Whether an accelerator prints right below a statement."""
    return any(
        isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) and last(each.value.func) == "print"
        for each in script.below(statement)[:1]
    )


def edits(block: Block, options: Options) -> Iterator[Splice]:
    places = {each.statement for each in limits(block.script)}
    for index, node in block.wanted(heads=True):
        if node in places:
            name, _ = accelerator(block.script, node)
            yield Splice.below(index, block.parse(f'{name}.print("")\n'))
