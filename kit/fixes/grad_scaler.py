"""Take the gradient scaler of the device that trains, not always CUDA's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import guarded, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "take a PrivateUse1 device's own GradScaler"
WHY = """\
accelerate scales fp16 gradients with `torch.cuda.amp.GradScaler`, which without CUDA warns and switches itself off:
small gradients underflow to zero, and an overflow goes into the weights. A device that a package registered with torch
(PrivateUse1: tpu, npu, …) has its own, at torch.<device>.amp.GradScaler. The device's name leads to it: to import the
package here would make its name local to the whole function, and the guard above fail with UnboundLocalError."""
LINKS = ()
NEEDS = ("self", "torch", "kwargs")
GENERAL = True

_CUDA = "torch.cuda.amp.GradScaler"
_CUDA_ALONE = "torch.cuda.is_available()"
_DEVICE = "self.device.type == torch._C._get_privateuse1_backend_name()"
_OWN = "getattr(torch, self.device.type).amp.GradScaler"
_CODE = f"if {_DEVICE}:\n    self.scaler = {_OWN}(**kwargs)\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The assignments of CUDA's scaler that are not for machines with CUDA alone; in order below a branch for devices
    of their own."""
    found = []
    for statement, above in statements(tree):
        if _assigns(statement, _CUDA) and not guarded(statement, above, _CUDA_ALONE):
            found.append(Site(statement.lineno, _below_own(statement, above[-1])))
    return found


def _below_own(statement: ast.stmt, gate: ast.AST) -> bool:
    """Whether ``statement`` is what an `if` does that takes the device's own scaler first."""
    mine = isinstance(gate, ast.If) and same(gate.test, _DEVICE) and _assigns(gate.body[0], _OWN)
    return mine and statement in gate.orelse  # type: ignore[attr-defined]


def _assigns(statement: ast.stmt, maker: str) -> bool:
    """`self.scaler = maker(**kwargs)`."""
    return isinstance(statement, ast.Assign) and ast.unparse(statement) == f"self.scaler = {maker}(**kwargs)"


def edits(block: Block, options: Options) -> Iterator[Splice]:
    """The `else` with that assignment gets an `elif` above it."""
    for index, statement in enumerate(block.statements):
        tests, other = block.branches(statement)
        body = block.body(other) if other else ()
        if body and block.assigned_call(body[0], _CUDA) and _DEVICE not in tests and not block.guarded(_CUDA_ALONE):
            yield Splice(index, index + 1, [block.with_elif(statement, block.parse(_CODE)[0])])
