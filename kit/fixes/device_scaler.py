"""Scale the gradients of a training loop of one's own on the device that trains, not always on CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import defaults, every, handed, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import own
from kit.fixes._roles.holders import accelerator, has_accelerator
from kit.fixes._roles.paths import missing
from kit.fixes._roles.places import for_cuda

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "take the gradient scaler of the device that trains"
WHY = """\
`torch.cuda.amp.GradScaler` switches itself off where there is no CUDA, with a warning: small fp16 gradients underflow
to zero, and an overflow goes into the weights. `torch.amp.GradScaler` is told the kind of device. (torch 2.3 or newer)
A scaler inside accelerate is another construct: grad-scaler."""
LINKS = ()
NEEDS = ()
GENERAL = True
TORCH = "2.3"
UPSTREAM = "pytorch #119358 is open"
EXAMPLE = """\
import torch


def train(device):
    scaler = torch.cuda.amp.GradScaler()
"""


_OLD = ("torch.cuda.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler")
_NEW = ("torch.amp.GradScaler", "torch.amp.grad_scaler.GradScaler", "torch.GradScaler")
_DEVICES = ("device", "self.device", "args.device", "self.args.device", "cfg.device", "config.device")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements that make a gradient scaler; in order where it is told the kind of device. Those that accelerate
    makes are another fix's."""
    script = read(tree)
    found: dict[ast.stmt, Site] = {}
    for call, statement in (*script.calls["GradScaler"], *_renamed(script)):
        told = script.full(call.func) in _NEW
        if not told and script.full(call.func) not in _OLD:
            continue
        if _for_accelerate(statement, script):
            continue
        done = (told and not _named_cuda(call)) or for_cuda(script, statement)
        _, why = _kind(script, statement)
        torch = "" if script.spelt("torch") else "`torch` is not bound there: import it, or skip the fix"
        if statement not in found or not done:
            found[statement] = Site(statement.lineno, done, refuses="" if done else why or torch)
    return list(found.values())


def _renamed(script: Script) -> list[tuple[ast.Call, ast.stmt]]:
    """The calls of a GradScaler that was imported under another name."""
    names = [name for name, (full, _) in script.imports.items() if full in (*_OLD, *_NEW) and name != "GradScaler"]
    return [each for name in names for each in script.calls[name]]


def _for_accelerate(statement: ast.stmt, script: Script) -> bool:
    """Whether a scaler is accelerate's own, which another fix is about."""
    return (
        any(getattr(node, "name", "") == "Accelerator" for node in script.above[statement])
        or text(statement) in _ITS_OWN
    )


_ITS_OWN = ("self.scaler = torch.cuda.amp.GradScaler(**kwargs)", "self.scaler = torch.amp.GradScaler('cuda', **kwargs)")


def _named_cuda(call: ast.Call) -> bool:
    """Whether a scaler is CUDA's, by name or as it is told none."""
    given = handed(call, "device")
    return not given or any(isinstance(value, ast.Constant) and value.value == "cuda" for value in given)


def _kind(script: Script, statement: ast.stmt) -> tuple[str, str]:
    """What the kind of the device that trains is called where a statement is; and why that is not known."""
    torch = script.spelt("torch") or "torch"
    reasons = {name: _lacks(script, name, statement) or _no_device(script, name) for name in _DEVICES}
    name = next((name for name, reason in reasons.items() if not reason), "")
    if name:
        return f"{torch}.device({name}).type", ""
    held, why = accelerator(script, statement)
    if has_accelerator(script) and not why:
        return f"{held}.device.type", ""
    return "", f"{reasons['device']}: name the device that trains so, or skip the fix"


def _lacks(script: Script, name: str, statement: ast.stmt) -> str:
    """Why a name cannot be relied on to be the device."""
    holder, _, _ = name.rpartition(".")
    if not holder:
        return missing(script, name, statement)
    scope = script.class_of(statement) if holder.startswith("self") else script.scopes(statement)[0]
    used = any(isinstance(node, ast.Attribute) and text(node) == name for node in every(scope or script.tree))
    made = [
        line
        for line in script.inside(script.scopes(statement)[0])
        if isinstance(line, ast.Assign) and name in map(text, line.targets)
    ]
    late = bool(made) and made[0].lineno > statement.lineno
    return missing(script, name, statement) if used and not late else f"`{name}` is not bound there"


def _no_device(script: Script, name: str) -> str:
    """Why what a name holds is no device, by what the script does with it; "" where it may be one."""
    why = f"`{name}` is not known to be a device"
    nodes = [node for line, _ in script.statements for node in (line, *own(line))]
    for node in nodes:
        if isinstance(node, ast.Subscript) and text(node.value) == name:
            return why
        if isinstance(node, ast.Attribute) and node.attr in _OF_OTHERS and text(node.value) == name:
            return why
        if isinstance(node, ast.Assign) and text(node.value) == name and "environ" in text(node.targets[0]):
            return why
        if isinstance(node, ast.Assign) and name in map(text, node.targets) and not _may_be(node.value):
            return why
        if isinstance(node, ast.arguments) and any(
            each.arg == name and (_number(value) or (each.annotation and text(each.annotation) == "int"))
            for each, value in defaults(node)
        ):
            return why
    used = any(isinstance(node, ast.Call) and name in map(text, _handed(script, node)) for node in nodes)
    return "" if used or name in ("device", "self.device") else why


_OF_OTHERS = ("split", "items", "keys", "append")  # what texts, dictionaries and lists have


def _handed(script: Script, call: ast.Call) -> list[ast.expr]:
    """What a call is given as a device."""
    takes = text(call.func).endswith(".to") or script.full(call.func) in ("torch.device", "torch.set_default_device")
    return handed(call, "device", "device_type", "map_location", at=0 if takes else None)


def _may_be(value: ast.expr) -> bool:
    """Whether what a name is given may be a device: no number, no list, no parts of a text."""
    parts = isinstance(value, ast.Call) and text(value.func).endswith(".split")
    return not (parts or _number(value) or isinstance(value, (ast.List, ast.Tuple, ast.Dict, ast.ListComp)))


def _number(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        kind = _kind(block.script, node)[0]
        torch = block.script.spelt("torch")

        def told(code: str, kind: str = kind, torch: str = torch) -> str | None:
            call = ast.parse(f"({code})", mode="eval").body
            full = block.script.full(call.func) if isinstance(call, ast.Call) else ""
            if full not in (*_OLD, *_NEW) or not _named_cuda(call):  # type: ignore[arg-type]
                return None
            new, count = re.subn(r"""(["'])cuda\1""", kind, code, count=1)
            if count:
                return new
            name = re.escape(text(call.func))  # type: ignore[attr-defined]
            made = text(call.func) if full in _NEW else f"{torch}.amp.GradScaler"  # type: ignore[attr-defined]
            more = ", " * bool(call.args or call.keywords)  # type: ignore[attr-defined]
            return re.sub(rf"{name}\((\s*)", rf"{made}(\g<1>{kind}{more}", code, count=1)

        made = block.with_expressions(block.statements[index], "Call", "", told)
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])
