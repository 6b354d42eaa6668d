"""Validate the model in training without casting it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import (
    DTYPE,
    Ancestors,
    autocasts,
    block_of,
    casts,
    defaults,
    every,
    expression,
    handed,
    pipeline_cast,
    pipeline_move,
    statements,
    text,
    validation_moves,
)
from kit.fixes._autocast import PIPELINES, off, unknown, works
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import dotted, last, own

if TYPE_CHECKING:
    import libcst as cst

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


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, under autocast, moves its pipeline to the device, or casts it alone; in order where no
    dtype is given, or only where a flag says so."""
    script = read(tree)
    functions = [node for node in every(tree) if isinstance(node, ast.FunctionDef) and _validates(script, node)]
    moved = [
        _site(script, move, function, not casts(move) or _single(script, function, move), _stays(function, move))
        for move, function in validation_moves(tree)
        if function in functions
    ]
    for function in functions:
        cast = [(line, above) for line, above in statements(function) if pipeline_cast(line)]
        placed = "cpu_offload(" in text(function) or any(pipeline_move(line) for line, _ in statements(function))
        flag = _flag(function)
        for line, above in cast:
            done = isinstance(above[-1], ast.If) and text(above[-1].test) == flag
            moved.append(_site(script, line, function, done, _stuck(line, above, placed)))
        moved += [Site(line.lineno, True) for line, _ in statements(function) if placed and not cast]
    return moved


def _stuck(cast: ast.stmt, above: Ancestors, placed: bool) -> str:
    """Why a cast cannot be taken out; "" where it can."""
    why = "nothing else is in its block" if all(map(pipeline_cast, block_of(cast, above))) else ""
    why = why or "nothing moves its pipeline to a device" * (not placed)
    return f"{why}: take the cast out by hand, or skip the fix" if why else ""


def _stays(function: ast.FunctionDef, move: ast.Call) -> str:
    """Why the dtype of a move cannot be taken out; "" where it can."""
    if move.args and DTYPE.search(dtype := text(move.args[0])):
        return f"`{dtype}` stands where the device should: write `dtype={dtype}`"
    if (test := _choice(move)) and not _last(function, test):
        return f"what trains is cast where `{text(test)}`: cast the final pipeline alone, or skip the fix"
    return ""


def _single(script: Script, function: ast.FunctionDef, move: ast.Call) -> bool:
    """Whether a move casts to float32, or only the final pipeline: by a choice, or by an `if` around it."""
    line = script.at(move.lineno)
    around = [each.test for each in script.above[line] if isinstance(each, ast.If) and line in each.body]
    tests = [*around, *([test] if (test := _choice(move)) else [])]
    return _dtype(move) == "torch.float32" or any(_last(function, test) for test in tests)


def _choice(move: ast.Call) -> ast.expr | None:
    """On what the dtype of a move is given, or else None or float32; None for no such choice."""
    plain = ("None", "torch.float32")
    match handed(move, "dtype", at=1):
        case [ast.IfExp(test=test, orelse=other)] if text(other) in plain:
            return test
        case [ast.IfExp(test=test, body=other)] if text(other) in plain:
            return test.operand if isinstance(test, ast.UnaryOp) else ast.UnaryOp(ast.Not(), test)
    return None


def _last(function: ast.FunctionDef, test: ast.expr) -> bool:
    """Whether a test is that nothing trains any more, or what autocast is off on."""
    return text(test) == _flag(function) or (
        isinstance(test, (ast.Name, ast.Attribute)) and bool(_LAST.search(text(test)))
    )


_LAST = re.compile(r"final|last|\btest", re.IGNORECASE)  # nothing trains then


def _validates(script: Script, function: ast.FunctionDef) -> bool:
    """Whether a function makes images under autocast, with what trains."""
    under = autocasts(function) or unknown(script, function)
    return function.name.startswith("log_validation") and bool(under) and not _loads(function)


def _loads(function: ast.AST) -> bool:
    """Whether a function's pipeline is made in it, of files and copies alone: nothing that trains is in that one."""
    given = [node for node in every(function) if isinstance(node, ast.Assign)]
    copied = {text(each) for node in given if re.search(r"\bdeepcopy\(", text(node.value)) for each in node.targets}
    if copied & {*PIPELINES}:
        return True
    made = [node.value for node in given if _makes_one(node) and ".to(" not in text(node.value)]
    parts = any(
        text(node).startswith(("pipeline.", "pipe."))
        for node in every(function)
        if type(node) is ast.Attribute and type(node.ctx) is ast.Store
    )
    parts |= any(
        isinstance(node, ast.Call) and text(node.func).endswith(".register_modules") for node in every(function)
    )
    return bool(made) and not parts and all(isinstance(each, ast.Call) and _of_files(each, copied) for each in made)


def _loaded_so(script: Script) -> bool:
    """Whether the pipelines that a script makes of files alone, the final one too, are loaded in the dtype."""
    found = [call for call, line in script.calls["from_pretrained"] if _makes_one(line) and _of_files(call)]
    return bool(found) and all(handed(call, "torch_dtype", "dtype", at=None) for call in found)


def _makes_one(line: ast.stmt) -> bool:
    """Whether a statement gives a pipeline its name."""
    return isinstance(line, ast.Assign) and not {*PIPELINES}.isdisjoint(map(text, line.targets))


def _of_files(call: ast.Call, copied: Collection[str] = ()) -> bool:
    given = [each.value for each in call.keywords if each.arg not in _LOADED and text(each.value) not in copied]
    plain = all(isinstance(each, ast.Constant) or _OPTIONS.match(text(each)) for each in given)
    return text(call.func).endswith(".from_pretrained") and plain


