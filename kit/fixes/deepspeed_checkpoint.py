"""Let every DeepSpeed rank take part in saving a checkpoint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, statements, walk

if TYPE_CHECKING:
    from kit.codemod import Block

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

_MAIN = "accelerator.is_main_process"
_OPEN = f"{_MAIN} or accelerator.distributed_type == DistributedType.DEEPSPEED"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The outermost `if` around each save_state() whose test speaks of the main process; in order where the same test
    lets DeepSpeed in and names it by an imported DistributedType."""
    imported = any(
        isinstance(node, ast.ImportFrom) and any(alias.name == "DistributedType" for alias in node.names)
        for node in tree.body
    )
    found: dict[int, Site] = {}
    for statement, above in statements(tree):
        if isinstance(statement, (ast.Expr, ast.Assign)) and "accelerator.save_state(" in ast.unparse(statement):
            gate = _gate(above)
            if gate:
                test = ast.unparse(gate.test)
                found[gate.lineno] = Site(gate.lineno, "DistributedType.DEEPSPEED" in test and imported)
    return list(found.values())


def _gate(above: Ancestors) -> ast.If | None:
    for ancestor in above:
        if isinstance(ancestor, ast.If) and any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == _MAIN for node, _ in walk(ancestor.test)
        ):
            return ancestor
    return None


def edits(block: Block, options: Options) -> Iterator[Splice]:
    library = options.get("accelerate", "accelerate")  # where the script has Accelerator from
    for index, statement in enumerate(block.statements):
        if block.test(statement) == _MAIN and block.contains_call(statement, "accelerator.save_state"):
            yield Splice(index, index + 1, [statement.with_changes(test=block.expression(_OPEN))])
        names = block.imports(statement, library)
        if not block.enclosing and names and "DistributedType" not in names:
            line = block.parse(f"from {library} import {', '.join(sorted([*names, 'DistributedType']))}\n")[0]
            leading = statement.leading_lines  # type: ignore[attr-defined]
            yield Splice(index, index + 1, [line.with_changes(leading_lines=leading)], counted=False)
