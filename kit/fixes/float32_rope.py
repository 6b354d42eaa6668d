"""Compute rotary embeddings in float32 on devices that have no float64.

Newer upstream files ask `maybe_adjust_dtype_for_device`, and so does what is written in a file that imports it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import defaults, every, handed, same, text
from kit.fixes._positions import changed, end, parsed, start
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import FUNCTIONS, last, own

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "rotary embedding in float32 where the device has no float64"
WHY = """\
The angles of a rotary embedding are computed in float64, unless the machine is a Mac. An Ascend NPU has no float64
arithmetic either, nor has a Sophgo TPU: the first forward pass ends there. The result is float32 in any case, and
on Macs upstream computes it so throughout. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ()
GENERAL = True
LIBRARY = True
TORCH = "2.6"
UPSTREAM = (
    "#10123, #11316, #11643, #12665, then maybe_adjust_dtype_for_device (#13289); eight files ask for a Mac alone"
)
EXAMPLE = """\
import torch


def rope(positions, dim):
    dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
    return torch.arange(0, dim, 2, dtype=dtype)
"""

_MAC = "torch.backends.mps.is_available"
_WITHOUT = 'str({torch}.accelerator.current_accelerator()) in ("mps", "npu", "tpu")'
_OTHERS, _NONE = 'in ("npu", "tpu")', 'in ("mps", "npu", "tpu")'
_HELPER = "maybe_adjust_dtype_for_device"
_ANGLES = re.compile(
    r"rope|rotary|sin_?cos|sinusoid|pos_?emb|freqs|timestep_emb", re.IGNORECASE
)  # what such functions are called


_SCORES = re.compile(r"loss|metric", re.IGNORECASE)  # whose float64 is wanted


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The choices between float32 and float64 by what machine it is, or by whether a tensor is on a Mac's GPU, and what
    is made in float64 on a tensor's own device where angles are worked out; in order where an NPU gets float32."""
    script = read(tree)
    found = []
    for statement, _ in script.statements:
        asked = [_in_order(script, statement, node) for node in own(statement)]
        if known := [done for done in asked if done is not None]:
            found.append(Site(statement.lineno, all(known), (script.torch,)))
    return found


def _in_order(script: Script, statement: ast.stmt, node: ast.AST) -> bool | None:
    """Whether an NPU gets float32 by an expression; None for one that makes no such choice."""
    if isinstance(node, ast.IfExp):
        better = _better(script, node, statement)
        return not better if better or _knows_npu(script, node) else None
    if isinstance(node, ast.Call) and last(node.func) == _HELPER and _is64(script, *handed(node, "dtype")):
        return True
    lacks = isinstance(node, ast.Call) and _angles(script, statement) and _alone(script, statement, node)
    return False if lacks and _made(script, node) else None  # type: ignore[arg-type]


def _alone(script: Script, statement: ast.stmt, call: ast.Call) -> bool:
    """Whether a call is of angles, by all one sees: no integers, nothing that is compared or goes to numpy, and nothing
    else in float64 beside it."""
    integers = "ids" in text(call.func).lower()
    nodes = own(statement)
    doubles = sum(isinstance(node, (ast.Attribute, ast.Name)) and last(node) in _DOUBLES for node in nodes)
    made = sum(isinstance(node, ast.Call) and bool(_made(script, node)) for node in nodes)
    return not (integers or doubles > made or isinstance(statement, ast.Assert) or ".numpy()" in text(statement))


_DOUBLES = ("float64", "double")


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """float64 where angles are worked out, on a device that is not known."""
    script = read(tree)
    for statement, _ in script.statements:
        nodes = list(own(statement))
        given = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg in ("dtype", "freqs_dtype")]
        moved = [arg for node in nodes if isinstance(node, ast.Call) and last(node.func) in _CASTS for arg in node.args]
        assigned = [statement.value] if isinstance(statement, ast.Assign) else []
        chosen = any(isinstance(node, ast.IfExp) and _for_macs(script, node, statement) for node in nodes)
        plain = any(_is64(script, value) for value in (*given, *moved, *assigned, *_constants(script, given)))
        plain |= any(isinstance(node, ast.Call) and _doubles(node) for node in nodes)
        known = any(
            isinstance(node, ast.Call) and _alone(script, statement, node) and _made(script, node) for node in nodes
        )
        default = isinstance(statement, FUNCTIONS) and bool(_ANGLES.search(statement.name))
        plain |= default and any(_is64(script, each) for _, each in defaults(statement.args) if each)  # type: ignore[attr-defined]
        angles = plain and (default or _angles(script, statement)) and not known and "cpu" not in text(statement)
        if (angles and not _npu_asked(script, statement)) or chosen:
            yield Sign(statement.lineno, "a rotary embedding worked out in float64")
        elif not _angles(script, statement) and _on_device(script, statement):
            yield Sign(statement.lineno, "float64 on a device that may have none")


