"""What keeps a loop over batches from going on where it was, whatever its loader hands out: see `resume_order`."""

from __future__ import annotations

import ast

from kit.fixes._ast import every, stored, text
from kit.fixes._roles import Script
from kit.fixes._roles._script import Function, last, own
from kit.fixes._roles.loops import leaving, speaks

_STREAMS = ("IterableDataset", "to_iterable_dataset", "IterableDatasetShard", "WebDataset", "WebLoader", "wds")
_STATEFUL = "use_stateful_dataloader"
ITS_OWN_WAY = "it passes by what is done in its own way: take that out first"


class Unknown(Exception):
    """A script that the fix does not serve, and why."""


def passes_over(node: ast.stmt) -> bool:
    """Whether a statement of the loop passes by the batches that are done: what a class does from now on."""
    done = isinstance(node, ast.If) and "step < resume_step" in text(node.test)
    return done and not node.orelse and isinstance(node.body[-1], ast.Continue)  # type: ignore[attr-defined]


def check_leaving(script: Script, loop: ast.For, numbers: set[str]) -> None:
    """Whether a loop trains each batch to the end of the epoch, but at the run's end: not where it is left, nor where
    batches are passed by after their number, or what counts them (``numbers``). Raises Unknown."""
    trained = max(call.lineno for call in method_calls(loop, "backward"))
    for node, around in leaving(script, loop):
        ifs = [each for each in around if not passes_over(each)]
        if isinstance(node, ast.Break) and not any(speaks(script, each.test) for each in ifs):
            raise Unknown(f"a `break` (line {node.lineno}) ends an epoch early: what is done of the next is not known")
        asked = {(each.id, one) for one in ifs for each in every(one.test) if isinstance(each, ast.Name)}
        passes_by = isinstance(node, ast.Continue) and node.lineno < trained
        if passes_by and any(name in numbers | stored(*one.body) for name, one in asked):
            raise Unknown(ITS_OWN_WAY)


def keeps_its_place(tree: ast.Module, loader: str) -> str:
    """What makes a loader go on where it was by itself; "" where nothing does."""
    for node in every(tree):
        if isinstance(node, ast.keyword) and node.arg == _STATEFUL and text(node.value) != "False":
            return text(node)
        if isinstance(node, (ast.Name, ast.Attribute)) and last(node) in (_STATEFUL, "StatefulDataLoader"):
            return text(node)
        if isinstance(node, ast.Call) and (
            text(node.func) == f"{loader}.load_state_dict"
            or (last(node.func) == "register_for_checkpointing" and loader in map(text, node.args))
        ):
            return text(node)
    return ""


def without_length(tree: ast.Module) -> str:
    """What a script streams its data with; "" where it does not."""
    for node in every(tree):
        if isinstance(node, ast.keyword) and node.arg == "streaming" and text(node.value) != "False":
            return text(node)
        if isinstance(node, (ast.Name, ast.Attribute)) and last(node) in _STREAMS:
            return text(node)
    return ""


def check_resumed(script: Script, function: Function, loop: ast.For, number: set[str]) -> None:
    """Whether a run that goes on in the middle of an epoch has what the loop takes. ``number``: the name of the
    batch's number. Raises Unknown."""
    lines = list(script.inside(loop))
    filled = {text(call.func.value) for call in method_calls(loop, "append")}  # type: ignore[attr-defined]
    above = [line for line in script.inside(function) if line.lineno < loop.lineno and isinstance(line, ast.Assign)]
    begun = stored(*above) - number
    reasons = [_rolled_back(script, function), _cut(script, loop, lines)]
    for line in lines:
        reasons.append(_at_one_batch(line, number, lines))
        for node in own(line):
            reasons += [_counts_twice(node, number, begun), _of_an_earlier(node, filled, number), _beside(script, node)]
    reasons += [ITS_OWN_WAY] * _counts_down(lines)
    if reason := next(filter(None, reasons), ""):
        raise Unknown(reason)


