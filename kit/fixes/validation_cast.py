"""Validate the model in training without casting it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import (
    Ancestors,
    autocasts,
    block_of,
    casts,
    defaults,
    every,
    handed,
    pipeline_cast,
    pipeline_move,
    statements,
    text,
    validation_moves,
)

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


_LOADED = ("torch_dtype", "dtype", "revision", "variant", "subfolder", "cache_dir")  # settings, not parts of a pipeline
_OPTIONS = re.compile(r"(self\.)?(args|cfg|config|opts?|options|hparams)\.[\w.]+$")
_PIPELINES = ("pipeline", "pipe")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, under autocast, moves its pipeline to the device, or casts it alone; in order where no
    dtype is given, or only where a flag says so."""
    functions = [node for node in every(tree) if isinstance(node, ast.FunctionDef) and _validates(node)]
    moved = [
        _site(move, function, not casts(move) or _dtype(move).endswith(" else None"))
        for move, function in validation_moves(tree)
        if function in functions
    ]
    for function in functions:
        cast = [(line, above) for line, above in statements(function) if pipeline_cast(line)]
        placed = "cpu_offload(" in text(function) or any(pipeline_move(line) for line, _ in statements(function))
        moved += [_site(line, function, False, _stuck(line, above, placed)) for line, above in cast]
        moved += [Site(function.lineno, True)] * (placed and not cast)
    return moved


def _stuck(cast: ast.stmt, above: Ancestors, placed: bool) -> str:
    """Why a cast cannot be taken out; "" where it can."""
    why = "nothing else is in its block" if block_of(cast, above) == [cast] else ""
    why = why or "nothing moves its pipeline to a device" * (not placed)
    return f"{why}: take the cast out by hand, or skip the fix" if why else ""


def _validates(function: ast.FunctionDef) -> bool:
    """Whether a function makes images under autocast, with what trains."""
    return function.name.startswith("log_validation") and autocasts(function) and not _loads(function)


def _loads(function: ast.AST) -> bool:
    """Whether a function's pipeline is made in it, of files alone: nothing that trains is in that one."""
    made = [
        node.value
        for node in every(function)
        if isinstance(node, ast.Assign) and text(node.targets[0]) in _PIPELINES and ".to(" not in text(node.value)
    ]
    parts = any(
        text(node).startswith(("pipeline.", "pipe."))
        for node in every(function)
        if type(node) is ast.Attribute and type(node.ctx) is ast.Store
    )
    parts |= any(
        isinstance(node, ast.Call) and text(node.func).endswith(".register_modules") for node in every(function)
    )
    return bool(made) and not parts and all(isinstance(each, ast.Call) and _of_files(each) for each in made)


def _of_files(call: ast.Call) -> bool:
    given = [each.value for each in call.keywords if each.arg not in _LOADED]
    plain = all(isinstance(each, ast.Constant) or _OPTIONS.match(text(each)) for each in given)
    return text(call.func).endswith(".from_pretrained") and plain


def _site(move: ast.Call | ast.stmt, function: ast.FunctionDef, done: bool, why: str = "") -> Site:
    if done or why:
        return Site(move.lineno, done, refuses=why)
    why = _without(function, move.lineno)
    off = [] if _flag(function) else _off(function)
    often = f"autocast is off where `{off[0]}`: cast there alone, or skip the fix" if off else ""
    return Site(move.lineno, False, refuses=f"{why}: call it there, or skip the fix" if why else often)


def _without(function: ast.FunctionDef, line: int) -> str:
    """Why a pipeline that is moved on a line does not make its images under autocast; "" where it does, or where it is
    not known which call makes them."""
    under = {call for node in _contexts(function) for call in every(node)}
    parts = tuple(f"{name}.vae.{does}" for name in _PIPELINES for does in ("decode", "encode"))
    calls = [node for node in every(function) if isinstance(node, ast.Call) and text(node.func) in _PIPELINES + parts]
    if any(call not in under for call in calls):
        return "the pipeline is also called without autocast"
    return "the pipeline is not called under autocast below" if calls and max(c.lineno for c in calls) < line else ""


def _contexts(function: ast.FunctionDef) -> list[ast.With]:
    """The statements that may put what is in them under autocast."""
    named = {name for name, _, _ in _named(function)}
    found = [node for node in every(function) if isinstance(node, ast.With)]
    return [
        node
        for node in found
        if any("autocast" in text(item) or text(item.context_expr) in named for item in node.items)
    ]