def _site(script: Script, move: ast.Call | ast.stmt, function: ast.FunctionDef, done: bool, why: str = "") -> Site:
    if done or why:
        return Site(move.lineno, done, refuses="" if done else why)
    if hidden := unknown(script, function):
        return Site(move.lineno, False, refuses=hidden)
    why = _without(script, function, move.lineno)
    conditions = [] if _flag(function) else off(function)
    where = "` or `".join(conditions)
    often = f"autocast is off where `{where}`: cast there alone, or skip the fix" if where else ""
    return Site(move.lineno, False, refuses=f"{why}: call it under autocast, or skip the fix" if why else often)


def _without(script: Script, function: ast.FunctionDef, line: int) -> str:
    """Why a pipeline that is moved on a line does not make its images under autocast; "" where it does, or where it is
    not known which call makes them."""
    found = works(script, function)
    bare = next((work for work in found if not work.under), None)
    if bare:
        return f"{bare.what} without autocast (line {bare.line})"
    return "the pipeline is not called under autocast below" if found and max(w.line for w in found) < line else ""


def _flag(function: ast.FunctionDef) -> str:
    """On what alone the validation is without autocast, as the final one is, and all are on a Mac: a parameter, what
    machine it is, or either; "" for none."""
    given = {each.arg for each, _ in defaults(function.args)}
    match off(function):
        case [flag]:
            test = expression(flag)
            either = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else [test]
            plain = [text(each) in given or text(each).endswith(".is_available()") for each in either]
            return flag if all(plain) else ""
    return ""


def _dtype(move: ast.Call) -> str:
    return next(map(text, handed(move, "dtype", at=1)), "")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    above: list[cst.EmptyLine] = []  # the blank lines above the first of a run of casts
    for index, node in block.wanted():
        statement = block.statements[index]
        flag = next((_flag(each) for each in reversed(block.above) if isinstance(each, ast.FunctionDef)), "")
        move = pipeline_move(node)
        if move and (dtype := _dtype(move)):
            plain = block.without(statement, "dtype")
            yield Splice.instead(
                index, [block.with_argument(plain, f"dtype={dtype} if {flag} else None") if flag else plain]
            )
        elif pipeline_cast(node) and flag and not _loaded_so(block.script):
            yield Splice.instead(index, [block.under(f"if {flag}:", [statement])])
        elif pipeline_cast(node):
            above = above or block.leading(statement)[0]
            if all(node and pipeline_cast(node) for node in block.nodes[index + 1 :][:1]):
                yield Splice.instead(index, [])
            else:
                below = block.statements[index + 1]
                lines = [*above, *block.leading(below)[1]]
                yield Splice(index, index + 2, [below.with_changes(leading_lines=lines)])
                above = []


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a pipeline, or what trains in it, is cast under autocast in a loop that trains, or in a validation: of
    another name, or in a form that is not known."""
    script = read(tree)
    for line, above in script.statements:
        function = next((node for node in reversed(above) if isinstance(node, ast.FunctionDef)), None)
        if not function or not any(_in_place(script, call, line) for call in own(line) if isinstance(call, ast.Call)):
            continue
        move = pipeline_move(line)
        done = move is not None and _dtype(move).endswith(" else None")
        known = function.name.startswith("log_validation") and (move or pipeline_cast(line))
        loop = next((node for node in above if isinstance(node, ast.For) and ".backward(" in text(node)), None)
        validates = _VALIDATES.search(function.name) or (_DRAWS.search(function.name) and script.calls["backward"])
        around = loop or (function if validates else None)
        if around and autocasts(around) and not _loads(around) and not done and (loop or not known):
            yield Sign(line.lineno, "a pipeline of what trains, cast in place")


_VALIDATES = re.compile(r"valid|sample|eval|generate|preview", re.IGNORECASE)
_DRAWS = re.compile(r"infer|visuali|log_im", re.IGNORECASE)  # which may be of a script that trains nothing
_HALVES = ("half", "bfloat16")


def _in_place(script: Script, call: ast.Call, line: ast.stmt) -> bool:
    """Whether a call gives a pipeline, or the model in it that trains, another dtype than float32."""
    name, given = last(call.func), [*call.args, *(each.value for each in call.keywords)]
    single = any(text(each) in ("torch.float32", "torch.float") for each in given)
    if not (name == "to" and casts(call) and not single) and not (name in _HALVES and not given):
        return False
    owner = call.func.value if isinstance(call.func, ast.Attribute) else call
    while isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute) and last(owner.func) in ("to", "cuda"):
        owner = owner.func.value
    if isinstance(owner, ast.Call) and last(owner.func) == "unwrap_model" and owner.args:
        return "vae" not in last(owner.args[0]).lower()  # which does not train
    made = isinstance(owner, ast.Call) and isinstance(line, ast.Assign) and not _of_files(owner)
    makes = [value for value in script.given(owner) if isinstance(value, ast.Call)]
    pipes = [make for make in makes if re.search(r"(from_pretrained|from_pipe|Pipeline)$", text(make.func))]
    parts = {each.arg for make in pipes for each in make.keywords} & {"unet", "transformer", "controlnet", "prior"}
    trains = any(last(make.func) == "unwrap_model" and "vae" not in dotted(owner).lower() for make in makes)
    names = map(text, line.targets) if made else [dotted(owner)]  # type: ignore[attr-defined]
    return trains or bool(parts) or any(map(_OF_PIPE.search, names))


_OF_PIPE = re.compile(r"(^|[._])pipe(line)?(\.(unet|transformer|controlnet|prior))?$", re.IGNORECASE)
