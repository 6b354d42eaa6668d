"""Let every DeepSpeed rank take part in saving a checkpoint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import has_call, imports, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "save checkpoints on every DeepSpeed rank"
WHY = """\
Under DeepSpeed `accelerator.save_state()` is a collective operation: each rank writes its own shard and then waits for
the others. Called on the main process alone it waits for ever, and the run hangs at its first checkpoint."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/2606",
    "https://github.com/huggingface/accelerate/issues/1171",
    "https://github.com/huggingface/diffusers/pull/11737",
)
NEEDS = ("accelerator",)
GENERAL = True
BRINGS = ("checkpoint-rotation", "weights-pop")

_MAIN = "accelerator.is_main_process"
_DEEPSPEED = "accelerator.distributed_type == DistributedType.DEEPSPEED"
_OPEN = f"{_MAIN} or {_DEEPSPEED}"
_NAME = "DistributedType"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `if`s around each save_state() whose test speaks of the main process, each counted once; in order where the
    test lets DeepSpeed in and names it by an imported DistributedType."""
    imported = imports(tree, _NAME)
    found: dict[int, Site] = {}
    for statement, above in statements(tree):
        if has_call(statement, "accelerator.save_state"):
            gates = [node for node in above if isinstance(node, ast.If) and _of_main(node.test)]
            found |= {gate.lineno: Site(gate.lineno, imported and _is_open(gate.test)) for gate in gates}
    return list(found.values())


def _of_main(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr.endswith("main_process") for node in ast.walk(test))


def _is_open(test: ast.expr) -> bool:
    return any(same(choice, _DEEPSPEED) for choice in _choices(test))


def _choices(test: ast.expr) -> list[ast.expr]:
    """`a or b` as [a, b]; anything else as itself."""
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    yield from block.importing(_NAME, options.get("accelerate", "accelerate"), beside="Accelerator")
    for index, statement in enumerate(block.statements):
        test = block.test(statement)
        choices = _choices(ast.parse(test, mode="eval").body) if test else []
        closed = any(same(choice, _MAIN) for choice in choices) and not any(map(_is_open, choices))
        alone = closed and not statement.orelse  # type: ignore[attr-defined]
        if alone and block.contains_call(statement, "accelerator.save_state"):
            wider = block.expression(_OPEN) if len(choices) == 1 else block.widened(statement, _DEEPSPEED)
            yield Splice(index, index + 1, [statement.with_changes(test=wider)])
