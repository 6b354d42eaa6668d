"""Name the file when a LoRA that was written here is loaded again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "load the LoRA written here by its file name"
WHY = """\
diffusers looks for a LoRA's file in the folder it is given, but not under HF_HUB_OFFLINE=1, not even in a local
folder: `ValueError: When using the offline mode, you must specify a weight_name`. A run without network cannot be
resumed, and one that has trained to its end fails when it loads its own result. The scripts write
pytorch_lora_weights.safetensors, the default of `save_lora_weights`; diffusers mended its loader later (#14204)."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/14195",
    "https://github.com/huggingface/diffusers/pull/14204",
)
NEEDS = ()
GENERAL = True

_LOADS = ("lora_state_dict", "load_lora_weights")
_FOLDERS = ("input_dir", "args.output_dir")  # what the load hook is handed; where the result went
_ARGUMENT = 'weight_name="pytorch_lora_weights.safetensors"'


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The calls that load a LoRA from a folder the script wrote; in order where they name the file. None in a script
    that saves a LoRA under a name of its own, or not as safetensors."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if any(_saves_otherwise(call) for call in calls):
        return []
    return [Site(call.lineno, _names_file(call)) for call in calls if _loads(call)]


def _saves_otherwise(call: ast.Call) -> bool:
    saves = isinstance(call.func, ast.Attribute) and call.func.attr == "save_lora_weights"
    asked = {keyword.arg: keyword.value for keyword in call.keywords} if saves else {}
    return "weight_name" in asked or not same(asked.get("safe_serialization", ast.Constant(True)), "True")


def _loads(call: ast.Call) -> bool:
    loads = isinstance(call.func, ast.Attribute) and call.func.attr in _LOADS
    return loads and bool(call.args) and any(same(call.args[0], folder) for folder in _FOLDERS)


def _names_file(call: ast.Call) -> bool:
    return any(keyword.arg == "weight_name" for keyword in call.keywords)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if block.callee(statement).rpartition(".")[2] in _LOADS:
            call: ast.Call = block.read(statement).value  # type: ignore[attr-defined]
            if _loads(call) and not _names_file(call):
                yield Splice(index, index + 1, [block.with_argument(statement, _ARGUMENT)])