def _on_device(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement has something in float64 on the device that it trains on, and not on the CPU."""
    calls = [node for node in own(statement) if isinstance(node, ast.Call)]
    made = [
        call
        for call in calls
        if any(_is64(script, each) for each in handed(call, "dtype", at=1))
        and any(text(each).endswith("device") for each in handed(call, "device"))
        and (last(call.func) == "to" or script.full(call.func).startswith("torch."))
    ]
    trains = any(isinstance(each, ast.For) and ".backward(" in text(each) for each in script.above[statement])
    cast = [
        call
        for call in calls
        if _doubles(call) or (last(call.func) in _CASTS and any(_is64(script, each) for each in call.args))
    ]
    return bool(made or (trains and cast)) and not re.search("cpu|numpy|mps|npu", text(statement))


_CASTS = ("to", "type")


def _doubles(call: ast.Call) -> bool:
    """Whether a call is `x.double()`."""
    return isinstance(call.func, ast.Attribute) and call.func.attr == "double" and not (call.args or call.keywords)


def _constants(script: Script, given: list[ast.expr]) -> list[ast.expr]:
    """What the module gives the names that are handed on, by one assignment at its top."""
    tops = [line for line in script.tree.body if isinstance(line, ast.Assign)]
    names = {each.id for each in given if isinstance(each, ast.Name)}
    return [line.value for line in tops if any(text(target) in names for target in line.targets)]


def _for_macs(script: Script, node: ast.IfExp, statement: ast.stmt) -> bool:
    """Whether a choice between float32 and float64 asks for a Mac alone, in a form that is not known."""
    both = [script.full(each) for each in (node.body, node.orelse)]
    double = any(each in ("torch.float64", "torch.double") for each in both)
    single = any(each in ("torch.float32", "torch.float") for each in both)
    asked = double and single and not _better(script, node, statement) and not _npu_asked(script, statement)
    return asked and (_angles(script, statement) or "mps" in text(node.test).lower()) and not _scores(script, statement)


def _npu_asked(script: Script, statement: ast.stmt) -> bool:
    """Whether the function of a statement also asks for an NPU, however it does so."""
    return "npu" in text(script.function(statement) or statement)


def _scores(script: Script, statement: ast.stmt) -> bool:
    function = script.function(statement)
    return bool(function and _SCORES.search(function.name))


def _is64(script: Script, *nodes: ast.AST) -> bool:
    return any(script.full(node) in ("torch.float64", "torch.double") for node in nodes)


def _angles(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement is in a function, or a class, that by its name works out angles."""
    around = [node for node in script.above[statement] if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    return any(_ANGLES.search(node.name) for node in around)


def _made(script: Script, call: ast.Call) -> str:
    """The device that a call makes or moves something in float64 on: a tensor's own; "" for other calls."""
    named = {each.arg: each.value for each in call.keywords}
    match call:
        case ast.Call(
            func=ast.Attribute(attr="to", value=ast.Name() | ast.Attribute() as moved), args=[to], keywords=[]
        ):
            return f"{text(moved)}.device" if _is64(script, to) else ""
    device = text(named["device"]) if "device" in named else ""
    makes = script.full(call.func).startswith("torch.") and "dtype" in named and _is64(script, named["dtype"])
    return device if makes and device.endswith(".device") else ""


def _chooses(script: Script, node: ast.IfExp) -> bool:
    return script.full(node.body) in ("torch.float32", "torch.float") and _is64(script, node.orelse)


def _knows_npu(script: Script, node: ast.IfExp) -> bool:
    return _chooses(script, node) and "npu" in text(node.test)


def _better(script: Script, node: ast.IfExp, statement: ast.stmt) -> str:
    """The test that also asks for an NPU; "" where it is another choice, or does so."""
    if not _chooses(script, node):
        return ""
    function = script.function(statement)
    if _scores(script, statement):
        return ""
    if isinstance(node.test, ast.Call) and script.full(node.test.func) == _MAC:
        return _WITHOUT.format(torch=script.torch)
    named = function if isinstance(node.test, ast.Name) else None
    kind = _kind_asked(named, text(node.test), statement.lineno) if named else _kind(node.test)
    return f"{text(node.test)} or {kind} {_OTHERS}" if kind else ""


def _kind_asked(function: ast.AST, name: str, line: int) -> str:
    """`x.device.type`, where all that a function assigns to ``name`` is whether that is "mps", and `x` is the same at a
    line."""
    given = [node for node in every(function) if isinstance(node, ast.Assign)]
    match [node for node in given if any(same(target, name) for target in node.targets)]:
        case [asks] if kind := _kind(asks.value):
            between = [node for node in given if asks.lineno < node.lineno < line]
            whose = kind.removesuffix(".device.type")
            return "" if any(whose in map(text, node.targets) for node in between) else kind
    return ""


def _kind(test: ast.expr) -> str:
    """`x.device.type`, where a test is whether that is "mps"."""
    match test:
        case ast.Compare(left=ast.Attribute() as kind, ops=[ast.Eq()], comparators=[ast.Constant(value="mps")]):
            return text(kind) if text(kind).endswith(".device.type") else ""
    return ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    script = block.script

    def in_float32(code: str) -> str | None:
        call = parsed(code)
        if not isinstance(call, ast.Call) or not (device := _made(script, call)):
            return None
        [dtype] = handed(call, "dtype", at=None) or call.args
        torch = script.torch
        asks = f"{_HELPER}({torch}.float64, {device})"
        chooses = f"{torch}.float32 if {device}.type {_NONE} else {torch}.float64"
        new = asks if _HELPER in script.imports else chooses
        return changed(code, [(start(dtype), end(dtype), new)])

    for index, node in block.wanted():

        def choose(code: str, node: ast.stmt = node) -> str | None:
            chosen = parsed(code)
            better = _better(script, chosen, node) if isinstance(chosen, ast.IfExp) else ""
            return changed(code, [(start(chosen.test), end(chosen.test), better)]) if better else None  # type: ignore[attr-defined]

        made = block.statements[index]
        made = block.with_expressions(made, "IfExp", " if ", choose)
        made = block.with_expressions(made, "Call", "", in_float32) if made is block.statements[index] else made
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])
