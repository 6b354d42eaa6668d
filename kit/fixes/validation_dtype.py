"""Give the parts of a validation pipeline dtypes that fit, and leave those that are being trained alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice, _deepspeed
from kit.fixes._ast import autocasts, bound_names, calls_of, casts, every, handed, text, validation_moves
from kit.fixes._autocast import unknown
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import own

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "validate with dtypes that fit, training's own left alone"
WHY = """\
log_validation makes images with the very modules in training, without autocast, and their dtypes do not fit: `Input
type (float) and bias type (c10::BFloat16) should be the same`. Under DeepSpeed the transformer has half precision,
the VAE and one of SD3's text encoders do not. Elsewhere it gives back float32, by accelerate's wrapper, and Flux's
VAE has half. MindSpeed-MM's `pipeline.to(accelerator.device, dtype=torch_dtype)` mends the first and brings the second
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
NEEDS = ("is_final_validation", "accelerator")
GENERAL = True
UPSTREAM = "#9419 and #9565 mended scripts; #9476 is open"
EXAMPLE = """\
from accelerate import Accelerator


def log_validation(pipeline, accelerator, torch_dtype, is_final_validation=False):
    pipeline = pipeline.to(accelerator.device)
    return pipeline()
"""

_DTYPE, _PASSED = "torch_dtype", "weight_dtype"
_ABOVE = "is_final_validation"  # the parameter goes where upstream has it
_TYPES = ("bfloat16", "float16", "float32", "half", "float")
_MOVES = ("pipeline = pipeline.to(accelerator.device)", "pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)")
_CODE = """\
pipeline.vae = copy.deepcopy(pipeline.vae).float()  # training keeps its own
if is_final_validation or {asked}:
    pipeline = pipeline.to(dtype=torch_dtype)  # what DeepSpeed trains has it already
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where log_validation, without autocast, moves its pipeline to the device; in order where that gives no dtype and
    the function casts the pipeline, with a copy of the VAE, under the condition above. A function that is handed no
    dtype gets it from its callers, as upstream's later versions do, or else refuses."""
    script = read(tree)
    imported = _deepspeed.named(script, options)
    wanted = {*map(text, ast.parse(_code(script, options)).body)}
    threaded = _threaded(tree)
    return [
        Site(
            move.lineno,
            imported and not casts(move) and wanted.issubset(map(text, function.body)),
            () if function.name in threaded else (_DTYPE,),
            _from_image(script)
            or _no_vae(script)
            or _own_vae(function)
            or _shadowed(script, script.at(move.lineno))
            or ("" if text(script.at(move.lineno)) in _MOVES else _OTHERWISE)
            or ("" if script.at(move.lineno) in function.body else _SOMETIMES),
        )
        for move, function in validation_moves(tree)
        if not (autocasts(function) or unknown(script, function) or _under(script, function))
    ]


def _under(script: Script, function: ast.FunctionDef) -> bool:
    """Whether a function is called under autocast."""
    around = [node for _, line in script.calls[function.name] for node in (line, *script.above[line])]
    items = [item.context_expr for node in around if isinstance(node, ast.With) for item in node.items]
    return any("autocast" in text(each) for item in items for each in (item, *script.given(item)))


def _code(script: Script, options: Options) -> str:
    return _CODE.format(asked=_deepspeed.asked(script, "accelerator", options))


def _shadowed(script: Script, statement: ast.stmt) -> str:
    return _deepspeed.shadowed(script, statement, "copy") or _deepspeed.shadowed(script, statement)


def _from_image(script: Script) -> str:
    """Why a pipeline that makes images of others is not served: it encodes them with the VAE, in the dtype of its other
    parts."""
    made = [
        text(call.func.value) for call, _ in script.calls["from_pretrained"] if isinstance(call.func, ast.Attribute)
    ]
    found = [name for name in made if name.endswith("Pipeline") and _IMAGE_PIPELINES.search(name)]
    given = [
        each.arg for calls in script.calls.values() for call, _ in calls for each in call.keywords if _is_pipe(call)
    ]
    handed = [word for word in (*given, *_keys(script)) if word in _IMAGES]
    why = "its pipeline is handed images (`{}`), which it encodes with a VAE of the other parts' dtype: cast by hand"
    return next(map(why.format, found + handed), "")


_MAKES = re.compile(r"from_pretrained|from_pipe|\w+Pipeline")


def _no_vae(script: Script) -> str:
    """Why a script's pipeline may have no VAE: it makes one, and names none."""
    made = [name for name in script.calls if re.fullmatch(r"\w+Pipeline", name)]
    made += [
        text(call.func) for call, _ in script.calls["from_pretrained"] if re.match(r"\w+Pipeline\.", text(call.func))
    ]
    without = [
        call
        for call, line in (pair for name, pairs in script.calls.items() if _MAKES.fullmatch(name) for pair in pairs)
        if isinstance(line, ast.Assign) and any(text(each) in ("pipeline", "pipe") for each in line.targets)
        if any(text(each) == "None" for each in handed(call, "vae", at=None))
    ]
    if without:
        return f"its pipeline is made without a VAE (line {without[0].lineno}): cast by hand, or skip the fix"
    named = any("vae" in str(getattr(node, key, "")) for node in every(script.tree) for key in ("id", "attr", "arg"))
    why = "its pipeline (`{}`) is not known to have a VAE: the script names none: cast by hand, or skip the fix"
    return why.format(made[0].partition(".")[0]) if made and not named and "vae" not in script.words else ""


