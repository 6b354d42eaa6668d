"""Work on the device that accelerate chose, where a script names CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import imports, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "place modules and autocast on the device that trains"
WHY = """\
A script for any device of accelerate's names CUDA here and there. `torch.autocast("cuda")` does nothing on another
device but warn (`CUDA is not available. Disabling`): a validation then mixes the dtypes it was to reconcile.
`.to("cuda")` ends with `Torch not compiled with CUDA enabled`. The accelerator knows the device."""
LINKS = ()
NEEDS = ("accelerator",)
GENERAL = True

_DEVICE = "accelerator.device"
_AUTOCAST = ("torch.autocast", "torch.amp.autocast")  # they want the name of a kind of device
_PLACES = ("torch.device", "torch.Generator")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements of a script with an Accelerator that place something on CUDA by name, or do so under CUDA's
    autocast; in order where that is the accelerator's device."""
    if not imports(tree, "Accelerator"):
        return []
    found = []
    for statement, _ in statements(tree):
        calls = [node for part in _parts(statement) for node in ast.walk(part) if isinstance(node, ast.Call)]
        wrong = [_replaced(call) is not None for call in calls]
        if any(wrong) or any(map(_right, calls)):
            found.append(Site(statement.lineno, not any(wrong)))
    return found


def _parts(statement: ast.stmt) -> list[ast.AST]:
    """What of a statement is not statements itself."""
    inside = (ast.stmt, ast.excepthandler, ast.match_case)
    return [child for child in ast.iter_child_nodes(statement) if not isinstance(child, inside)]


def _given(call: ast.Call) -> list[ast.expr]:
    """What a call is given as a device."""
    first = getattr(call.func, "attr", "") == "to" or any(same(call.func, name) for name in (*_AUTOCAST, *_PLACES))
    named = [keyword.value for keyword in call.keywords if keyword.arg in ("device", "device_type")]
    return [*(call.args[:1] if first else []), *named]


def _right(call: ast.Call) -> bool:
    return any(same(value, _DEVICE) or same(value, f"{_DEVICE}.type") for value in _given(call))


def _replaced(call: ast.Call) -> tuple[str, str] | None:
    """What in the text of a call names CUDA, as a regular expression, and what goes there; None where nothing does."""
    if any(isinstance(value, ast.Constant) and value.value in ("cuda", "cuda:0") for value in _given(call)):
        autocast = any(same(call.func, name) for name in _AUTOCAST)
        return r"""(["'])cuda(:0)?\1""", f"{_DEVICE}.type" if autocast else _DEVICE
    if call.args or not isinstance(call.func, ast.Attribute):
        return None
    if same(call.func, "torch.cuda.amp.autocast"):
        return r"\btorch\.cuda\.amp\.autocast\(", f"torch.autocast({_DEVICE}.type" + ", " * bool(call.keywords)
    if call.func.attr == "cuda" and not call.keywords:
        return r"\.cuda\(\)\Z", f".to({_DEVICE})"
    return None


def edits(block: Block, options: Options) -> Iterator[Splice]:
    def place(code: str) -> str | None:
        call = ast.parse(f"({code})", mode="eval").body
        found = _replaced(call) if isinstance(call, ast.Call) else None
        return re.sub(found[0], found[1], code, count=1) if found else None

    for index, statement in enumerate(block.statements):
        placed = block.with_expressions(statement, "Call", "cuda", place)
        if placed is not statement:
            yield Splice(index, index + 1, [placed])
