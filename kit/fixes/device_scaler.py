"""Scale the gradients of a training loop of one's own on the device that trains, not always on CUDA."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "take the gradient scaler of the device that trains"
WHY = """\
`torch.cuda.amp.GradScaler` switches itself off where there is no CUDA, with a warning: small fp16 gradients underflow
to zero, and an overflow goes into the weights. `torch.amp.GradScaler` is told the kind of device. (torch 2.3 or newer)
A scaler inside accelerate is another construct: grad-scaler."""
LINKS = ()
NEEDS = ("torch", "device")
GENERAL = True
TORCH = "2.3"

_CUDA = "torch.cuda.amp"
_SCALER = "GradScaler"
_NEW = "torch.amp.GradScaler"
_TYPE = "torch.device(device).type"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The lines that make a scaler and give it a name; in order where it is told the kind of device."""
    cudas = [f"{_CUDA}.{_SCALER}", *[_SCALER] * _imports_cudas(tree)]
    found = []
    for statement, _ in statements(tree):
        names = isinstance(statement, ast.Assign) and [type(each) for each in statement.targets] == [ast.Name]
        call = statement.value if names and isinstance(statement, ast.Assign) else None
        if isinstance(call, ast.Call) and any(same(call.func, name) for name in cudas):
            found.append(Site(statement.lineno, False))
        elif isinstance(call, ast.Call) and same(call.func, _NEW):
            found.append(Site(statement.lineno, True))
    return found


def _imports_cudas(tree: ast.AST) -> bool:
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == _CUDA]
    return any((each.name, each.asname) == (_SCALER, None) for line in lines for each in line.names)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        call = block.assigned_call(statement, f"{_CUDA}.{_SCALER}") or block.assigned_call(statement, _SCALER)
        if call and block.named(statement):
            yield Splice(index, index + 1, [block.with_call(statement, call, f"{_NEW}({_TYPE})")])
