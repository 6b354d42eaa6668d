"""Empty the memory cache of whatever accelerator there is, not only CUDA's."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, calls, guarded, same, statements

if TYPE_CHECKING:
    import libcst as cst

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
            done = any(same(other.test, _IS_THERE) and _empties(other.body, _ANY) for other in _branches(statement))
            found.append(Site(statement.lineno, done))
        elif calls(statement, _CUDA) and not guarded(statement, above, _IS_CUDA):
            found.append(Site(statement.lineno, False))
        elif isinstance(statement, ast.If) and same(statement.test, _IS_THERE) and not _of_cuda(statement, above):
            found += [Site(statement.lineno, True)] * _empties(statement.body, _ANY)
    return found


def _empties(body: list[ast.stmt], name: str) -> bool:
    return any(calls(statement, name) for statement in body)


def _branches(statement: ast.stmt) -> Iterator[ast.If]:
    """An `if` and its `elif`s."""
    while isinstance(statement, ast.If):
        yield statement
        statement = statement.orelse[0] if statement.orelse else ast.Pass()


def _of_cuda(branch: ast.If, above: Ancestors) -> bool:
    """Whether an `if` is an `elif` of one that asks for CUDA."""
    outer = [node for node in above if isinstance(node, ast.If) and same(node.test, _IS_CUDA)]
    return any(branch in _branches(node) for node in outer)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if block.calls(statement, _CUDA) and not block.guarded(_IS_CUDA):
            first = block.parse(_EMPTY)[0].with_changes(leading_lines=statement.leading_lines)  # type: ignore[attr-defined]
            yield Splice(index, index + 1, [first])
        tests, other = block.branches(statement)
        body = _body_for_cuda(block, statement)
        # an `else` would no longer be for that accelerator
        if _IS_THERE not in tests and not other and any(block.calls(inner, _CUDA) for inner in body):
            before = [inner for inner in body if block.calls(inner, "gc.collect")]
            branch = block.parse(_EMPTY)[0]
            branch = block.with_body(branch, [*before, *block.body(branch)])
            yield Splice(index, index + 1, [block.with_elif(statement, branch)])


def _body_for_cuda(block: Block, statement: cst.CSTNode) -> Sequence[cst.BaseStatement]:
    """What an `if` or one of its `elif`s does where there is CUDA."""
    while (test := block.test(statement)) and test != _IS_CUDA:
        statement = statement.orelse  # type: ignore[attr-defined]
    return block.body(statement) if test else ()
