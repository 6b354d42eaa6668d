"""Let an exponential moving average move to devices whose tensors cannot take the place of a CPU tensor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "keep a moving average on any device"
WHY = """\
Assigning `tensor.data` moves a tensor between the CPU and CUDA. For a device that comes with a package of its own
PyTorch refuses it, unless that package does not (torch_npu): `RuntimeError: incompatible tensor type`. For the same
reason moving a module gives it new parameters, which the average, knowing its own by identity, takes for strangers:
"EMA parameter mapping failed". The average's tensors are replaced instead, and parameters that are all new are matched
by order."""
LINKS = ()
NEEDS = ("self",)

_MOVED = "self.shadow_params = [param.to(*args, **kwargs) for param in self.shadow_params]\n"
_ALIGN = "_align_shadow_params"
_IDS = "self._tracked_param_ids"
_KNOWN = f"""\
if len(params) == len(self.shadow_params) and not any(id(param) in {_IDS} for param in params):
    {_IDS} = [id(param) for param in params]  # the module was moved, and its parameters are new
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The method `to`, in order where it replaces the average's tensors; the one that matches parameters with them, in
    order where it learns new ones."""
    found = []
    for statement, above in statements(tree):
        name = above[-1].name if isinstance(above[-1], ast.FunctionDef) else ""
        if name == "to" and isinstance(statement, ast.For) and same(statement.iter, "self.shadow_params"):
            found.append(Site(statement.lineno, False))
        elif name == "to" and isinstance(statement, ast.Assign) and same(statement.targets[0], "self.shadow_params"):
            found.append(Site(statement.lineno, True))
        elif name == _ALIGN and isinstance(statement, ast.Assign) and same(statement.targets[0], "params"):
            after = above[-1].body  # type: ignore[attr-defined]
            learns = [inner for part in after if isinstance(part, ast.If) for inner in part.body]
            assigned = [inner for inner in learns if isinstance(inner, ast.Assign) and same(inner.targets[0], _IDS)]
            found.append(Site(statement.lineno, bool(assigned)))
    return found


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        if isinstance(node, ast.For) and block.owner() == "to":
            yield Splice.instead(index, block.parse(_MOVED))
        elif isinstance(node, ast.Assign) and block.owner() == _ALIGN:
            yield Splice.below(index, block.parse(_KNOWN))
