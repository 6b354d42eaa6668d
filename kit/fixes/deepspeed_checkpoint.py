"""Let every DeepSpeed rank take part in saving a checkpoint."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice, _deepspeed
from kit.fixes._gate import gates
from kit.fixes._hook_writes import hook_writes
from kit.fixes._roles import read
from kit.fixes._unguarded import unguarded_saves

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "save checkpoints on every DeepSpeed rank"
WHY = """\
Under DeepSpeed `accelerator.save_state()` is a collective operation: each rank writes its own shard and then waits for
the others. Called on the main process alone it waits for ever, and the run hangs at its first checkpoint."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/2606",
    "https://github.com/huggingface/accelerate/issues/1171",
    "https://github.com/huggingface/diffusers/pull/11737",
)
NEEDS = ()
GENERAL = True
BRINGS = ("checkpoint-rotation", "weights-pop")
UPSTREAM = "taken script by script (#10378, #11737, #12240; FSDP #12860), lacking in the others; #2606 is open"
EXAMPLE = """\
from accelerate import Accelerator


def main(args, accelerator):
    if accelerator.is_main_process:
        accelerator.save_state("checkpoint-1")
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `if`s around each save of the state whose test asks for the main process, each counted once; in order where
    the test lets DeepSpeed in and names it by an imported DistributedType."""
    script = read(tree)
    named = _deepspeed.named(script, options)
    _, hook = hook_writes(script)
    return [
        Site(
            gate.statement.lineno,
            gate.open and (named or not _deepspeed.names(gate.statement)),
            refuses=gate.refuses or hook * (not gate.open),
        )
        for gate in gates(script)
    ]


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    for line, how in unguarded_saves(read(tree)):
        yield Sign(line, f"a checkpoint {how}")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    found = {gate.statement: gate for gate in gates(block.script)}
    wanted = [gate for gate in found.values() if gate.statement.lineno in block.todo and not gate.open]
    if block.todo:
        yield from _deepspeed.importing(block, options)
    for index, node in block.wanted(heads=True):
        gate = found.get(node)  # type: ignore[call-overload]
        if gate and not gate.open:
            test = _deepspeed.asked(block.script, gate.accelerator, options)
            yield Splice.instead(index, [block.with_operand(block.statements[index], gate.main, test)])
        elif gate:  # open, but the name is not imported
            yield Splice.instead(index, [block.statements[index]])
    works = [dict.fromkeys(gate.work, gate.main) for gate in wanted]
    for work in [*works, hook_writes(block.script)[0]] if wanted else ():
        yield from _guarded(block, work)


def _guarded(block: Block, work: dict[ast.stmt, str]) -> Iterator[Splice]:
    """What one process alone should do, under its test for that: an `if` in its own, other statements that follow on
    one another in one together."""
    rows = itertools.groupby(enumerate(block.nodes), lambda each: each[1] in work)
    for row in [list(row) for mine, row in rows if mine]:
        (start, node), *more = row
        main = work[node]  # type: ignore[index]
        body = [block.statements[at] for at, _ in row]
        alone = isinstance(node, ast.If) and not node.orelse and not more
        guarded = block.narrowed(block.statements[start], main) if alone else block.under(f"if {main}:", body)
        yield Splice(start, start + len(row), [guarded], counted=False)