def method_calls(node: ast.AST, method: str) -> list[ast.Call]:
    """The calls of a method inside a statement."""
    calls = [each for each in every(node) if isinstance(each, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == method]


def _rolled_back(script: Script, function: Function) -> str:
    """Why what a function loads is not where a run goes on: it loads in a loop."""
    for call, line in script.calls["load_state"]:
        around = script.above[line]
        if function in around and any(isinstance(node, (ast.For, ast.While)) for node in around):
            return f"a checkpoint is loaded in a loop (line {call.lineno}): its epoch is not the one that follows"
    return ""


def _cut(script: Script, loop: ast.For, lines: list[ast.stmt]) -> str:
    """Why an epoch may end early: what is raised in it is caught inside the loop over epochs."""
    outer = next((node for node in script.above[loop] if isinstance(node, (ast.For, ast.While))), None)
    tried = any(isinstance(node, ast.Try) and outer in script.above[node] for node in script.above[loop])
    raised = next((line.lineno for line in lines if tried and isinstance(line, ast.Raise)), 0)
    return f"a `raise` (line {raised}) ends an epoch early: what is done of the next is not known" if raised else ""


def _at_one_batch(line: ast.stmt, number: set[str], lines: list[ast.stmt]) -> str:
    """Why a name may be missing: an `if` gives it something at certain batches alone."""
    name = _by_number(line, number, lines) if isinstance(line, ast.If) else ""
    where = f"where `{text(line.test)}` (line {line.lineno})" if name else ""  # type: ignore[attr-defined]
    return f"`{name}` is made, or read, {where}, and a resumed run may begin behind that: make it above" if name else ""


def _of_an_earlier(node: ast.AST, filled: set[str], number: set[str]) -> str:
    """Why something may be missing: it is taken, by the batch's number, out of a list that the loop fills."""
    kept = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in filled
    if not (kept and any(isinstance(each, ast.Name) and each.id in number for each in every(node))):
        return ""
    return f"`{text(node)}` (line {node.lineno}) is of an epoch's earlier batch: a resumed run has none"  # type: ignore


def _counts_down(lines: list[ast.stmt]) -> bool:
    """Whether a loop trains by a count of its own: `if left: left -= 1`, else it trains."""
    counted = {text(line.target) for line in lines if isinstance(line, ast.AugAssign)}
    asking = [line for line in lines if isinstance(line, ast.If) and _trains(line.body) != _trains(line.orelse)]
    return any(isinstance(part, ast.Name) and part.id in counted for line in asking for part in every(line.test))


def _by_number(line: ast.If, number: set[str], lines: list[ast.stmt]) -> str:
    """A name that is given something at certain batches alone, and read with others; or one that is read with all but
    an epoch's first, which gives it something; "" where there is none."""
    if not any(isinstance(node, ast.Name) and node.id in number for node in every(line.test)):
        return ""
    compared = line.test.ops[0] if isinstance(line.test, ast.Compare) else None
    zero = compared is None or text(line.test).endswith(" 0")
    first = isinstance(line.test, ast.UnaryOp) or isinstance(compared, ast.Eq)
    later = isinstance(line.test, ast.Name) or (zero and isinstance(compared, (ast.Gt, ast.NotEq)))
    inside = every(ast.Module(line.body, [])) if first or later else []
    wanted = ast.Store if first else ast.Load
    names = {node.id for node in inside if isinstance(node, ast.Name) and type(node.ctx) is wanted}
    others = [node for each in lines for node in own(each) if node not in inside and isinstance(node, ast.Name)]
    if later:
        others = [node for node in others if type(node.ctx) is ast.Store and node.lineno > line.lineno]
    return min((node.id for node in others if node.id in names), default="")


def _counts_twice(node: ast.AST, number: set[str], begun: set[str]) -> str:
    """Why steps may be counted twice: a sum of a batch's number goes on from what was begun with."""
    terms = [node] if isinstance(node, ast.BinOp) else []
    for term in terms:
        terms += [term.left, term.right] if isinstance(term, ast.BinOp) and isinstance(term.op, ast.Add) else []  # type: ignore
    names = {term.id for term in terms if isinstance(term, ast.Name)}
    start = min(names & begun, default="") if names & number else ""
    where = f"`{text(node)}` (line {node.lineno})" if start else ""  # type: ignore[attr-defined]
    return f"{where} counts on from `{start}`, and from the batch, too" if start else ""


def _beside(script: Script, node: ast.AST) -> str:
    """Why two loaders would part: the next of another is taken, which `iter` made."""
    call = node if isinstance(node, ast.Call) and last(node.func) == "next" and node.args else None
    given = call.args[0] if call else None
    made = script.assigned.get(given.id, []) if isinstance(given, ast.Name) else []
    if call and any(isinstance(each, ast.Call) and last(each.func) == "iter" for each in made):
        return f"`{text(call)}` (line {call.lineno}) is read beside it, and would start over: zip the two"
    return ""


def _trains(lines: list[ast.stmt]) -> bool:
    calls = [node for line in lines for node in every(line) if isinstance(node, ast.Call)]
    return any(last(call.func) == "backward" for call in calls)
