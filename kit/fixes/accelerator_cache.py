"""Empty the memory cache of whatever accelerator there is, not only CUDA's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import calls, guarded, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "empty the memory cache of any accelerator"
WHY = """\
`torch.cuda.empty_cache()` does nothing on an NPU: what the text encoders and the VAE used stays reserved when the
transformer is loaded, and a card on which the run would fit is out of memory. The device module of whatever
accelerator there is has the same function. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ("torch",)
GENERAL = True
TORCH = "2.6"

_CUDA = "torch.cuda.empty_cache"
_IS_CUDA = "torch.cuda.is_available()"
_IS_THERE = "torch.accelerator.is_available()"
_ANY = "torch.get_device_module().empty_cache"
_EMPTY = f"if {_IS_THERE}:\n    {_ANY}()\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The places where CUDA's cache is emptied or any accelerator's; in order where any accelerator's is: by the call
    itself, or in the `elif` of the branch for CUDA."""
    found = []
    for statement, above in statements(tree):
        if isinstance(statement, ast.If) and same(statement.test, _IS_CUDA) and _empties(statement.body, _CUDA):
            other = statement.orelse[0] if statement.orelse else None
            done = isinstance(other, ast.If) and same(other.test, _IS_THERE) and _empties(other.body, _ANY)
            found.append(Site(statement.lineno, done))
        elif calls(statement, _CUDA) and not guarded(statement, above, _IS_CUDA):
            found.append(Site(statement.lineno, False))
        elif isinstance(statement, ast.If) and same(statement.test, _IS_THERE) and not _of_cuda(above[-1]):
            found += [Site(statement.lineno, True)] * _empties(statement.body, _ANY)
    return found


def _empties(body: list[ast.stmt], name: str) -> bool:
    return any(calls(statement, name) for statement in body)


def _of_cuda(parent: ast.AST) -> bool:
    return isinstance(parent, ast.If) and same(parent.test, _IS_CUDA)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if block.calls(statement, _CUDA) and not block.guarded(_IS_CUDA):
            first = block.parse(_EMPTY)[0].with_changes(leading_lines=statement.leading_lines)  # type: ignore[attr-defined]
            yield Splice(index, index + 1, [first])
        cuda = block.test(statement) == _IS_CUDA and not statement.orelse  # type: ignore[attr-defined]
        if cuda and any(block.calls(inner, _CUDA) for inner in block.body(statement)):
            before = [inner for inner in block.body(statement) if block.calls(inner, "gc.collect")]
            other = block.parse(_EMPTY)[0]
            other = block.with_body(other, [*before, *block.body(other)])
            yield Splice(index, index + 1, [statement.with_changes(orelse=other)])
