"""Validate the model in training without casting it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import autocasts, casts, every, handed, pipeline_cast, pipeline_move, text, validation_moves

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "validate without casting what is being trained"
WHY = """\
log_validation moves its pipeline with a dtype, and in it is the very model in training, which is cast in place. In
fp16 the gradient scaler needs float32 parameters, and the first step after a validation ends the run: `Attempting to
unscale FP16 gradients`. The images are made under autocast, so nothing has to be cast. #13895 mends one script so,
#13899 ten; in five of them the pipeline is cast alone, and offloading the model places it. Where the final validation
is without autocast, its pipeline is cast as before: nothing trains then, and FLUX.1-Kontext's transformer is in
float32."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/13124",
    "https://github.com/huggingface/diffusers/pull/13895",
    "https://github.com/huggingface/diffusers/pull/13899",
    "https://github.com/huggingface/diffusers/issues/9973",
)
NEEDS = ()
GENERAL = True
UPSTREAM = "#13895 mended one script; #13899, for ten, is open"
EXAMPLE = """\
import torch


def log_validation(pipeline, accelerator, torch_dtype):
    pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
    with torch.autocast(accelerator.device.type):
        return pipeline()
"""


_FINAL = "is_final_validation"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, under autocast, moves its pipeline to the device, or casts it and has it offloaded; in
    order where no dtype is given."""
    moved = [
        _site(
            move, function, not casts(move) or (_apart(function) and _dtype(move).endswith(f" if {_FINAL} else None"))
        )
        for move, function in validation_moves(tree)
        if autocasts(function)
    ]
    for function, lines in _offloaded(tree):
        cast = [line for line in lines if pipeline_cast(line)]
        moved += [_site(line, function, False) for line in cast] or [Site(function.lineno, True)]
    return moved


def _site(move: ast.Call | ast.stmt, function: ast.FunctionDef, done: bool) -> Site:
    why = "" if done else _without(function, move.lineno)
    return Site(move.lineno, done, refuses=f"{why}: call it there, or skip the fix" if why else "")


def _without(function: ast.FunctionDef, line: int) -> str:
    """Why a pipeline that is moved on a line does not make its images under autocast; "" where it does, or where it is
    not known which call makes them."""
    named = {
        text(target)
        for node in every(function)
        if isinstance(node, ast.Assign) and "autocast" in text(node.value)
        for target in node.targets
    }
    under = {
        call
        for node in every(function)
        if isinstance(node, ast.With)
        and any("autocast" in text(item) or text(item.context_expr) in named for item in node.items)
        for call in every(node)
    }
    calls = [node for node in every(function) if isinstance(node, ast.Call) and text(node.func) in ("pipeline", "pipe")]
    if any(call not in under for call in calls):
        return "the pipeline is also called without autocast"
    return "the pipeline is not called under autocast below" if calls and max(c.lineno for c in calls) < line else ""


def _apart(function: ast.AST) -> bool:
    """Whether the final validation is without autocast: `autocast(…) if not is_final_validation else …`."""
    choices = (node for node in every(function) if isinstance(node, ast.IfExp) and autocasts(node.body))
    return any(text(choice.test) == f"not {_FINAL}" for choice in choices)


def _dtype(move: ast.Call) -> str:
    given = handed(move, "dtype", at=1)
    return text(given[0]) if given else ""


def _offloaded(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, list[ast.stmt]]]:
    """The functions that validate under autocast with an offloaded model, and their statements."""
    for function in tree.body:
        validates = isinstance(function, ast.FunctionDef) and function.name.startswith("log_validation")
        offloads = validates and any("enable_model_cpu_offload(" in text(line) for line in function.body)  # type: ignore
        if isinstance(function, ast.FunctionDef) and offloads and autocasts(function):
            yield function, function.body


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        move = pipeline_move(node)
        if move and (dtype := _dtype(move)):
            final = next((each for each in block.above if isinstance(each, ast.FunctionDef) and _apart(each)), None)
            plain = block.without(block.statements[index], "dtype")
            choice = f"dtype={dtype} if {_FINAL} else None"
            yield Splice.instead(index, [block.with_argument(plain, choice) if final else plain])
        elif pipeline_cast(node):
            below = block.statements[index + 1]
            above = [*block.leading(block.statements[index])[0], *block.leading(below)[1]]
            yield Splice(index, index + 2, [below.with_changes(leading_lines=above)])
