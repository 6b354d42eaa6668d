"""Which device a branch is for; whether a file is a script that is run, or a module of a library."""

from __future__ import annotations

import ast
import re

from kit.fixes._ast import defaults, every, text
from kit.fixes._roles._script import FUNCTIONS, Script, dotted, last, own

_READS = ("parse_args", "parse_known_args", "parse_args_into_dataclasses", "Fire", "run_exit", "cli", "Typer")
_OTHERS = re.compile(
    r"npu|mlu|musa|hpu|tpu|xla"
    r"|current_accelerator|\.accelerator\.is_available|['\"]accelerator['\"]"  # what torch knows of any
)


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
    function = script.function(statement)
    given = [each.arg for each, _ in defaults(function.args)] if function else []
    return isinstance(call.func, ast.Attribute) and dotted(call.func.value) in given


def for_cuda(script: Script, statement: ast.stmt) -> bool:
    """Whether only CUDA comes to a statement: an `if` around it, in its function, requires the device to be CUDA.
    A plain `torch.cuda.is_available()` is not meant: that says what there is, not what the work is on."""
    if any(map(denies_cuda, script.left_above(statement, raises=True))):
        return True
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            return False
        if isinstance(node, ast.If) and inner in node.body and asks_cuda(_meant(script, node.test)):
            return True
        if isinstance(node, ast.match_case) and text(node.pattern).startswith("'cuda"):
            return True
        inner = node
    return False


def _meant(script: Script, test: ast.expr) -> ast.expr:
    """What a name that is asked was given, where that is one thing."""
    match script.assigned.get(test.id) if isinstance(test, ast.Name) else None:
        case [given]:
            return given
    return test


def denies_cuda(test: ast.expr) -> bool:
    """Whether a test that does not hold says that the device is CUDA: `device.type != "cuda"`."""
    if isinstance(test, ast.BoolOp):
        told = [denies_cuda(value) for value in test.values]
        return any(told) if isinstance(test.op, ast.Or) else all(told)
    return asks_cuda(denied(test))


def denied(test: ast.expr) -> ast.expr:
    """What holds where a test does not: `a == b` for `a != b`; `None` for others than `not`, `!=` and `not in`."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return inner
        case ast.Compare(left=left, ops=[ast.NotEq()], comparators=sides):
            return ast.Compare(left, [ast.Eq()], sides)
        case ast.Compare(left=left, ops=[ast.NotIn()], comparators=sides):
            return ast.Compare(left, [ast.In()], sides)
    return ast.Constant(None)


def asks_cuda(test: ast.expr) -> bool:
    """Whether a test can only hold where the device is CUDA."""
    match test:
        case ast.BoolOp(op=op, values=values):
            told = [asks_cuda(value) for value in values]
            return any(told) if isinstance(op, ast.And) else all(told)
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=sides):
            known = [str(side.value) for side in (left, *sides) if isinstance(side, ast.Constant)]
            return any(side.partition(":")[0] == "cuda" for side in known)
        case ast.Compare(left=ast.Constant(value="cuda"), ops=[ast.In()]):
            return True
        case ast.Call(func=func, args=[ast.Constant(value="cuda")]):
            return last(func) == "startswith"
    return last(test) in ("is_cuda", "use_cuda", "is_gpu_cuda")


def asks_others(test: ast.expr) -> bool:
    """Whether a test names another kind of device than CUDA."""
    return bool(_OTHERS.search(text(test).lower()))