def _named(function: ast.FunctionDef) -> list[tuple[str, ast.expr, Ancestors]]:
    """The names given an autocast, with all that they are given, and what is around that."""
    given = [
        (text(line.targets[0]), line.value, (*above, line))
        for line, above in statements(function)
        if isinstance(line, ast.Assign)
    ]
    named = {name for name, value, _ in given if "autocast" in text(value)}
    return [each for each in given if each[0] in named]


def _off(function: ast.FunctionDef) -> list[str]:
    """The conditions on which autocast is off where a pipeline is called, as they are written."""
    asked = {text(item.context_expr): item.context_expr for node in _contexts(function) for item in node.items}
    found: list[ast.expr] = []
    for name, value, above in _named(function):
        if name in asked or not asked:
            on = [_around(each) for other, made, each in _named(function) if other == name and autocasts(made)]
            otherwise = _around(above) or [_not(test) for tests in on for test in tests]
            found += _switched(value) if autocasts(value) else otherwise
    for value in asked.values():
        found += _switched(value)
    return list(dict.fromkeys(text(each) for each in found))


def _switched(value: ast.expr) -> list[ast.expr]:
    """On what a context that may be autocast is not."""
    if isinstance(value, ast.IfExp):
        first, second = autocasts(value.body), autocasts(value.orelse)
        here = [] if first == second else [_not(value.test) if first else value.test]
        return [*here, *_switched(value.body), *_switched(value.orelse)]
    enabled = handed(value, "enabled", at=None) if isinstance(value, ast.Call) else []
    return [_not(each) for each in enabled if text(each) != "True" and autocasts(value)]


def _around(above: Ancestors) -> list[ast.expr]:
    """On what a statement is come to, by the innermost `if` around it."""
    for node, inner in zip(reversed(above[:-1]), reversed(above[1:]), strict=True):
        if isinstance(node, ast.If):
            return [node.test if inner in node.body else _not(node.test)]
    return []


def _not(test: ast.expr) -> ast.expr:
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return test.operand if negated else ast.UnaryOp(ast.Not(), test)  # type: ignore[attr-defined]


def _flag(function: ast.FunctionDef) -> str:
    """On what alone the validation is without autocast, as the final one is, and all are on a Mac: a parameter, what
    machine it is, or either; "" for none."""
    off = _off(function)
    parts = ast.parse(off[0], mode="eval").body if len(off) == 1 else ast.Constant(None)
    either = parts.values if isinstance(parts, ast.BoolOp) and isinstance(parts.op, ast.Or) else [parts]
    given = {each.arg for each, _ in defaults(function.args)}
    plain = [text(each) in given or text(each).endswith(".is_available()") for each in either]
    return off[0] if all(plain) else ""


def _dtype(move: ast.Call) -> str:
    given = handed(move, "dtype", at=1)
    return text(given[0]) if given else ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        move = pipeline_move(node)
        if move and (dtype := _dtype(move)):
            flag = next((_flag(each) for each in reversed(block.above) if isinstance(each, ast.FunctionDef)), "")
            plain = block.without(block.statements[index], "dtype")
            yield Splice.instead(
                index, [block.with_argument(plain, f"dtype={dtype} if {flag} else None") if flag else plain]
            )
        elif pipeline_cast(node):
            above = block.leading(block.statements[index])[0]
            if index + 1 < len(block.nodes):
                below = block.statements[index + 1]
                lines = [*above, *block.leading(below)[1]]
                yield Splice(index, index + 2, [below.with_changes(leading_lines=lines)])
            else:
                yield Splice.instead(index, [])


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a pipeline is cast under autocast in a loop that trains, or in a validation of another name."""
    for line, above in statements(tree):
        move = pipeline_move(line)
        function = next((node for node in reversed(above) if isinstance(node, ast.FunctionDef)), None)
        if not function or not (
            pipeline_cast(line) or (move and casts(move) and not _dtype(move).endswith(" else None"))
        ):
            continue
        loop = next((node for node in above if isinstance(node, ast.For) and ".backward(" in text(node)), None)
        named = _VALIDATES.search(function.name) and not function.name.startswith("log_validation")
        around = loop or (function if named else None)
        if around and autocasts(around) and not _loads(around):
            yield Sign(line.lineno, "a pipeline of what trains, cast in place")


_VALIDATES = re.compile(r"valid|sample|eval|generate|preview", re.IGNORECASE)
