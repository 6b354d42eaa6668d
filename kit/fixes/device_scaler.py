"""Scale the gradients of a training loop of one's own on the device that trains, not always on CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import defaults, every, handed, same, text
from kit.fixes._cuda import PLACES
from kit.fixes._positions import Change, changed, end, parsed, start
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import Scope, dotted, last, own
from kit.fixes._roles.holders import accelerator, has_accelerator
from kit.fixes._roles.paths import missing
from kit.fixes._roles.places import asks_cuda, for_cuda

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


_CLASS = "GradScaler"
_OLD = ("torch.cuda.amp.GradScaler", "torch.cuda.amp.grad_scaler.GradScaler")
_NEW = ("torch.amp.GradScaler", "torch.amp.grad_scaler.GradScaler", "torch.GradScaler")
_DEVICES = ("device", "self.device", "args.device", "self.args.device", "cfg.device", "config.device")


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements that make a gradient scaler; in order where it is told the kind of device. Those that accelerate
    makes are another fix's."""
    script = read(tree)
    found: dict[ast.stmt, Site] = {}
    for call, statement in _calls(script):
        told = _full(script, call.func, statement) in _NEW
        if not told and _full(script, call.func, statement) not in _OLD:
            continue
        if _for_accelerate(statement, script):
            continue
        done = (told and not _named_cuda(call)) or for_cuda(script, statement) or _older(script, statement)
        _, why = _kind(script, statement)
        why = _either(script, call) or why
        torch = "" if script.spelt("torch") else "`torch` is not bound there: import it, or skip the fix"
        if statement not in found or not done:
            found[statement] = Site(statement.lineno, done, refuses="" if done else why or torch)
    return list(found.values())


def _either(script: Script, call: ast.Call) -> str:
    """Why a name of a scaler may not be told the device: where torch is older, another import gives it CUDA's."""
    name = dotted(call.func)
    given = {full for full, _ in script.imported.get(name, ())}
    both = given & {*_OLD} and given & {*_NEW}
    return (
        f"`{name}` is CUDA's own by one import of it, which is told no device: keep the other one alone" if both else ""
    )


