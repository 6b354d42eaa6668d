"""Empty the memory cache of whatever accelerator there is, not only CUDA's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import conjuncts, defaults, every, same, text
from kit.fixes._cuda import asks_available
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import FUNCTIONS, own
from kit.fixes._roles.places import asks_others, denied, for_cuda

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "empty the memory cache of any accelerator"
WHY = """\
`torch.cuda.empty_cache()` does nothing on an NPU: what the text encoders and the VAE used stays reserved when the
transformer is loaded, and a card on which the run would fit is out of memory. The device module of whatever
accelerator there is has the same function. (torch 2.6 or newer)"""
LINKS = ()
NEEDS = ()
GENERAL = True
LIBRARY = True
TORCH = "2.6"
UPSTREAM = "helpers of its own for NPU and XPU in places (#10602, #11617); plain CUDA in most scripts"
EXAMPLE = """\
import torch

torch.cuda.empty_cache()
"""


_CUDA = "torch.cuda.empty_cache"
_EMPTIES_ANY = re.compile(r"(get_device_module\(\)|accelerator)\.empty_cache\(")
_ANY, _IS_THERE = "torch.get_device_module().empty_cache", "torch.accelerator.is_available"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The places where CUDA's cache is emptied or any accelerator's; in order where any accelerator's is: by the call
    itself, in the `elif` of the branch for CUDA, or by a branch for another kind of device."""
    script = read(tree)
    found: dict[ast.stmt, Site] = {}
    for call, statement in script.calls["empty_cache"]:
        if not isinstance(statement, ast.Expr) or statement.value is not call:
            continue
        branch = _branch(script, statement)
        if script.full(call.func) == _CUDA and branch:
            done = _others(script, branch)
            other = (
                "its `else` would no longer be for that accelerator: give it a test of its own"
                if list(_down(branch))[-1].orelse
                else ""
            )
            found[branch] = Site(branch.lineno, done, (script.torch,), "" if done else other)
        elif script.full(call.func) == _CUDA and not _guarded(script, statement):
            reason = ""
            if leaves := _left(script, statement):
                reason = f"`{leaves}` leaves where there is no CUDA: ask for any accelerator there first"
            elif asks := _beside(script, statement):
                reason = f"`{asks}` keeps other accelerators out: ask `{_IS_THERE}()` there instead"
            found[statement] = Site(statement.lineno, False, (script.torch,), reason)
        elif text(call.func).endswith("get_device_module().empty_cache") and not (branch and branch in found):
            found.setdefault(statement, Site(statement.lineno, True))
    return list(found.values())


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where CUDA's cache is emptied in an expression, or under another name."""
    script = read(tree)
    for statement, _ in script.statements:
        plain = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        called = statement.value.func if plain else None  # type: ignore[attr-defined]
        names = [node for node in own(statement) if isinstance(node, (ast.Name, ast.Attribute)) and node is not called]
        chosen = (node for node in own(statement) if isinstance(node, ast.IfExp))
        both = (each for each in chosen if "empty_cache" in text(each.body) and "empty_cache" in text(each.orelse))
        if any(script.full(node) == _CUDA for node in names) and not any(both) and not _guarded(script, statement):
            yield Sign(statement.lineno, "a cache emptied for CUDA alone")


def _beside(script: Script, statement: ast.stmt) -> str:
    """The test around a statement that asks for CUDA and for more, or names the devices; "" where none does."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            break
        parts = conjuncts(node.test) if isinstance(node, ast.If) and inner in node.body else []
        if isinstance(node, ast.If) and inner in node.orelse and isinstance(node.test, ast.UnaryOp):
            parts = [node.test.operand]
        if any(_is_cuda(script, part, statement) or _names_devices(script, part, statement) for part in parts):
            return text(node.test)  # type: ignore[attr-defined]
        inner = node
    return ""


def _names_devices(script: Script, test: ast.expr, statement: ast.stmt) -> bool:
    """Whether a test is for CUDA or others of torch's own, or asks CUDA itself: `device.type in ("cuda", "xpu")`."""
    parts = every(test) if not asks_others(test) else []
    match test:
        case ast.BoolOp() | ast.Compare(ops=[ast.In()]):
            if any(same(part, "'cuda'") or _is_cuda(script, part, statement) for part in parts):  # type: ignore[arg-type]
                return True
    return any(script.full(part).startswith("torch.cuda.") for part in parts)


