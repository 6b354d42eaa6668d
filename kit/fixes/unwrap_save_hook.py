"""Unwrap what DeepSpeed hands the save hook."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "unwrap the models the save hook is handed"
WHY = """\
The save hook tells the models it is handed apart by their class. Under DeepSpeed that is the DeepSpeedEngine around
the model, so the first checkpoint ends with `ValueError: unexpected save model`, or with a NameError where the hook
then asks about a text encoder that is deleted by now; a hook that chooses a folder by the class writes to the wrong
one. Unwrapped, the model also has its own names for its parameters, which `get_peft_model_state_dict` takes over."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/9393",
    "https://github.com/huggingface/diffusers/pull/6628",
    "https://github.com/huggingface/diffusers/pull/10378",
)
NEEDS = ("accelerator",)
GENERAL = True

_HOOK = "save_model_hook"
_UNWRAP = ("unwrap_model", "accelerator.unwrap_model")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops in the save hook that ask for the class of a model; in order where it is unwrapped first."""
    return [
        Site(loop.lineno, not _wrapped(loop))
        for loop, above in statements(tree)
        if isinstance(loop, ast.For) and any(getattr(node, "name", "") == _HOOK for node in above) and _asked(loop)
    ]


def _calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [call for call in ast.walk(node) if isinstance(call, ast.Call) and same(call.func, name)]


def _asked(loop: ast.For) -> set[str]:
    """What a loop asks the class of."""
    return {ast.unparse(call.args[0]) for call in _calls(loop, "isinstance")}


def _wrapped(loop: ast.For) -> str:
    """The loop's own variable, where its class is asked for as it comes; else ""."""
    own = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    unwrapped = {
        ast.unparse(target)
        for line in loop.body
        if isinstance(line, ast.Assign) and any(_calls(line.value, name) for name in _UNWRAP)
        for target in line.targets
    }
    return next(iter(own & _asked(loop) - unwrapped), "")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    loop = block.read(node) if block.function(_HOOK) and (node := block.loop()) else None
    if isinstance(loop, ast.For) and (model := _wrapped(loop)):
        unwrap = next(name for name in _UNWRAP if _calls(loop, name) or name == _UNWRAP[-1])  # the script's own helper
        yield Splice(0, 0, block.parse(f"{model} = {unwrap}({model})\n"))
