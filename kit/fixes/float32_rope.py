"""Compute rotary embeddings in float32 on devices that have no float64."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, walk

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "rotary embedding in float32 where the device has no float64"
WHY = """\
The angles of a rotary embedding are computed in float64, unless the machine is a Mac. An Ascend NPU has no float64
arithmetic either, nor has a Sophgo TPU: the first forward pass ends there. The result is float32 in any case, and
on Macs upstream computes it so throughout. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ("torch",)
GENERAL = True
TORCH = "2.6"

_MAC = "torch.backends.mps.is_available()"
_WITHOUT = 'str(torch.accelerator.current_accelerator()) in ("mps", "npu", "tpu")'
_OLD = f"torch.float32 if {_MAC} else torch.float64"
_NEW = f"torch.float32 if {_WITHOUT} else torch.float64"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The choices between float32 and float64 by what machine it is; in order where an NPU gets float32 too. (A choice
    by the tensor's own device, as diffusers makes it, is another construct.)"""
    return [
        Site(node.lineno, same(node.test, _WITHOUT))
        for node, _ in walk(tree)
        if isinstance(node, ast.IfExp)
        and same(node.body, "torch.float32")
        and same(node.orelse, "torch.float64")
        and (same(node.test, _MAC) or same(node.test, _WITHOUT))
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        chosen = block.with_expressions(
            statement, "IfExp", _MAC, lambda code: _NEW if same(ast.parse(code, mode="eval").body, _OLD) else None
        )
        if chosen is not statement:
            yield Splice(index, index + 1, [chosen])