def _left(script: Script, statement: ast.stmt) -> str:
    """On what a statement is not come to without CUDA, above it; "" where it is."""
    for test in script.left_above(statement, raises=True):
        other = denied(test)
        if _is_cuda(script, other, statement) or _names_devices(script, other, statement):
            return text(test)
    return ""


def _is_cuda(script: Script, test: ast.expr, statement: ast.stmt) -> bool:
    """Whether a test is whether there is CUDA: it asks that, or a name that was given it."""
    if isinstance(test, ast.Call):
        return asks_available(script, test)
    given = script.assigned.get(test.id, []) if isinstance(test, ast.Name) else []
    parameters = [
        each.arg
        for scope in script.scopes(statement)
        if isinstance(scope, FUNCTIONS)
        for each, _ in defaults(scope.args)
    ]
    plain = bool(given) and text(test) not in parameters
    return plain and all(asks_available(script, each) for each in given)


def _branch(script: Script, statement: ast.stmt) -> ast.If | None:
    """The `if` or `elif` that empties the cache where there is CUDA."""
    above = script.above[statement][-1]
    asked = isinstance(above, ast.If) and _is_cuda(script, above.test, statement)
    return above if asked and statement in above.body else None  # type: ignore[attr-defined, return-value]


def _guarded(script: Script, statement: ast.stmt) -> bool:
    """Whether only CUDA comes there, or another branch is there for the others."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            break
        if isinstance(node, ast.If):
            asked = inner in node.body and _is_cuda(script, node.test, statement)
            if asked or (inner in node.orelse and asks_others(node.test)):
                return True
        inner = node
    return for_cuda(script, statement)


def _branches(script: Script, branch: ast.If) -> Iterator[ast.If]:
    """An `if` with its `elif`s, from the first one on."""
    while script.is_elif(branch):
        branch = script.above[branch][-1]  # type: ignore[assignment]
    return _down(branch)


def _down(branch: ast.If) -> Iterator[ast.If]:
    """An `if` and the `elif`s below it."""
    yield branch
    match branch.orelse:
        case [ast.If() as below]:
            yield from _down(below)


def _others(script: Script, branch: ast.If) -> bool:
    """Whether an `if` has a branch that empties the cache of any device, or an `else` that empties another one's."""
    branches = list(_branches(script, branch))
    lines = [line for each in branches if each is not branch for line in each.body]
    return any(_EMPTIES_ANY.search(text(line)) for line in lines) or any(
        "empty_cache(" in text(line) for line in branches[-1].orelse
    )


def edits(block: Block, options: Options) -> Iterator[Splice]:
    torch = block.script.torch
    code = f"if {_IS_THERE}():\n    {_ANY}()\n".replace("torch.", f"{torch}.")
    for index, node in block.wanted():
        if isinstance(node, ast.Expr):
            first = block.statement(code).with_changes(leading_lines=block.statements[index].leading_lines)  # type: ignore[attr-defined]
            yield Splice.instead(index, [first])
    for index, node in block.simple():
        chain = list(_branches(block.script, node)) if isinstance(node, ast.If) else []
        asked = next((each for each in chain if each.lineno in block.todo and _for_cuda(block.script, each)), None)
        if asked:
            collects = "gc.collect()" in map(text, asked.body)
            branch = block.statement(code.replace(":\n", ":\n    gc.collect()\n") if collects else code)
            yield Splice.instead(index, [block.with_elif(block.statements[index], branch)])


def _for_cuda(script: Script, branch: ast.If) -> bool:
    return any(_branch(script, line) is branch for line in branch.body)