def _older(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement is for a torch that has no scaler that is told its device: the other branch asks for that."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        asks = text(node.test) if isinstance(node, ast.If) and inner in node.orelse else ""
        if "hasattr" in asks and _CLASS in asks:
            return True
        inner = node
    return False


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """CUDA's class of scalers where it is not called: inherited from, chosen, handed on, asked for by its name."""
    script = read(tree)
    for statement, _ in script.statements:
        nodes = own(statement)
        by_name = any(isinstance(node, ast.Constant) and node.value == _CLASS for node in nodes) and any(
            isinstance(node, ast.Call) and last(node.func) == "getattr" for node in nodes
        )
        named = [node for node in nodes if isinstance(node, (ast.Name, ast.Attribute)) and script.full(node) in _OLD]
        passed_on = named and not _known(script, statement).issuperset(named)
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        only = any(_full(script, call.func, statement) in (*_OLD, *_NEW) and _only_cuda(call) for call in calls)
        if (by_name or passed_on or only) and not for_cuda(script, statement):
            yield Sign(
                statement.lineno, f"a gradient scaler {'switched on for CUDA alone' if only else 'of CUDA alone'}"
            )


def _only_cuda(call: ast.Call) -> bool:
    """Whether a scaler is switched on by whether the device is CUDA."""
    return any(asks_cuda(value) for value in handed(call, "enabled", at=None))


def _known(script: Script, statement: ast.stmt) -> set[ast.AST]:
    """What in a statement is called, which `sites` is about, or only says what something is."""
    nodes = (statement, *own(statement))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    asks = [call for call in calls if last(call.func) in ("isinstance", "issubclass")]
    says = [getattr(node, word, None) for node in nodes for word in ("annotation", "returns")]
    given = statement.targets if isinstance(statement, ast.Assign) else []
    scope, aliases = script.scopes(statement)[0], script.once(_aliases)
    alias = {statement.value for each in given if (scope, dotted(each)) in aliases}  # type: ignore[attr-defined]
    inner = {part for node in (*asks, *says) if node for part in every(node)}
    return {*inner, *alias, *(call.func for call in calls)}


def _full(script: Script, node: ast.AST, statement: ast.stmt) -> str:
    """A dotted name in full, that of a class that was given another one there, too."""
    return script.once(_aliases).get((script.scopes(statement)[0], dotted(node))) or script.full(node)


def _aliases(script: Script) -> dict[tuple[Scope, str], str]:
    """The names that are only ever given one class of scalers where they are, each with that class."""
    given: dict[tuple[Scope, str], set[str]] = {}
    for line, _ in script.statements:
        if isinstance(line, ast.Assign):
            for target in line.targets:
                given.setdefault((script.scopes(line)[0], dotted(target)), set()).add(script.full(line.value))
    return {key: full for key, made in given.items() for full in made if len(made) == 1 and full in (*_OLD, *_NEW)}


def _calls(script: Script) -> list[tuple[ast.Call, ast.stmt]]:
    """The calls of what may be a GradScaler, by its own name or another."""
    names = [_CLASS, *(name for name, (full, _) in script.imports.items() if full in (*_OLD, *_NEW))]
    names += [name.rpartition(".")[2] for _, name in script.once(_aliases)]
    return [each for name in dict.fromkeys(names) for each in script.calls[name]]


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
    torch = script.torch
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
    used = any(same(node, name) for node in every(scope or script.tree))
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
    if name.endswith("args.device") and script.once(_chosen_later):
        return why
    if any(not each.decorator_list for each in script.functions.get(name.removeprefix("self."), ())):
        return why
    for node in nodes:
        if isinstance(node, ast.Subscript) and text(node.value) == name:
            return why
        if isinstance(node, ast.Attribute) and node.attr in _OF_OTHERS and text(node.value) == name:
            return why
        if isinstance(node, ast.withitem) and same(node.optional_vars, name):
            return why
        if isinstance(node, ast.Assign) and text(node.value) == name and "environ" in text(node.targets[0]):
            return why
        if isinstance(node, ast.Assign) and name in map(text, node.targets):
            later = text(node.value).endswith("args.device") and script.once(_chosen_later)
            of_other = text(node.value) == "device" and name != "device" and _no_device(script, "device")
            if later or of_other or not _may_be(node.value):
                return why
        if isinstance(node, ast.arguments) and any(
            each.arg == name
            and (_number(value) or _no_kind(value) or (each.annotation and text(each.annotation) == "int"))
            for each, value in defaults(node)
        ):
            return why
    used = any(isinstance(node, ast.Call) and name in map(text, _handed(script, node)) for node in nodes)
    return "" if used or name in ("device", "self.device") else why


def _chosen_later(script: Script) -> bool:
    """Whether `--device` is by default something that names no kind of device."""
    calls = [call for call, _ in script.calls["add_argument"]]
    asked = [call for call in calls if any(text(each) == "'--device'" for each in call.args)]
    return any(_no_kind(value) for call in asked for value in handed(call, "default", at=None))


_OF_OTHERS = ("split", "items", "keys", "append")  # what texts, dictionaries and lists have


def _handed(script: Script, call: ast.Call) -> list[ast.expr]:
    """What a call is given as a device."""
    takes = text(call.func).endswith(".to") or script.full(call.func) in ("torch.device", "torch.set_default_device")
    return handed(call, *PLACES, at=0 if takes else None)


def _may_be(value: ast.expr) -> bool:
    """Whether what a name is given may be a device: no number, no list, no parts of a text."""
    parts = isinstance(value, ast.Call) and text(value.func).endswith(".split")
    return not (
        parts or _number(value) or _no_kind(value) or isinstance(value, (ast.List, ast.Tuple, ast.Dict, ast.ListComp))
    )


_KIND = re.compile(r"(cpu|cuda|mps|npu|tpu|xla|xpu|hpu|mlu|musa|meta|privateuseone)(:\d+)?$")


def _no_kind(value: ast.expr | None) -> bool:
    """Whether a text names no kind of device: "auto"."""
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and not _KIND.match(value.value)


def _number(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        kind = _kind(block.script, node)[0]
        torch = block.script.spelt("torch")

        def told(code: str, node: ast.stmt = node, kind: str = kind, torch: str = torch) -> str | None:
            call = parsed(code)
            full = _full(block.script, call.func, node) if isinstance(call, ast.Call) else ""
            if not isinstance(call, ast.Call) or not (full in _OLD or (full in _NEW and _named_cuda(call))):
                return None
            return changed(code, _told(call, kind, f"{torch}.amp.{_CLASS}" if full in _OLD else text(call.func)))

        made = block.with_expressions(block.statements[index], "Call", "", told)
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])


def _told(call: ast.Call, kind: str, made: str) -> list[Change]:
    """What is changed in a call of a class of scalers, so that it is one of ``made``, told the ``kind``."""
    named = [each for each in handed(call, "device") if isinstance(each, ast.Constant) and each.value == "cuda"]
    if named:
        return [(start(each), end(each), kind) for each in named]
    arguments = [*map(start, call.args), *map(start, call.keywords)]
    where = min(arguments, default=end(call, 1))
    return [(start(call.func), end(call.func), made), (where, where, kind + ", " * bool(arguments))]
