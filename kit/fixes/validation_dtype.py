"""Give the parts of a validation pipeline dtypes that fit, and leave those that are being trained alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import autocasts, casts, imports, validation_moves

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "validate with dtypes that fit, training's own left alone"
WHY = """\
log_validation makes images with the very modules in training, without autocast, and their dtypes do not fit: `Input
type (float) and bias type (c10::BFloat16) should be the same`. Under DeepSpeed the transformer has half precision,
the VAE and one of SD3's text encoders do not. Elsewhere it gives back float32, by accelerate's wrapper, and Flux's
VAE has half. The seed's `pipeline.to(accelerator.device, dtype=torch_dtype)` mends the first and brings the second
to SD3. It also casts in place: float32 weights that are being trained, and under DeepSpeed the VAE, with which the
main process, unlike the others, encodes its training images from then on. So all is cast only where training loses
nothing by it: in the final pipeline, loaded anew, and under DeepSpeed, whose transformer has the dtype. The VAE is a
copy, else float32."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/9476",
    "https://github.com/huggingface/diffusers/issues/9237",
    "https://github.com/huggingface/diffusers/issues/9548",
    "https://github.com/huggingface/diffusers/issues/9628",
    "https://github.com/huggingface/diffusers/pull/13895",
)
NEEDS = ("torch_dtype", "is_final_validation", "accelerator", "copy")

_NAME = "DistributedType"
_MOVES = ("pipeline = pipeline.to(accelerator.device)", "pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)")
_CODE = f"""\
pipeline.vae = copy.deepcopy(pipeline.vae).float()  # training keeps its own
if is_final_validation or accelerator.distributed_type == {_NAME}.DEEPSPEED:
    pipeline = pipeline.to(dtype=torch_dtype)  # what DeepSpeed trains has it already
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, without autocast, moves its pipeline to the device; in order where that gives no dtype and
    the function casts the pipeline, with a copy of the VAE, under the condition above."""
    imported = imports(tree, _NAME)
    wanted = {ast.unparse(statement) for statement in ast.parse(_CODE).body}
    return [
        Site(move.lineno, imported and not casts(move) and wanted <= {ast.unparse(line) for line in function.body})
        for move, function in validation_moves(tree)
        if not autocasts(function)
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    yield from block.importing(_NAME, options.get("accelerate", "accelerate"), beside="Accelerator")
    function = block.function("log_validation")
    if not function or autocasts(function):
        return
    first, *rest = block.parse(_CODE)
    lines = [ast.unparse(block.read(statement)) for statement in block.statements]
    for index, statement in enumerate(block.statements):
        if lines[index] in _MOVES and ast.unparse(block.read(first)) not in lines:
            blank, comments = block.leading(statement)
            move = block.without(statement, "dtype") if "dtype" in lines[index] else statement
            move = move.with_changes(leading_lines=comments)
            yield Splice(index, index + 1, [first.with_changes(leading_lines=blank), *rest, move])
