"""Quantise on whatever accelerator there is, not only on CUDA."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import requires, same, statements

if TYPE_CHECKING:
    import libcst as cst

    from kit.fixes._block import Block

TITLE = "quantise on any accelerator"
WHY = """\
With `quantize_via=accelerator` weights are to be quantised on the accelerator, but only CUDA is looked for: on an NPU
or a Mac the choice falls through, the device stays unset, and 17 billion weights are quantised where they happen to
lie. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ("torch", "quantize_via")

_CUDA = "torch.cuda.is_available()"
_ANY = "torch.accelerator.is_available()"
_DEVICE = "quantization_device"
_TYPE = "torch.accelerator.current_accelerator().type"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The branches that set `quantization_device` where there is CUDA, or any accelerator."""
    found = []
    for statement, _ in statements(tree):
        if isinstance(statement, ast.If) and (requires(statement.test, _CUDA) or requires(statement.test, _ANY)):
            chosen = [inner.value for inner in statement.body if isinstance(inner, ast.Assign) and _sets(inner)]
            found += [Site(statement.lineno, requires(statement.test, _ANY) and same(each, _TYPE)) for each in chosen]
    return found


def _sets(statement: ast.Assign) -> bool:
    return any(same(target, _DEVICE) for target in statement.targets)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    owner = block.above[-1]
    if isinstance(owner, ast.If) and requires(owner.test, _CUDA) and not block.in_else():
        for index, node in block.simple():
            if isinstance(node, ast.Assign) and _sets(node):
                line = block.statement(f"{_DEVICE} = {_TYPE}\n")
                comments = {"leading_lines": block.statements[index].leading_lines}  # type: ignore[attr-defined]
                yield Splice.instead(index, [line.with_changes(**comments)], counted=False)
    for index, node in block.simple():
        chosen = iter(_branches(node))

        def test(branch: cst.If) -> str | None:
            each = next(chosen)  # noqa: B023 - asked for at once, branch after branch, the last one first
            chooses = any(isinstance(inner, ast.Assign) and _sets(inner) for inner in each.body)
            written = block.module.code_for_node(branch.test)
            return written.replace(_CUDA, _ANY) if chooses and requires(each.test, _CUDA) else None

        changed, count = block.with_tests(block.statements[index], test)
        if count:
            yield Splice.instead(index, [changed])


def _branches(node: ast.AST) -> Iterator[ast.If]:
    """An `if` and its `elif`s."""
    while isinstance(node, ast.If):
        yield node
        node = node.orelse[0] if node.orelse else ast.Pass()
