"""Leave a LoRA to DeepSpeed when a run under it is resumed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import imports, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "let DeepSpeed alone load the LoRA of a resumed run"
WHY = """\
Under DeepSpeed accelerate has the engine load the model, LoRA included, and hands the load hook an empty list. A
hook that takes its model from the list and goes on without one ends the resumed run: `AttributeError: 'NoneType'
object has no attribute 'peft_config'`. Upstream (#10378, #11737) loads a second model there, to no use; leaving the
hook does."""
LINKS = (
    "https://github.com/huggingface/diffusers/pull/10378",
    "https://github.com/huggingface/diffusers/pull/11737",
)
NEEDS = ("accelerator",)
GENERAL = True

_HOOK = "load_model_hook"
_NAME = "DistributedType"
_DEEPSPEED = f"accelerator.distributed_type == {_NAME}.DEEPSPEED"
_CODE = f"if {_DEEPSPEED}:\n    return\n"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The load hooks that load a LoRA; in order where they treat DeepSpeed apart."""
    imported = imports(tree, _NAME)
    return [
        Site(hook.lineno, imported and _knows_deepspeed(hook))
        for hook, _ in statements(tree)
        if isinstance(hook, ast.FunctionDef) and hook.name == _HOOK and _loads_lora(hook)
    ]


def _loads_lora(hook: ast.AST) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "lora_state_dict" for node in ast.walk(hook))


def _knows_deepspeed(hook: ast.AST) -> bool:
    return any(isinstance(node, ast.Compare) and same(node, _DEEPSPEED) for node in ast.walk(hook))


def _loads_ema(hook: ast.AST) -> bool:
    """Whether a hook loads averaged weights, too, which DeepSpeed knows nothing of."""
    names = {getattr(node, "id", "") for node in ast.walk(hook)} | {
        getattr(node, "attr", "") for node in ast.walk(hook)
    }
    return any("ema" in name.lower().split("_") for name in names)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    yield from block.importing(_NAME, options.get("accelerate", "accelerate"), beside="Accelerator")
    hook = block.function(_HOOK) if block.owner() == _HOOK else None
    if hook and _loads_lora(hook) and not _knows_deepspeed(hook) and not _loads_ema(hook):
        first = block.statements[0]
        below = [*block.blank_lines(1), *first.leading_lines]  # type: ignore[attr-defined]
        yield Splice(0, 1, [*block.parse(_CODE), first.with_changes(leading_lines=below)])
