"""Place the LoRA layers on the device before the optimizer takes their parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "place the LoRA layers on the device where they are made"
WHY = """\
The layers are made on the CPU, the optimizer takes their parameters, and `accelerator.prepare()` moves the layers. On a
device that a package registered with torch (PrivateUse1), torch 2.1 puts new parameters in their place, and the
optimizer goes on with the old ones on the CPU: the run ends with exit status 0, finite losses, and every `up` weight of
the LoRA exactly zero. CUDA keeps the parameters it moves. Layers placed first give the optimizer the right ones."""
LINKS = ()
NEEDS = ("accelerator",)
GENERAL = True

_MAKER = "AttnProcsLayers"
_PLACE = "to(accelerator.device)"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The assignments of new LoRA layers, placed on the device in the same breath or not."""
    found = []
    for statement, _ in statements(tree):
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if value and _made(value):
            found.append(Site(statement.lineno, False))
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and _made(value.func.value):
            found.append(Site(statement.lineno, ast.unparse(value).endswith(f".{_PLACE}")))
    return found


def _made(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and same(value.func, _MAKER)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if value := block.assigned_call(statement, _MAKER):
            yield Splice(index, index + 1, [block.with_method(statement, value, _PLACE)])
