"""Work on the device that accelerate chose, where a script names CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, handed, same, text
from kit.fixes._positions import Change, changed, end, parsed, start
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last, own
from kit.fixes._roles.holders import accelerator, has_accelerator
from kit.fixes._roles.places import for_cuda

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "place modules and autocast on the device that trains"
WHY = """\
A script for any device of accelerate's names CUDA here and there. `torch.autocast("cuda")` does nothing on another
device but warn (`CUDA is not available. Disabling`): a validation then mixes the dtypes it was to reconcile.
`.to("cuda")` ends with `Torch not compiled with CUDA enabled`. The accelerator knows the device."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "taken in places (#11617); in documentation its maintainers prefer a plain name (#14414, #14575)"
EXAMPLE = """\
from accelerate import Accelerator


def main(model):
    accelerator = Accelerator()
    model.to("cuda")
"""


_CUDA = ("cuda", "cuda:0")
_KINDS = (
    "torch.autocast",
    "torch.amp.autocast",
    "torch.amp.GradScaler",
    "torch.amp.autocast_mode.autocast",
)  # want a kind's name
_STRINGS = ("safetensors.",)  # whose functions want a string, or a number
_DEVICES = ("torch.",)  # whose functions want a device, or its name
_WORDS = ("device", "device_type", "map_location")  # by which a call is given one
_METHODS = ("to", "to_empty", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "arange")
_ANYBODYS = ("torch.hub.", "torch.ops.")  # whose functions are anybody's, and may want a name
_OLD = "torch.cuda.amp.autocast"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements of a script with an Accelerator that place something on CUDA by name, or do so under CUDA's
    autocast, unless only CUDA comes there; in order where that is the accelerator's device."""
    script = read(tree)
    found = []
    for statement, _ in script.statements if has_accelerator(script) else ():
        calls = [node for node in own(statement) if isinstance(node, ast.Call)]
        named = [call for call in calls if _replaced(script, call, "_")]
        if not named and not any(_right(call) for call in calls):
            continue
        if named and for_cuda(script, statement):
            found.append(Site(statement.lineno, True))
            continue
        why = accelerator(script, statement)[1] if named else ""
        refuses = f"{why}: hand it in, or skip the fix" if why else _otherwise(script, statement) if named else ""
        found.append(Site(statement.lineno, not named, refuses=refuses))
    return found


def _otherwise(script: Script, statement: ast.stmt) -> str:
    """Why what names CUDA in a statement is not about the accelerator's device; "" where it is."""
    made = [call for call, _ in script.calls["Accelerator"]]
    if any(each.arg == "cpu" and same(each.value, "True") for call in made for each in call.keywords):
        return (
            "the script makes its Accelerator with `cpu=True`, and CUDA is another device: name that, or skip the fix"
        )
    other = next((word for word in sorted(script.words) if re.fullmatch(r"cuda:[1-9]\d*", word)), "")
    if other:
        return f'the script places work on the card "{other}", too: name the cards so that they differ, or skip the fix'
    asked = [
        node
        for node in own(statement)
        if isinstance(node, (ast.Compare, ast.FormattedValue))
        or (isinstance(node, ast.Call) and last(node.func) in ("str", "repr"))
    ]
    if any(isinstance(part, ast.Call) and _replaced(script, part, "_") for node in asked for part in every(node)):
        return "what names CUDA is compared or written there: ask for the device's `.type`, or skip the fix"
    return ""


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    script = read(tree)
    for statement, _ in script.statements:
        for node in own(statement):
            known = isinstance(node, ast.Call) and has_accelerator(script) and _replaced(script, node, "_")
            if isinstance(node, ast.Call) and _placing(script, node) and not known and not for_cuda(script, statement):
                yield Sign(statement.lineno, "something placed on CUDA by name")
                break


def _placing(script: Script, call: ast.Call) -> bool:
    """Whether a call names CUDA, in whatever form, as where something is to be."""
    if script.full(call.func) == _OLD or (last(call.func) == "cuda" and isinstance(call.func, ast.Attribute)):
        return True
    first = 0 if last(call.func) in ("to", "device", "Generator", "autocast") else None
    return any(map(_names_cuda, handed(call, *_WORDS, at=first)))


def _names_cuda(value: ast.expr) -> bool:
    if isinstance(value, ast.JoinedStr) and value.values and isinstance(value.values[0], ast.Constant):
        return str(value.values[0].value).startswith("cuda")
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.partition(":")[0] == "cuda"


def _given(script: Script, call: ast.Call) -> list[ast.expr]:
    """What a call that takes a device, or its name, is given as one."""
    full, name = script.full(call.func), last(call.func)
    method = isinstance(call.func, ast.Attribute)
    first = (method and name == "to") or full in (*_KINDS, "torch.device", "torch.Generator")
    known = full.startswith((*_DEVICES, *_STRINGS)) and not full.startswith(_ANYBODYS)
    words: tuple[str, ...] = _WORDS if first or known or (method and name in _METHODS) else ()
    if method and name == "load" and not words:
        words = ("map_location",)
    return handed(call, *words, at=0 if first else None)


def _right(call: ast.Call) -> bool:
    """Whether a call is given an accelerator's device."""
    return any(re.search(r"accelerator\.device(\.type)?\)?$", text(value)) for value in handed(call, *_WORDS))


def _replaced(script: Script, call: ast.Call, name: str) -> list[Change]:
    """What is changed in a call that names CUDA, for the device of the accelerator ``name``; empty where nothing is."""
    full = script.full(call.func)
    cuda = [each for each in _given(script, call) if isinstance(each, ast.Constant) and each.value in _CUDA]
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    first = start(arguments[0]) if arguments else end(call, 1)
    if cuda:
        device = f"{name}.device"
        if full in _KINDS:
            device += ".type"
        elif full.startswith(_STRINGS):
            device = f"str({device})"
        if full == "torch.device" and len(arguments) > 1:
            return [(first, end(call.args[1]), device)] if _its_index(call) else []
        named, *_ = cuda
        return [(start(named), end(named), device)]
    if full == _OLD:
        torch = script.spelt("torch") or "torch"
        more = (", " if arguments else "") + ("enabled=" if call.args else "")
        return [
            (start(call.func), end(call.func), f"{torch}.autocast"),
            (first, first, f"{name}.device.type{more}"),
        ]
    moves = isinstance(call.func, ast.Attribute) and call.func.attr == "cuda" and full != "torch.cuda"
    plain = all(isinstance(each, ast.Constant) and each.value == 0 for each in call.args)
    if moves and plain and all(each.arg == "non_blocking" for each in call.keywords):
        stop, more = (end(call.args[0]), "") if call.args else (first, ", " * bool(call.keywords))
        return [(end(call.func, len("cuda")), end(call.func), "to"), (first, stop, f"{name}.device{more}")]
    return []


def _its_index(call: ast.Call) -> bool:
    """Whether a device's index is the process's own on its machine."""
    index = "".join(map(text, call.args[1:]))
    return index.endswith("local_process_index") or re.fullmatch(r"((self\.)?args\.)?local_rank", index) is not None


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        name = accelerator(block.script, node)[0]

        def place(code: str, name: str = name) -> str | None:
            call = parsed(code)
            found = _replaced(block.script, call, name) if isinstance(call, ast.Call) else []
            return changed(code, found) if found else None

        placed = block.with_expressions(block.statements[index], "Call", "", place)
        if placed is not block.statements[index]:
            yield Splice.instead(index, [placed])
