"""Validate the model in training without casting it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import autocasts, casts, pipeline_move, validation_moves

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "validate without casting what is being trained"
WHY = """\
log_validation moves its pipeline with a dtype, and in it is the very model in training, which is cast in place. In
fp16 the gradient scaler needs float32 parameters, and the first step after a validation ends the run: `Attempting to
unscale FP16 gradients`. The images are made under autocast, so nothing has to be cast. #13895 mends one script so."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/13124",
    "https://github.com/huggingface/diffusers/pull/13895",
    "https://github.com/huggingface/diffusers/issues/9973",
)
NEEDS = ("accelerator",)
GENERAL = True


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, under autocast, moves its pipeline to the device; in order where that gives no dtype."""
    return [Site(move.lineno, not casts(move)) for move, function in validation_moves(tree) if autocasts(function)]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    function = block.function("log_validation")
    if not function or not autocasts(function):
        return
    for index, statement in enumerate(block.statements):
        move = pipeline_move(block.read(statement))
        if move and any(keyword.arg == "dtype" for keyword in move.keywords):
            yield Splice(index, index + 1, [block.without(statement, "dtype")])
