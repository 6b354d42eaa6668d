"""Pin memory only where there is an accelerator to pin it for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import children, defaults, every, guarded, handed, requires, text
from kit.fixes._positions import parsed, written
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import dotted, last, own
from kit.fixes._roles.places import for_cuda

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "pin memory only where there is an accelerator"
WHY = """\
`tensor.pin_memory()` asks the accelerator's driver for page-locked memory. Where there is no accelerator it raises
`RuntimeError: Found no NVIDIA driver on your system` (PyTorch's CPU build: `Cannot access accelerator device when none
is available`), and a run on the CPU ends at its first batch. Pinned memory only makes copies to an accelerator faster:
without one the tensor itself will do. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ()
GENERAL = True
LIBRARY = True
TORCH = "2.6"
UPSTREAM = "not known to be reported"
EXAMPLE = """\
import torch

batch = torch.zeros(2).pin_memory()
"""

_GUARD, _CUDA = "torch.accelerator.is_available()", "torch.cuda.is_available()"
_ELSEWHERE = "it also pins where that asks for no accelerator: ask for one around that, too, or skip the fix"
_NAME = "pin_memory"
_SETTINGS = ("args", "cfg", "config", "settings", "options", "opt", "opts", "hparams", "params", "flags", "self")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements that take a tensor's pinned copy; in order where that is done only if there is an accelerator."""
    script = read(tree)
    torch = script.torch
    found: dict[ast.stmt, Site] = {}
    for call, statement in script.calls[_NAME]:
        if _of_tensor(script, call, statement):
            done = _guarded(script, call, statement) and (statement not in found or found[statement].done)
            refuses = _GUARD.partition(".")[2] in text(statement) or _CUDA.partition(".")[2] in text(statement)
            found[statement] = Site(statement.lineno, done, (torch,), _ELSEWHERE * (refuses and not done))
    return list(found.values())


def _of_tensor(script: Script, call: ast.Call, statement: ast.stmt) -> bool:
    """Whether a call pins a tensor, and the result is used: something else may have a method of that name, too."""
    if not isinstance(call.func, ast.Attribute) or call.args or call.keywords:
        return False
    if isinstance(statement, ast.Expr) and statement.value is call:
        return False
    if last(call.func.value) in _SETTINGS or _says_so(call.func.value) or _of_own_class(script, call.func.value):
        return False
    if _of_others(script, call.func.value, statement):
        return False
    entered = isinstance(statement, (ast.With, ast.AsyncWith)) and any(i.context_expr is call for i in statement.items)
    awaited = any(isinstance(node, ast.Await) and node.value is call for node in own(statement))
    return not (entered or awaited or any(_as_truth(node, call) for node in (statement, *own(statement))))


def _of_others(script: Script, node: ast.expr, statement: ast.stmt) -> bool:
    """Whether a name is of an allocator, or of a parameter that is said to be no tensor."""
    function = script.function(statement)
    given = [each for each, _ in defaults(function.args)] if function else []
    said = [text(each.annotation) for each in given if each.annotation and each.arg == text(node)]
    words = r"Tensor|Batch|Any|dict|Dict|list|List|tuple|Encoding"
    return "alloc" in last(node).lower() or any(not re.search(words, each) for each in said)


def _of_own_class(script: Script, node: ast.expr) -> bool:
    """Whether a name was given an object of a class of the script's that has such a method."""
    owners = {owner.name for each in script.functions.get(_NAME, []) if (owner := script.class_of(each))}
    made = [
        last(line.value.func)
        for line, _ in script.statements
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Call) and text(node) in map(text, line.targets)
    ]
    return any(each in owners for each in made)


def _says_so(node: ast.expr) -> bool:
    """Whether a name, or what it belongs to, says that it holds settings."""
    parts = [part.lower() for part in dotted(node).split(".")]
    known = any(part in _SETTINGS[:-1] for part in parts)  # `self` may hold anything
    return known or any(word in part for part in parts for word in ("config", "setting", "option", "args"))


def _as_truth(node: ast.AST, call: ast.Call) -> bool:
    """Whether an expression or a statement only asks whether what a call gives is true."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        return node.test is call
    if isinstance(node, ast.keyword):
        return node.value is call and (node.arg or "").startswith("pin_")
    if isinstance(node, ast.Assign):
        return node.value is call and any("pin" in last(target) for target in node.targets)
    return (isinstance(node, (ast.BoolOp, ast.Compare)) and call in children(node)) or (
        isinstance(node, ast.UnaryOp) and node.operand is call
    )


def _guarded(script: Script, part: ast.expr, statement: ast.stmt) -> bool:
    """Whether a part of a statement is come to only where there is an accelerator."""
    torch = script.torch
    guards = [each.replace("torch", torch) for each in (_GUARD, _CUDA)]
    chosen = [
        node
        for node in own(statement)
        if isinstance(node, ast.IfExp)
        and any(requires(node.test, each) for each in guards)
        and part in every(node.body)
    ]
    around = any(guarded(statement, script.above[statement], each) for each in guards)
    return bool(chosen) or around or for_cuda(script, statement)


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """What is made pinned, pinned for a device by its name, or pinned by a method that is handed on."""
    script = read(tree)
    for statement, _ in script.statements:
        for node in own(statement):
            handed_on = isinstance(node, ast.Attribute) and script.full(node) == f"torch.Tensor.{_NAME}"
            pins = handed_on or (isinstance(node, ast.Call) and _pins(script, node))
            if pins and isinstance(node, ast.expr) and not _guarded(script, node, statement):
                yield Sign(statement.lineno, "memory pinned whether or not there is an accelerator")


def _pins(script: Script, call: ast.Call) -> bool:
    """Whether a call makes a tensor in pinned memory, or pins one for CUDA by its name."""
    makes = bool(re.fullmatch(r"torch\.\w+", script.full(call.func)))
    pinned = any(text(each) == "True" for each in handed(call, _NAME, at=None))
    named = last(call.func) == _NAME and any(text(each).startswith("'cuda") for each in handed(call, "device"))
    return (makes and pinned) or named


def edits(block: Block, options: Options) -> Iterator[Splice]:
    torch = block.script.torch

    def choose(code: str) -> str | None:
        match parsed(code):
            case ast.Call(func=ast.Attribute(attr="pin_memory", value=tensor), args=[], keywords=[]):
                return f"{code} if {_GUARD.replace('torch', torch)} else {written(code, tensor)}"
        return None

    for index, _ in block.wanted():
        chosen = block.with_expressions(block.statements[index], "Call", f".{_NAME}", choose)
        if chosen is not block.statements[index]:
            yield Splice.instead(index, [chosen])
