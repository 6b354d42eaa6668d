"""Take the gradient scaler of the device that trains, not always CUDA's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import guarded, handed, imports, same, statements
from kit.fixes._roles import Script, read
from kit.fixes._roles.holders import device_missing
from kit.fixes._roles.places import for_cuda

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "take a PrivateUse1 device's own GradScaler"
WHY = """\
accelerate scales fp16 gradients with `torch.cuda.amp.GradScaler`, which without CUDA warns and switches itself off:
small gradients underflow to zero, and an overflow goes into the weights. A device that a package registered with torch
(PrivateUse1: tpu, npu, …) has its own, at torch.<device>.amp.GradScaler. The device's name leads to it: to import the
package here would make its name local to the whole function, and the guard above fail with UnboundLocalError."""
LINKS = ()
NEEDS = ("self", "torch")
GENERAL = True
UPSTREAM = "accelerate #3588 (2025-05) lets torch choose"
EXAMPLE = """\
import torch


class Accelerator:
    def prepare(self, kwargs):
        self.scaler = torch.cuda.amp.GradScaler(**kwargs)
"""

_DEVICE = "self.device.type == torch._C._get_privateuse1_backend_name()"
_OWN = "self.scaler = getattr(torch, self.device.type).amp.GradScaler"
# How accelerate took CUDA's scaler, before 0.3 to 1.0 and since; the test that a device of its own goes by there, and
# what it takes instead. The last one chooses by itself, among the kinds it knows, and shards under FSDP.
_CHOICES = {
    "self.scaler = torch.cuda.amp.GradScaler()": (_DEVICE, f"{_OWN}()"),
    "self.scaler = torch.cuda.amp.GradScaler(**kwargs)": (_DEVICE, f"{_OWN}(**kwargs)"),
    "self.scaler = torch.amp.GradScaler('cuda', **kwargs)": (_DEVICE, f"{_OWN}(**kwargs)"),
    "self.scaler = get_grad_scaler(self.distributed_type, **kwargs)": (
        f"self.distributed_type != DistributedType.FSDP and {_DEVICE}",
        f"{_OWN}(**kwargs)",
    ),
}
_OTHERS = ("torch.cuda.is_available()", "self.state.mixed_precision == 'bf16'")  # CUDA alone; needs no scaler
_FP16 = ("fp16", "self.state.use_fp16")  # without arguments it is this one's there, and MS-AMP's elsewhere
_Choice = tuple[str, str]


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The places that take CUDA's scaler for fp16; in order below a branch for devices of their own."""
    found = []
    for statement, above in statements(tree):
        choice, gate = _choice(statement), above[-1]
        bare = choice and choice[1].endswith("()") and not any(guarded(statement, above, test) for test in _FP16)
        if not choice or bare or _choice(gate) or any(guarded(statement, above, test) for test in _OTHERS):
            continue
        if "DistributedType" not in choice[0] or imports(tree, "DistributedType"):
            done = _below_own(statement, gate, choice)
            other = any(isinstance(node, ast.If) and same(node.test, choice[0]) for node in above)
            refuses = (
                f"the branch above for such a device takes no scaler of its own: write `{choice[1]}` there" * other
            )
            found.append(Site(statement.lineno, done, refuses=refuses or device_missing(read(tree), statement)))
    return found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where accelerate's own class takes CUDA's scaler in another way."""
    script = read(tree)
    for call, statement in script.calls["GradScaler"]:
        around = script.above[statement]
        own = "Accelerator" in (getattr(node, "name", "") for node in around)
        cuda = script.full(call.func).startswith("torch.cuda.") or any(
            same(each, "'cuda'") for each in handed(call, "device")
        )
        known = _choice(statement) or any(guarded(statement, around, test) for test in _OTHERS)
        if own and cuda and not known and not for_cuda(script, statement):
            yield Sign(statement.lineno, "a gradient scaler of CUDA alone")


def _choice(statement: ast.AST) -> _Choice | None:
    """What a device of its own goes by and takes, where a statement takes CUDA's scaler, one way or, by torch's
    version, another."""
    match statement:
        case ast.If(body=[yes], orelse=[no]):
            return _choice(yes) if _choice(yes) == _choice(no) else None
    return _CHOICES.get(ast.unparse(statement)) if isinstance(statement, ast.Assign) else None


def _below_own(statement: ast.stmt, gate: ast.AST, choice: _Choice) -> bool:
    """Whether ``statement`` is what an `if` does that takes the device's own scaler first."""
    mine = isinstance(gate, ast.If) and same(gate.test, choice[0]) and choice[1] in map(ast.unparse, gate.body)
    return mine and statement in gate.orelse  # type: ignore[attr-defined]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    """An `else` that does nothing else gets an `elif` above it; elsewhere the statement becomes an `if`."""
    for index, node in block.simple():
        whole = _choice(node)
        if whole and node.lineno in block.todo and not _inside(block):
            yield Splice.instead(index, [block.choosing(block.statement(_code(whole)), block.statements[index])])
        below = _last_else(block.script, node)
        choice = _choice(below) if below else None
        if below and choice and below.lineno in block.todo:
            yield Splice.instead(index, [block.with_elif(block.statements[index], block.statement(_code(choice)))])


def _last_else(script: Script, node: ast.AST) -> ast.stmt | None:
    """The one statement that the `else` of an `if` and its `elif`s does; None where it is another number."""
    match node:
        case ast.If(orelse=[below]):
            elif_ = isinstance(below, ast.If) and script.is_elif(below)
            return _last_else(script, below) if elif_ else below
    return None


def _code(choice: _Choice) -> str:
    return f"if {choice[0]}:\n    {choice[1]}\n"


def _inside(block: Block) -> bool:
    """Whether this block is all there is to an `else`."""
    return block.in_else() and len(block.nodes) == 1