def _own_vae(function: ast.FunctionDef) -> str:
    """Why a function that gives its pipeline another VAE is not served."""
    given = [node for node in every(function) if isinstance(node, ast.Assign)]
    own = [node for node in given if "pipeline.vae" in map(text, node.targets) and text(node) not in _CODE]
    kept = (target for node in given if text(node.value) == "pipeline.vae" for target in node.targets)
    if name := next(map(text, kept), ""):
        return f"`{name}` would be the VAE that trains, not the pipeline's: use `pipeline.vae` itself, or skip the fix"
    return "it gives its pipeline another VAE: give it that in the dtype of the other parts, or skip the fix" * bool(
        own
    )


def _is_pipe(call: ast.Call) -> bool:
    return text(call.func) in ("pipeline", "pipe")


def _keys(script: Script) -> list[str]:
    """The keys of dictionaries, which may be handed on as arguments."""
    dicts = [node for line, _ in script.statements for node in own(line) if isinstance(node, ast.Dict)]
    named = [each for each in dicts if any(text(key) in ("'prompt'", "'prompt_embeds'") for key in each.keys if key)]
    return [str(getattr(key, "value", "")) for each in named for key in each.keys]


_IMAGES = ("image", "control_image", "mask_image", "init_image", "conditioning_image", "video")
_IMAGE_PIPELINES = re.compile(r"Img2Img|ImageTo|Image2|Inpaint|Kontext|Control|Edit|Fill|Pix2Pix|Upscale|Redux|Adapter")
_SOMETIMES = "it moves its pipeline in a block of its own: move it among the function's own statements"
_OTHERWISE = "it moves its pipeline in another way than `pipeline = pipeline.to(accelerator.device)`: write it so first"


def _to_thread(script: Script) -> set[str]:
    return _threaded(script.tree)


def _threaded(tree: ast.Module) -> set[str]:
    """The functions at the module's top that lack a dtype, and that every caller can hand the one it trains in."""
    found: set[str] = set()
    for move, function in validation_moves(tree):
        arguments = [each.arg for each in function.args.args]
        lacking = function in tree.body and _DTYPE not in bound_names(tree, move.lineno)
        if lacking and {"pipeline", _ABOVE} <= {*arguments} and not _chooses(function):
            place = arguments.index(_ABOVE)
            calls = calls_of(tree, function.name)
            plain = place <= len(arguments) - len(function.args.defaults) and function.args.kwarg is None
            if plain and calls and all(_may_pass(tree, call, place) for call in calls):
                found.add(function.name)
    return found


def _chooses(function: ast.FunctionDef) -> bool:
    """Whether a function itself names a dtype of torch: it knows what fits its pipeline."""
    return any(isinstance(node, ast.Attribute) and node.attr in _TYPES for node in every(function))


def _may_pass(tree: ast.Module, call: ast.expr | None, place: int) -> bool:
    """Whether a call has the dtype of training in its scope, and room for it: nothing by position from ``place`` on."""
    if not isinstance(call, ast.Call) or _PASSED not in bound_names(tree, call.lineno):
        return False
    starred = any(isinstance(each, ast.Starred) for each in call.args)
    doubled = any(keyword.arg in (None, _DTYPE) for keyword in call.keywords)
    return bool(call.args or call.keywords) and len(call.args) <= place and not (starred or doubled)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if not block.todo:
        return
    yield from _deepspeed.importing(block, options)
    yield from block.importing_module("copy")
    threaded = block.script.once(_to_thread)
    for index, node in block.simple():
        call = node.value if isinstance(node, (ast.Assign, ast.Expr)) else None
        if isinstance(node, ast.FunctionDef) and node.name in threaded:
            new = block.with_parameter(block.statements[index], _DTYPE, before=_ABOVE)
            yield Splice.instead(index, [new], counted=False)
        elif isinstance(call, ast.Call) and text(call.func) in threaded:
            new = block.with_argument(block.statements[index], f"{_DTYPE}={_PASSED}")
            yield Splice.instead(index, [new], counted=False)
    yield from _cast(block, _code(block.script, options))


def _cast(block: Block, code: str) -> Iterator[Splice]:
    first, *rest = block.parse(code)
    for index, node in block.wanted():
        if text(node) in _MOVES:
            statement = block.statements[index]
            blank, comments = block.leading(statement)
            move = block.without(statement, "dtype") if "dtype" in text(node) else statement
            move = move.with_changes(leading_lines=comments)
            yield Splice.instead(index, [first.with_changes(leading_lines=blank), *rest, move])
