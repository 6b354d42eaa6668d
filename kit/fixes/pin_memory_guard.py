"""Pin memory only where there is an accelerator to pin it for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, guarded, requires, walk

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "pin memory only where there is an accelerator"
WHY = """\
`tensor.pin_memory()` asks the accelerator's driver for page-locked memory. Where there is no accelerator it raises
`RuntimeError: Found no NVIDIA driver on your system` (PyTorch's CPU build: `Cannot access accelerator device when none
is available`), and a run on the CPU ends at its first batch. Pinned memory only makes copies to an accelerator faster:
without one the tensor itself will do. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ("torch",)
GENERAL = True
TORCH = "2.6"

_GUARD = "torch.accelerator.is_available()"
_GUARDS = (_GUARD, "torch.cuda.is_available()")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The calls of `pin_memory()` whose result is used; in order where one runs only if there is an accelerator."""
    return [
        Site(node.lineno, any(guarded(node, above, guard) or _chosen(node, above, guard) for guard in _GUARDS))
        for node, above in walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "pin_memory"
        and not (node.args or node.keywords or isinstance(above[-1], ast.Expr))
    ]


def _chosen(node: ast.AST, above: Ancestors, condition: str) -> bool:
    """Whether ``node`` is in the first branch of an `… if condition else …`."""
    chain = (*above, node)
    return any(
        isinstance(outer, ast.IfExp) and outer.body is inner and requires(outer.test, condition)
        for outer, inner in pairwise(chain)
    )


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if any(map(block.guarded, _GUARDS)):
        return

    def choose(code: str) -> str | None:
        tensor = code.removesuffix(".pin_memory()")
        return None if tensor == code else f"{code} if {_GUARD} else {tensor}"

    for index, statement in enumerate(block.statements):
        chosen = block.with_expressions(statement, "Call", ".pin_memory()", choose)
        if chosen is not statement and not any(guard in block.module.code_for_node(statement) for guard in _GUARDS):
            yield Splice(index, index + 1, [chosen])
