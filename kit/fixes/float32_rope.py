"""Compute rotary embeddings in float32 on devices that have no float64."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, same, walk

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
_OTHERS = 'in ("npu", "tpu")'


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The choices between float32 and float64 by what machine it is, or by whether a tensor is on a Mac's GPU; in order
    where an NPU gets float32 too."""
    return [
        Site(node.lineno, "npu" in ast.unparse(node.test))
        for node, above in walk(tree)
        if isinstance(node, ast.IfExp) and (_better(node, above) or _knows_npu(node))
    ]


def _chooses(node: ast.IfExp) -> bool:
    return same(node.body, "torch.float32") and same(node.orelse, "torch.float64")


def _knows_npu(node: ast.IfExp) -> bool:
    return _chooses(node) and "mps" in ast.unparse(node.test) and "npu" in ast.unparse(node.test)


def _better(node: ast.IfExp, above: Ancestors) -> str:
    """The test that also asks for an NPU; "" where it is another choice, or does so."""
    if not _chooses(node):
        return ""
    if same(node.test, _MAC):
        return _WITHOUT
    function = next((each for each in reversed(above) if isinstance(each, ast.FunctionDef)), None)
    kind = _kind_asked(function, node.test.id) if function and isinstance(node.test, ast.Name) else ""
    return f"{ast.unparse(node.test)} or {kind} {_OTHERS}" if kind else ""


def _kind_asked(function: ast.FunctionDef, name: str) -> str:
    """`x.device.type`, where all that a function assigns to ``name`` is whether that is "mps"."""
    values = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and any(same(target, name) for target in node.targets)
    ]
    compared = values[0] if len(values) == 1 else None
    mac = isinstance(compared, ast.Compare) and isinstance(compared.ops[0], ast.Eq) and len(compared.ops) == 1
    if not mac or not same(compared.comparators[0], "'mps'"):  # type: ignore[union-attr]
        return ""
    kind = ast.unparse(compared.left)  # type: ignore[union-attr]
    return kind if kind.endswith(".device.type") else ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):

        def choose(code: str) -> str | None:
            node = ast.parse(f"({code})", mode="eval").body
            function = block.function("")
            better = _better(node, (function,) if function else ()) if isinstance(node, ast.IfExp) else ""
            return f"torch.float32 if {better} else torch.float64" if better else None

        chosen = block.with_expressions(statement, "IfExp", "torch.float64", choose)
        if chosen is not statement:
            yield Splice(index, index + 1, [chosen])
