"""Whether every process comes to a save, with the same folder and with what it takes: whether what it asks is alike on
all of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from kit.fixes._ast import every, handed, stored, text
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import FUNCTIONS, Function, dotted, last, leaving, own
from kit.fixes._roles.holders import called_with

# What gives the same on every process for the same arguments.
_PLAIN = re.compile(
    r"join|len|str|int|float|bool|any|all|min|max|abs|round|sum|range|enumerate|zip|sorted|tuple|list|isinstance|hasattr"
    r"|getattr|get_last_lr|Path|format|zfill|lower|upper|strip|startswith|endswith"
)
# What may give something else on each process, of whatever it is asked, even by way of several names.
_CLOCK = re.compile(
    r"time|perf_counter|monotonic|now|utcnow|today|strftime|(local|gm|c)time|item|random|randint|uniform|choices?|uuid[14]"
    r"|token_hex|getpid|gethostname|mkdtemp"
)
# What does so by way of one.
_OWN = re.compile(rf"{_CLOCK.pattern}|input|exists|isfile|isdir|is_file|is_dir|listdir")
RANKS = re.compile(
    r"(?<!args\.)(?<!cfg\.)(?<!config\.)"  # of a LoRA
    r"\b(rank|local_rank|global_rank|process_index|is_master\w*|master_process|is_main\w*|is_last_process|main_process)\b"
)
# What the main process alone has, or each of its own: what its trackers write to.
_TRACKED = re.compile(
    r"\b(get_tracker|trackers|wandb\.(run|init)|active_run|(swan|neptune)\w*\.(run|init\w*)|writer\w*\.log_dir|HydraConfig)$"
    r"|\bprocess_index$"
)
_DEEP = 4  # in functions, which may call each other
FILLS = ("append", "extend", "update", "add", "insert", "setdefault")
_CALLED_BACK = ("signal", "register", "Thread", "Timer", "add_done_callback")  # by a signal, at the end, beside the run
_SHARED = re.compile(r"gather\w*|reduce|all_reduce|broadcast\w*")


def unlike(script: Script, gate: ast.If, ways: Sequence[ast.stmt]) -> ast.expr | None:
    """What may differ from one process to another of what leads inside ``gate`` to a save, or names its folder; None
    where all is alike. ``ways``: the saves, and the statements around them inside the gate."""
    given = _given(gate)
    asked: list[ast.expr] = []
    tests = [node for node in roles.operands(gate.test) if not roles.is_main(script, node, gate)]
    for way in ways:
        for call in roles.saves(script, way):
            asked += [*call.args, *(each.value for each in call.keywords)]
            made = script.called(call)
            for line in script.inside(made) if made else ():
                found = _helper(script, line, _given(made)) if roles.saves(script, line) else None  # type: ignore[arg-type]
                if found:
                    return found
        tests += _tests(way)
    found = next((node for node in [*asked, *tests] if _differs(script, node, given)), None)
    outside = [
        *_around(script, gate),
        *(() if asked else _project(script)),
        *_handed_in(script, gate, [*asked, *tests]),
    ]
    found = found or by_batch(script, gate) or next((each for each in outside if _of_its_own(script, each)), None)
    return found or _where_called(script, gate)


def _where_called(script: Script, statement: ast.stmt, within: tuple[Function, ...] = ()) -> ast.expr | None:
    """What may differ of what is asked where the function of a statement is called, and where what calls that is; the
    disk does not count there."""
    function = script.function(statement)
    for _, line in script.calls_of(function) if function and function not in within else ():
        asked = (test for test in _around(script, line) if _of_its_own(script, test, depth=2))
        found = by_batch(script, line) or next(asked, None) or _where_called(script, line, (*within, function))  # type: ignore
        if found:
            return found
    return None


def _handed_in(script: Script, gate: ast.If, nodes: Sequence[ast.expr]) -> list[ast.expr]:
    """What the function of a gate is called with, as the parameters that some expressions in it read."""
    names = {part.id for node in nodes for part in every(node) if isinstance(part, ast.Name)}
    return [value for name in sorted(names) for value, _ in called_with(script, script.function(gate), name)]


def _project(script: Script) -> list[ast.expr]:
    """What an Accelerator is told of the folder that it saves to by itself."""
    calls = [call for name in ("Accelerator", "ProjectConfiguration") for call, _ in script.calls.get(name, ())]
    return [each for call in calls for each in handed(call, "project_dir", at=None)]


def by_batch(script: Script, statement: ast.stmt) -> ast.expr | None:
    """What is asked of a batch of a process's own, or of its loss, on the way to a statement in a loop over a loader,
    or by an `if` that leaves that above; None where nothing is."""
    loops = [
        node for node in script.above[statement] if isinstance(node, ast.For) and "loader" in text(node.iter).lower()
    ]
    numbered = [loop for loop in loops if "enumerate(" in text(loop.iter) and isinstance(loop.target, ast.Tuple)]
    names = set().union(*(stored(loop.target) for loop in loops)) - {text(loop.target.elts[0]) for loop in numbered}  # type: ignore
    return next((test for test in _on_the_way(script, statement) if names and _of_batch(script, test, names)), None)


def _of_batch(script: Script, test: ast.expr, names: set[str]) -> bool:
    """Whether a test asks for what is in a batch, or for a number that may be none."""
    calls = [part for part in every(test) if isinstance(part, ast.Call)]
    asks = [part for part in calls if last(part.func) in ("isnan", "isinf", "isfinite")]
    shared = any(_is_shared(script, part) for part in every(test))
    return not shared and bool(asks or names & {part.id for part in every(test) if isinstance(part, ast.Name)})


def _is_shared(script: Script, node: ast.AST) -> bool:
    """Whether an expression, or what a name in it was given or holds, is gathered from all processes."""
    names = [part for part in every(node) if isinstance(part, ast.Name)]
    held = [value for name in names for value in script.once(_added).get(name.id, ())]
    values = [node, *(value for name in names for value in script.assigned.get(name.id, ())), *held]
    calls = [part for value in values for part in every(value) if isinstance(part, ast.Call)]
    return any(_SHARED.fullmatch(last(call.func)) for call in calls)


def _on_the_way(script: Script, statement: ast.stmt) -> Iterator[ast.expr]:
    """The tests around a statement in its function, and those of the `if`s that leave a block above it."""
    yield from _around(script, statement)
    yield from script.left_above(statement)


def _helper(script: Script, line: ast.stmt, given: dict[str, list[ast.expr]]) -> ast.expr | None:
    """What may differ of a save in a function of the script, and of what leads to it there."""
    asked = [each for call in roles.saves(script, line) for each in (*call.args, *(k.value for k in call.keywords))]
    for node in reversed(script.above[line]):
        if isinstance(node, FUNCTIONS):
            break
        asked += _tests(node)
    return next((node for node in asked if _differs(script, node, given)), None)


def _tests(node: ast.AST) -> list[ast.expr]:
    """What a statement asks before it comes to those inside it."""
    if isinstance(node, (ast.If, ast.While)):
        return [node.test]
    return [node.iter] if isinstance(node, ast.For) else []


def _around(script: Script, statement: ast.stmt) -> Iterator[ast.expr]:
    """The tests around a statement, in its function."""
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            return
        if isinstance(node, ast.If):
            yield node.test


def _given(node: ast.AST) -> dict[str, list[ast.expr]]:
    """What the names and attributes that are given something inside a statement are given, by how they are written."""
    found: dict[str, list[ast.expr]] = {}
    for line in every(node):
        if isinstance(line, ast.Assign):
            targets: list[ast.expr] = line.targets
        elif isinstance(line, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)):
            targets = [line.target]
        else:
            continue
        for part in (part for target in targets for part in every(target)):
            if type(getattr(part, "ctx", None)) is ast.Store and line.value:
                found.setdefault(text(part), []).append(line.value)
    return found


def _differs(script: Script, node: ast.expr, given: dict[str, list[ast.expr]], seen: tuple[str, ...] = ()) -> bool:
    """Whether an expression may be something else on each process: it calls what is not known to be alike, or a name in
    it was given that inside the gate."""
    if _of_its_own(script, node):
        return True
    for part in every(node):
        if isinstance(part, (ast.Call, ast.Await)) and not (
            isinstance(part, ast.Call)
            and (_PLAIN.fullmatch(last(part.func)) or _told(script, part) or _works_out(script, part))
        ):
            return True
        named = isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)) and text(part) not in seen
        if named and any(_differs(script, value, given, (*seen, text(part))) for value in given.get(text(part), ())):
            return True
    return False


def _works_out(script: Script, call: ast.Call) -> bool:
    """Whether a call is of a function of the script that only gives back what is alike for the same arguments."""
    made = script.called(call)
    if made is None or RANKS.search(text(made)):
        return False
    calls = [part for part in every(made) if isinstance(part, ast.Call) and last(part.func) != "makedirs"]
    back = [line.value for line in script.inside(made) if isinstance(line, ast.Return) and line.value]
    plain = all(_PLAIN.fullmatch(last(part.func)) for part in calls)
    return bool(back) and plain and not any(_of_its_own(script, value) for value in back)


def _of_its_own(script: Script, node: ast.expr, depth: int = 0) -> bool:
    """Whether an expression asks the clock, the disk, chance, a tracker, one's own loss: by itself, or by a name given
    that; the disk not by a name given such a name, as the number of the checkpoint that a run goes on from is."""
    pending = [(node, depth)]
    seen: set[str] = set()
    for value, depth in pending:
        called = {last(part.func) for part in every(value) if isinstance(part, ast.Call) and not _told(script, part)}
        if any(map(_SHARED.fullmatch, called)):
            continue
        names = {text(part) for part in every(value) if isinstance(part, (ast.Name, ast.Attribute))}
        names -= script.once(_told_all)
        if (
            any(map((_OWN if depth < 2 else _CLOCK).fullmatch, called))
            or any(map(_TRACKED.search, names))
            or names & script.once(_signalled)
        ):
            return True
        for name in names - seen:
            seen.add(name)
            given = [*script.assigned.get(name, ()), *script.once(_added).get(name, ())]
            given += [*script.attributes.get(name, ()), *script.properties.get(name, ())]
            given += script.once(_defaults).get(name.rpartition(".")[2], ()) if "." in name else ()
            pending += [(each, depth + 1) for each in given]
        made = [one for part in every(value) if isinstance(part, ast.Call) and (one := script.called(part))]
        for one in made if depth < _DEEP else ():
            back = [line.value for line in script.inside(one) if isinstance(line, ast.Return)]
            pending += [(each, depth + 1) for each in back if each]
    return False


def _defaults(script: Script) -> dict[str, list[ast.expr]]:
    """What each option is if it is not given: a field of a class, an argument of the command line."""
    found: dict[str, list[ast.expr]] = {}
    for line, above in script.statements:
        if isinstance(line, ast.AnnAssign) and line.value and isinstance(above[-1], ast.ClassDef):
            found.setdefault(text(line.target), []).append(line.value)
    for call, _ in script.calls.get("add_argument", ()):
        for flag in (each.value for each in call.args if isinstance(each, ast.Constant)):
            found.setdefault(str(flag).lstrip("-").replace("-", "_"), []).extend(handed(call, "default", at=None))
    return found


def _told(script: Script, call: ast.Call) -> bool:
    """Whether a call takes the number out of what all processes were told: `mean.item()`."""
    return last(call.func) == "item" and isinstance(call.func, ast.Attribute) and _is_shared(script, call.func.value)


def _told_all(script: Script) -> set[str]:
    """The names that are broadcast."""
    calls = [call for name, calls in script.calls.items() if _SHARED.fullmatch(name) for call, _ in calls]
    return {text(part) for call in calls for given in call.args for part in every(given) if dotted(part)}


def _signalled(script: Script) -> set[str]:
    """What a signal sets, which comes to each process at a step of its own."""
    called = [last(each) for call, _ in script.calls.get("signal", ()) for each in call.args[1:]]
    lines = [line for name in called for made in script.functions.get(name, ()) for line in script.inside(made)]
    shared = {name for line in lines if isinstance(line, (ast.Global, ast.Nonlocal)) for name in line.names}
    parts = [part for line in lines for part in own(line) if type(getattr(part, "ctx", None)) is ast.Store]
    kept = [part.value if isinstance(part, ast.Subscript) else part for part in parts]
    return {text(part) for part in kept if not isinstance(part, ast.Name) or part.id in shared or part not in parts}


def _added(script: Script) -> dict[str, list[ast.expr]]:
    """What is put in what a name is of, or added to it: `losses.append(loss.item())`."""
    found: dict[str, list[ast.expr]] = {}
    for call, _ in (each for name in FILLS for each in script.calls.get(name, ())):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(owner, ast.Name):
            found.setdefault(owner.id, []).extend(call.args)
    for line, _ in script.statements:
        if isinstance(line, ast.AugAssign):
            found.setdefault(text(line.target), []).append(line.value)
    return found


def sharing(lines: Sequence[ast.stmt]) -> ast.stmt | None:
    """The first of some statements that begins on the line on which the one before it ends."""
    for first, second in pairwise(lines):
        if first.end_lineno == second.lineno:
            return second
    return None


def reads(script: Script, saves: Sequence[ast.stmt]) -> set[str]:
    """The attributes, as written, that saves read: in their arguments, or in the function of the script they call."""
    found: set[str] = set()
    for line in saves:
        for call in roles.saves(script, line):
            nodes: list[ast.AST] = [*call.args, *(each.value for each in call.keywords)]
            made = script.called(call)
            nodes += [node for inner in (script.inside(made) if made else ()) for node in own(inner)]
            found |= {text(part) for node in nodes for part in every(node) if isinstance(part, ast.Attribute)}
    return found


def by_chance(script: Script, line: ast.stmt, within: tuple[Function, ...] = ()) -> str:
    """What a statement is in, or what calls the function that it is in, that a process may come to while the others do
    not; "" where there is nothing of the kind."""
    made = [one for call in roles.saves(script, line) if (one := script.called(call))]
    inside = [each for one in made for each in script.inside(one) if roles.saves(script, each)]
    if any(_tries_again(script, each) for each in [line, *inside]):
        return "a loop that tries again"
    inner: ast.AST = line
    for node in reversed(script.above[line]):
        if isinstance(node, ast.ExceptHandler):
            return "an `except`"
        if isinstance(node, ast.Try) and inner in node.finalbody:
            return "a `finally`"
        if isinstance(node, ast.With) and any("main_process_first" in text(each) for each in node.items):
            return "`main_process_first()`"
        if isinstance(node, FUNCTIONS):
            return "" if node in within else _called_by_chance(script, node, (*within, node))
        inner = node
    return ""


def _tries_again(script: Script, line: ast.stmt) -> bool:
    """Whether a statement is in a `try` in a loop, in its function, which is left once that went well."""
    inner: ast.AST = line
    ends: list[ast.stmt] = []  # of the `try`s around
    flags: set[str] = set()
    for node in reversed(script.above[line]):
        if isinstance(node, FUNCTIONS):
            return False
        if isinstance(node, ast.Try) and node.handlers and inner in node.body:
            ends += [*node.body[-1:], *node.orelse[-1:]]
            flags |= stored(*node.body, *node.orelse)
        if ends and isinstance(node, (ast.For, ast.While)):
            tests = [node.test] if isinstance(node, ast.While) else []
            tests += [test for each in node.body if (test := leaving(each)) is not None]
            asked = {part.id for test in tests for part in every(test) if isinstance(part, ast.Name)}
            return bool(flags & asked) or any(isinstance(each, (ast.Break, ast.Return)) for each in ends)
        inner = node
    return False


def _called_by_chance(script: Script, function: Function, within: tuple[Function, ...]) -> str:
    for name in _CALLED_BACK:
        for call, _ in script.calls.get(name, ()):
            given = [part for each in (*call.args, *(k.value for k in call.keywords)) for part in every(each)]
            if any(last(part) == function.name for part in given):
                return f"what `{text(call.func)}` calls"
    return next(filter(None, (by_chance(script, line, within) for _, line in script.calls_of(function))), "")
