"""Which device a branch is for; whether a file is a script that is run, or a module of a library."""

from __future__ import annotations

import ast
import re

from kit.fixes._ast import every, text
from kit.fixes._roles._script import FUNCTIONS, Script, dotted, last, own

_READS = ("parse_args", "parse_known_args", "parse_args_into_dataclasses", "Fire", "run_exit", "cli", "Typer")
_KINDS = ("npu", "mlu", "musa", "hpu", "tpu", "xla")
_ANY = re.compile(r"current_accelerator|\.accelerator\.is_available|['\"]accelerator['\"]")  # what torch knows of any


def is_script(script: Script) -> bool:
    """Whether a file is run: it has a `__main__` guard, reads a command line, or calls at its top what it defines or
    prints. A file with relative imports is a module; so is one that reads for whoever hands it a parser."""
    tops = script.tree.body
    if any(isinstance(node, ast.ImportFrom) and node.level for node, _ in script.statements):
        return False
    if any(isinstance(node, ast.If) and "__name__" in text(node.test) for node in tops):
        return True
    if any(not _handed(script, *read) for name in _READS for read in script.calls[name]) or any(
        isinstance(node, ast.Attribute) and script.full(node) == "sys.argv"
        for line, _ in script.statements
        for node in own(line)
    ):
        return True
    mine = {"print", *script.functions}
    return any(
        isinstance(n, ast.Call) and last(n.func) in mine
        for node in tops
        if isinstance(node, (ast.Expr, ast.For, ast.With))
        for n in every(node)
    )


def _handed(script: Script, call: ast.Call, statement: ast.stmt) -> bool:
    """Whether what is called is of something that the function around is given."""
    around = [node for node in script.above[statement] if isinstance(node, FUNCTIONS)][-1:]
    given = {each.arg for function in around for each in every(function.args) if isinstance(each, ast.arg)}
    return isinstance(call.func, ast.Attribute) and dotted(call.func.value) in given


def for_cuda(script: Script, statement: ast.stmt, asked: str = "torch.cuda.is_available()") -> bool:
    """Whether only CUDA comes to a statement: an `if` around it, in its function, requires the device to be CUDA.
    A plain `torch.cuda.is_available()` is not meant: that says what there is, not what the work is on."""
    if any(map(denies_cuda, script.left_above(statement, raises=True))):
        return True
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            return False
        if isinstance(node, ast.If) and inner in node.body and asks_cuda(_meant(script, node.test), asked):
            return True
        if isinstance(node, ast.match_case) and text(node.pattern).startswith("'cuda"):
            return True
        inner = node
    return False


def _meant(script: Script, test: ast.expr) -> ast.expr:
    """What a name that is asked was given, where that is one thing."""
    given = script.assigned.get(test.id, []) if isinstance(test, ast.Name) else []
    return given[0] if len(given) == 1 else test


def denies_cuda(test: ast.expr) -> bool:
    """Whether a test that does not hold says that the device is CUDA: `device.type != "cuda"`."""
    if isinstance(test, ast.BoolOp):
        told = [denies_cuda(value) for value in test.values]
        return any(told) if isinstance(test.op, ast.Or) else all(told)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return asks_cuda(test.operand)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.NotEq, ast.NotIn)):
        same = ast.Eq() if isinstance(test.ops[0], ast.NotEq) else ast.In()
        return asks_cuda(ast.Compare(test.left, [same], test.comparators))
    return False


def asks_cuda(test: ast.expr, asked: str = "torch.cuda.is_available()") -> bool:
    """Whether a test can only hold where the device is CUDA."""
    if isinstance(test, ast.BoolOp):
        told = [asks_cuda(value, asked) for value in test.values]
        return any(told) if isinstance(test.op, ast.And) else all(told)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        return any(
            isinstance(side, ast.Constant) and str(side.value).partition(":")[0] == "cuda"
            for side in (test.left, *test.comparators)
        )
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.In):
        return isinstance(test.left, ast.Constant) and test.left.value == "cuda"
    if isinstance(test, ast.Call) and last(test.func) == "startswith":
        return any(isinstance(each, ast.Constant) and each.value == "cuda" for each in test.args)
    return last(test) in ("is_cuda", "use_cuda", "is_gpu_cuda")


def kinds_asked(test: ast.expr) -> set[str]:
    """The kinds of device other than CUDA that a test names."""
    words = text(test).lower()
    return {kind for kind in _KINDS if kind in words} | ({"any"} if _ANY.search(words) else set())
