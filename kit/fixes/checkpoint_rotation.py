"""Remove old checkpoints on the main process only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import guarded, requires, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "rotate checkpoints on the main process only"
WHY = """\
Where every DeepSpeed rank enters the checkpoint block, each of them also removes the checkpoints beyond
--checkpoints_total_limit. They race in shutil.rmtree: one deletes a file another has just listed, and the run ends with
`FileNotFoundError: 'scheduler.bin'`. The same race was reported for train_unconditional.py."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/4977",
    "https://github.com/huggingface/diffusers/issues/5338",
    "https://github.com/huggingface/diffusers/issues/2606",
)
NEEDS = ("accelerator", "args")
GENERAL = True

_MAIN = "accelerator.is_main_process"
_LIMITS = ("args.checkpoints_total_limit is not None", "args.checkpoints_total_limit")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    return [
        Site(statement.lineno, requires(statement.test, _MAIN) or guarded(statement, above, _MAIN))
        for statement, above in statements(tree)
        if isinstance(statement, ast.If) and any(requires(statement.test, limit) for limit in _LIMITS)
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if not any(block.requires(statement, limit) for limit in _LIMITS) or block.requires(statement, _MAIN):
            continue
        # an `else` would be taken by all the other processes
        if not statement.orelse and not block.guarded(_MAIN):  # type: ignore[attr-defined]
            yield Splice(index, index + 1, [block.narrowed(statement, _MAIN)])
