"""Leave the loop over epochs, not only the one over batches, when the step limit is reached."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import text
from kit.fixes._roles import Script, read
from kit.fixes._roles.epochs import last_epoch
from kit.fixes._roles.loops import Limit, Loop, headed, limits, over_epochs, unknown_limits

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "stop at max_train_steps after a resume, too"
WHY = """\
The step-limit `break` leaves the loop over batches only. A run resumed in the middle of an epoch starts that epoch from
its first batch, reaches the limit one epoch early, and then goes on with the next epoch: one step too many for each
epoch left, and a checkpoint past the limit (4 steps and a checkpoint-4 where 3 were asked for)."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2636",)
NEEDS = ()
GENERAL = True
UPSTREAM = "#2636 was closed; 93 scripts; sd-scripts #1406 and #1999 are open"
EXAMPLE = """\
def main(args, loader):
    global_step = 0
    for epoch in range(args.num_train_epochs):
        for batch in loader:
            global_step += 1
            if global_step >= args.max_train_steps:
                break
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops over epochs around a loop over batches with a break at the step limit; in order where they begin with
    the same one."""
    found = []
    for loop, limit in read(tree).once(_loops).items():
        done = headed(loop, limit)
        needs = (limit.step, limit.limit.rpartition(".")[0] or limit.limit)
        found.append(Site(loop.lineno, done, needs, "" if done else _refuses(read(tree), loop, limit)))
    return found


def _refuses(script: Script, loop: Loop, limit: Limit) -> str:
    """Why a break at the top of a loop would do more than end it earlier; "" where it doesn't."""
    if loop.orelse:
        return "a break would pass by the `else` of the loop: move that below the loop"
    if limit.besides:
        return f"the limit is looked at where `{limit.besides}` only: ask it and the limit in one `if`, or skip the fix"
    if asked := last_epoch(script, loop):
        way = "move that below the loop" if asked.lineno <= loop.end_lineno else "do that without asking"  # type: ignore[operator]
        return f"a break would pass by what is done where `{text(asked)}` (line {asked.lineno}): {way}"
    return ""


def _loops(script: Script, why: str = "") -> dict[Loop, Limit]:
    """The loops around those over batches, each with its limit: those over epochs, or those that are not, as ``why``
    says."""
    return {each.around: each for each in limits(script) if each.around and over_epochs(script, each) == why}


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    for loop in [*_loops(read(tree), "something else"), *unknown_limits(read(tree))]:
        yield Sign(loop.lineno, "a loop over epochs that goes on after the limit")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    limit = block.script.once(_loops).get(block.above[-1])  # type: ignore[call-overload]
    if limit and limit.around.lineno in block.todo:
        yield Splice(0, 0, block.parse(f"if {limit.test}:\n    break\n"))
