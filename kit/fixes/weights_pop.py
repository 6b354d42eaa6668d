"""Pop from the list of weights only where there is one to pop."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice, _deepspeed
from kit.fixes._ast import every, same, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import own
from kit.fixes._roles.hooks import Hook, save_hooks, save_lambdas

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "guard weights.pop() against an empty list"
WHY = """\
accelerate hands the save hook an empty list of weights under DeepSpeed, because DeepSpeed saves the model itself. An
unguarded `weights.pop()` then ends the run at its first checkpoint with `IndexError: pop from empty list`. Opening the
checkpoint to every DeepSpeed rank is not enough without this."""
LINKS = ("https://github.com/huggingface/diffusers/issues/2606",)
NEEDS = ()
GENERAL = True
UPSTREAM = "taken in #6628, #10378, #11737, #12240; 45 files lack it"
EXAMPLE = """\
def save_model_hook(models, weights, output_dir):
    for model in models:
        model.save_pretrained(output_dir)
        weights.pop()
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements of a save hook that pop from the list of weights it is handed; in order where something around or
    above them asks whether there is one."""
    script = read(tree)
    found = []
    for statement, name in script.once(_pops, False).items():
        used = text(statement) != f"{name}.pop()"
        refuses = f"what is popped is used: put it under `if {name}:` by hand" if used else ""
        done = _asked(script, statement, name)
        found.append(Site(statement.lineno, done, refuses="" if done else refuses))
    return found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """What is popped by its place in the list, or in a lambda, without asking whether there is one."""
    script = read(tree)
    for statement, name in _pops(script, numbered=True).items():
        if not _asked(script, statement, name):
            yield Sign(statement.lineno, f"weights popped by their place from a list that may be empty (`{name}`)")
    for each in save_hooks(script):
        for line, name in _elsewhere(script, each):
            if not _asked(script, line, name):
                yield Sign(line.lineno, f"weights popped from a list that may be empty (`{name}`)")
    for hook, statement in save_lambdas(script):
        nodes, given = every(hook.body), [each.arg for each in hook.args.args]
        asked = [node.test for node in nodes if isinstance(node, ast.IfExp)]
        asked += [node.values[0] for node in nodes if isinstance(node, ast.BoolOp)]
        for name in given[1:2]:
            if f"{name}.pop" in map(text, nodes) and not any(_asks(test, name) for test in asked):
                yield Sign(statement.lineno, f"weights popped from a list that may be empty (`{name}`)")


def _pops(script: Script, numbered: bool) -> dict[ast.stmt, str]:
    """The statements that pop from the list a save hook is handed, and its name: the last ones, or by number."""
    found: dict[ast.stmt, str] = {}
    for hook in save_hooks(script):
        inside = list(script.inside(hook.function))
        given = [line for line in inside if isinstance(line, ast.Assign)]
        if any(hook.weights in map(text, line.targets) for line in given):
            continue  # it is something else from then on
        alike = {text(each) for line in given if same(line.value, hook.weights) for each in line.targets}
        for line in inside:
            for name in (hook.weights, *alike):
                if any(_takes(node, name, numbered) for node in (line, *own(line))):
                    found[line] = name
    return found


def _elsewhere(script: Script, hook: Hook) -> list[tuple[ast.stmt, str]]:
    """The statements that pop from a hook's list in a function in it, or in one that it hands the list to, and how it
    is called there."""
    inside = [line for line, above in script.statements if hook.function in above]
    found = [
        (line, hook.weights)
        for line in inside
        if script.function(line) is not hook.function and any(_takes(n, hook.weights, False) for n in own(line))
    ]
    for call in (node for line in inside for node in own(line) if isinstance(node, ast.Call)):
        made = script.called(call)
        names = [each.arg for each in made.args.args if each.arg != "self"] if made else []
        taken = [name for name, each in zip(names, call.args, strict=False) if same(each, hook.weights)]
        lines = list(script.inside(made)) if made else []
        found += [(line, name) for name in taken for line in lines if any(_takes(n, name, False) for n in own(line))]
    return found


def _takes(node: ast.AST, name: str, numbered: bool) -> bool:
    """Whether a node takes one from a list that must not be empty: its last, or one by its number."""
    if isinstance(node, ast.Delete) and numbered:
        parts = [each for each in node.targets if isinstance(each, ast.Subscript) and same(each.value, name)]
        return any(not isinstance(each.slice, ast.Slice) for each in parts)
    popped = isinstance(node, ast.Call) and text(node.func) == f"{name}.pop"
    return popped and not node.keywords and bool(node.args) == numbered  # type: ignore[attr-defined]


def _asked(script: Script, statement: ast.stmt, name: str) -> bool:
    """Whether a statement is come to only where there are weights, or catches that there are none."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return any(_leaves_without(line, name) for line in node.body if line.lineno < statement.lineno)
        if isinstance(node, (ast.If, ast.While)) and inner in node.body and _asks(node.test, name):
            return True
        if isinstance(node, ast.For) and text(node.iter) in (f"range(len({name}))", f"list({name})", f"{name}[:]"):
            return True
        if isinstance(node, ast.Try) and inner in node.body and any(map(_catches, (h.type for h in node.handlers))):
            return True
        if isinstance(node, ast.With) and any(
            "suppress" in text(item) and _catches(item.context_expr) for item in node.items
        ):
            return True
        if any(_leaves_without(line, name) for line in getattr(node, "body", ()) if line.lineno < statement.lineno):
            return True
        inner = node
    return False


def _catches(caught: ast.expr | None) -> bool:
    """Whether an `except`, or a `suppress`, catches that a list is empty; a bare one does."""
    return caught is None or bool(re.search(r"\b(IndexError|LookupError|(Base)?Exception)\b", text(caught)))


def _asks(test: ast.expr, name: str) -> bool:
    """Whether a test can only hold where a list is not empty."""
    if isinstance(test, ast.BoolOp):
        told = [_asks(part, name) for part in test.values]
        return any(told) if isinstance(test.op, ast.And) else all(told)
    if _deepspeed.shuts_out(test):
        return True  # the others have weights
    match test:
        case ast.Compare(ops=[ast.Lt()], comparators=[end]):
            return same(end, f"len({name})")  # `i < len(weights)`
        case ast.Compare(left=left, ops=[ast.Gt() | ast.GtE() | ast.NotEq(), *_]):
            test = left
    return text(test) in (name, f"len({name})")


def _leaves_without(line: ast.AST, name: str) -> bool:
    """`if not weights: return`."""
    empty = isinstance(line, ast.If) and text(line.test) in (f"not {name}", f"len({name}) == 0", f"not len({name})")
    return empty and isinstance(line.body[-1], (ast.Return, ast.Continue, ast.Break, ast.Raise))  # type: ignore[attr-defined]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    pops = block.script.once(_pops, False)
    for index, node in block.wanted():
        if node in pops:
            yield Splice.instead(index, [block.under(f"if {pops[node]}:", [block.statements[index]])])
