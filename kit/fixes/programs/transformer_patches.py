"""Call the overlay's `apply_patches()` before the training script builds its model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import calls, same

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "import apply_patches() and call it above `if is_wandb_available():`"
WHY = """\
transformer_patches.py, from the overlay, replaces attention, RMSNorm and rotary embedding of the transformer, and the
dispatch to experts where it has such, by versions made for the device. Without the call the upstream modules stay in
place: the run is right but slow, and on an NPU none of the fused kernels is used. It comes after the imports and before
any model is built."""
CHANGES = (
    "what it replaces rounds in another order: measured on a tiny HiDream over 8 steps, "
    "losses differ by at most 1e-7 in float32 and 6e-5 in bfloat16, relative"
)
WITHIN = 1e-6  # relative bound on the losses in float32
LINKS = ()
NEEDS = ("is_wandb_available",)

_ANCHOR = "is_wandb_available()"
_CODE = "from transformer_patches import apply_patches\napply_patches()\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    found = []
    imported = called = False
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "transformer_patches":
            imported = imported or any(alias.name == "apply_patches" for alias in statement.names)
        called = called or (imported and calls(statement, "apply_patches"))
        if isinstance(statement, ast.If) and same(statement.test, _ANCHOR):
            found.append(Site(statement.lineno, called))
    return found


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if any(calls(node, "apply_patches") for _, node in block.simple()):
        return
    for index, _ in block.wanted(heads=True) if block.at_top else ():
        statement = block.statements[index]
        blank, comments = block.leading(statement)
        first, *rest = block.parse(_CODE)
        anchor = statement.with_changes(leading_lines=[*block.blank_lines(1), *comments])
        yield Splice.instead(index, [first.with_changes(leading_lines=blank), *rest, anchor])
