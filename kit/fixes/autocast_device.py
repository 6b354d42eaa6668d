"""Switch autocast off on the device that a module's tensors are on, not on CUDA alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import children, defaults, every, handed, same, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last, own
from kit.fixes._roles.holders import has_accelerator
from kit.fixes._roles.places import for_cuda, is_script

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "switch autocast off where the tensors are"
WHY = """\
A module of a library works out angles and embeddings in float32, autocast or not: `torch.amp.autocast("cuda",
enabled=False)`. That switches off CUDA's autocast and no other: on an NPU they are worked out in half precision, which
says nothing and shows in the images. The kind of device that the tensors are on is known there."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "as it is in transformer_z_image.py and others; not known to be reported"
EXAMPLE = """\
import torch


def rotate(x, angles):
    with torch.amp.autocast("cuda", enabled=False):
        return x.float() * angles
"""

_AUTOCAST = ("torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast")
_ONLY = ("unsqueeze", "permute", "type_as", "chunk", "expand", "view_as")  # neither an array nor a module has them
_METHODS = (
    "float",
    "reshape",
    "view",
    "unsqueeze",
    "to",
    "transpose",
    "permute",
    "shape",
    "dtype",
    "device",
    "chunk",
    "type_as",
)


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `with`s of a module that switch CUDA's autocast off around work on a tensor they are handed; in order where
    they ask that for its device."""
    script = read(tree)
    if has_accelerator(script) or is_script(script):
        return []
    found = []
    for statement, _ in script.statements:
        for call in _switches(script, statement):
            done = not _cuda(call)
            asks = any(text(each).endswith(".device.type") for each in _device(call))
            if asks or (not done and _tensor(script, statement)):
                if not for_cuda(script, statement):
                    found.append(Site(statement.lineno, done))
                break
    return found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """The same, where it is not known what the tensors are: around a function, or without one in sight."""
    script = read(tree)
    if has_accelerator(script) or is_script(script):
        return
    for statement, _ in script.statements:
        lists = getattr(statement, "decorator_list", [])
        decorated = [call for call in lists if isinstance(call, ast.Call) and _off(script, call) and _cuda(call)]
        plain = [call for call in _switches(script, statement) if _cuda(call) and not _tensor(script, statement)]
        items = statement.items if isinstance(statement, ast.With) else []
        old = [each for each in (*lists, *(item.context_expr for item in items)) if _old(script, each)]
        if (decorated or plain or old) and not for_cuda(script, statement):
            yield Sign(statement.lineno, "autocast switched off on CUDA alone")


def _old(script: Script, node: ast.expr) -> bool:
    """Whether an expression is CUDA's own autocast, switched off, or CUDA's in float32, which does as much."""
    if not isinstance(node, ast.Call):
        return False
    own_one = script.full(node.func) == "torch.cuda.amp.autocast"
    cuda = own_one or (script.full(node.func) in _AUTOCAST and any("cuda" in text(each) for each in _device(node)))
    single = any(script.full(each) in ("torch.float32", "torch.float") for each in handed(node, "dtype", at=None))
    return (own_one and any(same(each, "False") for each in handed(node, "enabled"))) or (cuda and single)


def _switches(script: Script, statement: ast.stmt) -> list[ast.Call]:
    """The calls by which a `with` switches autocast off."""
    items = statement.items if isinstance(statement, ast.With) else []
    calls = [item.context_expr for item in items]
    return [call for call in calls if isinstance(call, ast.Call) and _off(script, call)]


def _off(script: Script, call: ast.Call) -> bool:
    off = any(same(each, "False") for each in handed(call, "enabled", at=None))
    return script.full(call.func) in _AUTOCAST and off and bool(_device(call))


def _device(call: ast.Call) -> list[ast.expr]:
    return handed(call, "device_type")


def _cuda(call: ast.Call) -> bool:
    return any(text(each).startswith("'cuda") for each in _device(call))


def _tensor(script: Script, statement: ast.stmt) -> str:
    """A parameter of the function that the work is done on: a tensor by what is done with it, which is never None; ""
    where none is."""
    function = script.function(statement)
    if not function:
        return ""
    given = {each.arg: each for each, default in defaults(function.args) if not (default and text(default) == "None")}
    taken = (node for line in script.inside(statement) for node in own(line) if isinstance(node, ast.Attribute))
    names = [last(node.value) for node in taken if node.attr in _METHODS and isinstance(node.value, ast.Name)]
    of_it = (name for name in names if name in given and name != "self")
    return next((name for name in of_it if _is_tensor(function, given[name])), "")


def _is_tensor(function: ast.AST, given: ast.arg) -> bool:
    """Whether a function counts with a parameter as only a tensor allows, never calls it and never asks if it is
    None."""
    name = given.arg
    nodes = every(function)
    if given.annotation and re.search(r"None|Optional", text(given.annotation)):
        return False
    if any(isinstance(node, ast.Call) and text(node.func) in (name, f"{name}.float()") for node in nodes):
        return False
    if any(
        isinstance(node, ast.Compare) and text(node) in (f"{name} is None", f"{name} is not None") for node in nodes
    ):
        return False
    made = [node for node in nodes if isinstance(node, ast.Call) and _method_of(node, name)]
    operands = [
        part for node in nodes if isinstance(node, (ast.BinOp, ast.Subscript, ast.Attribute)) for part in children(node)
    ]
    sized = {f"{name}.{word}" for word in ("shape", "size", "dim", "ndim")}  # a module has none
    measured = any(isinstance(node, ast.Attribute) and text(node) in sized for node in nodes)
    return any(_method_of(call, name) in _ONLY or call in operands or measured for call in made)


def _method_of(call: ast.Call, name: str) -> str:
    """Which of the methods that are asked for a call is of, of a name or a part of it; "" for others."""
    of = call.func.value if isinstance(call.func, ast.Attribute) else call
    whose = of.value if isinstance(of, ast.Subscript) else of
    method = last(call.func)
    return method if method in (*_ONLY, "float") and isinstance(whose, ast.Name) and whose.id == name else ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        tensor = _tensor(block.script, node)

        def told(code: str, tensor: str = tensor) -> str | None:
            call = ast.parse(f"({code})", mode="eval").body
            off = isinstance(call, ast.Call) and _off(block.script, call) and _cuda(call)
            return re.sub(r"""(["'])cuda(:0)?\1""", f"{tensor}.device.type", code) if off else None

        made = block.with_expressions(block.statements[index], "Call", "autocast", told)
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])
