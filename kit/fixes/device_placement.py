"""Work on the device that accelerate chose, where a script names CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import text
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
_METHODS = ("to", "to_empty", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "arange", "load")
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
        found.append(Site(statement.lineno, not named, refuses=f"{why}: hand it in, or skip the fix" if why else ""))
    return found


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
    first = call.args[:1] if last(call.func) in ("to", "device", "Generator", "autocast") else []
    named = [each.value for each in call.keywords if each.arg in ("device", "device_type", "map_location")]
    return any(_names_cuda(value) for value in (*first, *named))


def _names_cuda(value: ast.expr) -> bool:
    if isinstance(value, ast.JoinedStr) and value.values and isinstance(value.values[0], ast.Constant):
        return str(value.values[0].value).startswith("cuda")
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.partition(":")[0] == "cuda"


def _given(script: Script, call: ast.Call) -> list[ast.expr]:
    """What a call that takes a device, or its name, is given as one."""
    full, name = script.full(call.func), last(call.func)
    method = isinstance(call.func, ast.Attribute)
    first = (method and name == "to") or full in (*_KINDS, "torch.device", "torch.Generator")
    takes = first or full.startswith((*_DEVICES, *_STRINGS)) or (method and name in _METHODS)
    named = (
        [each.value for each in call.keywords if each.arg in ("device", "device_type", "map_location")] if takes else []
    )
    return [*(call.args[:1] if first else []), *named]


def _right(call: ast.Call) -> bool:
    """Whether a call is given an accelerator's device."""
    given = [
        *call.args[:1],
        *(each.value for each in call.keywords if each.arg in ("device", "device_type", "map_location")),
    ]
    return any(re.search(r"accelerator\.device(\.type)?\)?$", text(value)) for value in given)


def _replaced(script: Script, call: ast.Call, name: str) -> tuple[str, str] | None:
    """What in the text of a call names CUDA, as a regular expression, and what goes there: of the accelerator ``name``;
    None where nothing does."""
    full = script.full(call.func)
    if any(isinstance(value, ast.Constant) and value.value in _CUDA for value in _given(script, call)):
        device = f"{name}.device"
        if full in _KINDS:
            device += ".type"
        elif full.startswith(_STRINGS):
            device = f"str({device})"
        return r"""(["'])cuda(:0)?\1""", device
    if full == _OLD:
        torch = script.spelt("torch") or "torch"
        enabled = "enabled=" if call.args else ""
        given = ", " * bool(call.args or call.keywords)
        return rf"{re.escape(text(call.func))}\(", f"{torch}.autocast({name}.device.type{given}{enabled}"
    moves = isinstance(call.func, ast.Attribute) and call.func.attr == "cuda" and full != "torch.cuda"
    plain = all(isinstance(each, ast.Constant) and each.value == 0 for each in call.args)
    if moves and plain and all(each.arg == "non_blocking" for each in call.keywords):
        return r"\.cuda\((?:0(?:,\s*)?)?(?=[^()]*\)\Z)", f".to({name}.device" + ", " * bool(call.keywords)
    return None


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        name = accelerator(block.script, node)[0]

        def place(code: str, name: str = name) -> str | None:
            call = ast.parse(f"({code})", mode="eval").body
            found = _replaced(block.script, call, name) if isinstance(call, ast.Call) else None
            return re.sub(found[0], found[1], code, count=1) if found else None

        placed = block.with_expressions(block.statements[index], "Call", "", place)
        if placed is not block.statements[index]:
            yield Splice(index, index + 1, [placed])
