"""Which loops go over epochs and which over batches, and where the step limit ends them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from kit.fixes._ast import conjuncts, every, text
from kit.fixes._roles._script import FUNCTIONS, Function, Script, dotted, last, own

Loop = ast.For | ast.AsyncFor | ast.While
LOOPS = (ast.For, ast.AsyncFor, ast.While)
_LIMIT = re.compile(
    r"max_((train(ing)?|global|optimi[sz]ation|update)_)?(step|iter|iteration|update)s?"
    r"|((total|num|n)_train(ing)?|train|total)_(step|iter|iteration)s?"
)
# What counts the steps of a run, and whatever they may be compared with.
_COUNT = re.compile(r"(global|total|train(ing)?|opt\w*|update|completed|current)_(step|iter|iteration|update)s?")
_STEPS = re.compile(r"(?!\w*(val|eval|test|warm|accum|log|save|check|sampl))\w*(steps|iters|iterations|updates)")
# What a run may have of other things.
_BUDGET = re.compile(r"max_(\w+_)?(tokens|time|runtime|hours|minutes|seconds)|(time|token)_(limit|budget)")
_OTHER = re.compile(r"(\b|_)(fold|run|round|seed|stage|phase|task|subject|concept)s?(\b|_)")
COUNTED = ("range", "trange", "count")  # what numbers are gone over by


@dataclass(frozen=True)
class Limit:
    """An `if` that leaves the loop over batches at the step limit: what counts the steps, what limits them, and what is
    asked of the two; the loop, and the one around it; and a test on the way that one cannot ask itself, or ""."""

    statement: ast.If
    step: str
    limit: str
    test: str
    batches: Loop
    around: Loop | None
    besides: str


def limits(script: Script) -> list[Limit]:
    """Every such `if`, in source order; one of the loop over epochs, where that over batches has its own, is none."""
    return script.once(_limits)


def _limits(script: Script) -> list[Limit]:
    found = [limit for node, _ in script.statements if isinstance(node, ast.If) and (limit := _limit(script, node))]
    around = {limit.around for limit in found}
    return [limit for limit in found if limit.batches not in around]


def unknown_limits(script: Script) -> list[Loop]:
    """The loops around one over batches that is left at a step limit asked for in a form `limits` does not know, and
    that do not ask for it themselves."""
    asked: list[tuple[ast.stmt, list[Loop]]] = [
        (node, loops)
        for node, _ in script.statements
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Break) and (loops := _loops(script, node))
        if speaks(script, node.test) or _spent(script, node.test, loops)
    ]
    asked += [
        (node, loops)
        for node, _ in script.statements
        if isinstance(node, ast.Match) and speaks(script, node.subject) and (loops := _loops(script, node))
        if any(isinstance(case.body[-1], ast.Break) for case in node.cases)
    ]
    itself = {loops[0] for _, loops in asked}
    found = [loops[1] for node, loops in asked if len(loops) > 1 and not _limit(script, node)]
    found += [loop for _, loops in asked if len(loops) == 1 for loop in _in_a_helper(script, loops[0])]
    return [
        loop
        for loop in dict.fromkeys(found)
        if loop not in itself and not (isinstance(loop, ast.While) and speaks(script, loop.test))
    ]


def _spent(script: Script, test: ast.expr, loops: list[Loop]) -> bool:
    """Whether a test asks for the tokens, or the time, that a run has, not an epoch alone, and nothing else leaves the
    epochs."""
    epochs = loops[1] if len(loops) > 1 else None
    if not isinstance(epochs, ast.For) or "epoch" not in _head(epochs) or not any(map(_BUDGET.fullmatch, _words(test))):
        return False
    outside = set(script.inside(epochs)) - set(script.inside(loops[0]))
    leaves = any(isinstance(line, (ast.Break, ast.Return, ast.Raise)) for line in outside)
    return not leaves and not names_of(test) & {name for line in outside for name in _assigned(line)}


def _in_a_helper(script: Script, batches: Loop) -> list[Loop]:
    """The loops over epochs without a step limit that call the function that a loop over batches is in."""
    function = script.function(batches)
    calls = script.calls_of(function) if function else []
    found = [loops[0] for _, line in calls if (loops := _loops(script, line))]
    return [loop for loop in found if "epoch" in _head(loop) and not any(map(_LIMIT.fullmatch, _words(loop)))]


def _head(loop: Loop) -> str:
    return text(loop.test if isinstance(loop, ast.While) else loop.target).lower()


def _words(node: ast.AST) -> list[str]:
    return [last(part) for part in every(node) if isinstance(part, (ast.Name, ast.Attribute))]


def leaving(script: Script, loop: Loop) -> list[tuple[ast.Break | ast.Continue, list[ast.If]]]:
    """Where a loop is left, or goes on to the next round, with the `if`s around that inside it."""
    jumps = [node for node in script.inside(loop) if isinstance(node, (ast.Break, ast.Continue))]
    own_jumps = [(node, script.above[node]) for node in jumps if _loops(script, node)[0] is loop]
    return [(node, [each for each in up[up.index(loop) :] if isinstance(each, ast.If)]) for node, up in own_jumps]


def speaks(script: Script, test: ast.expr) -> bool:
    """Whether a test compares something with a limit on the steps, in whatever form: itself, in what it calls, or by a
    name that was given that."""
    nodes = every(test)
    for call in [node for node in nodes if isinstance(node, ast.Call)]:
        made: list[ast.AST] = [
            each for each in script.assigned.get(last(call.func), ()) if isinstance(each, ast.Lambda)
        ]
        nodes += [node for each in [*made, *filter(None, [script.called(call)])] for node in every(each)]
    flags = [value for node in nodes for value in script.given(node) if isinstance(value, (ast.Compare, ast.BoolOp))]
    nodes += [node for value in flags for node in every(value)]
    compared = [node for each in nodes if isinstance(each, ast.Compare) for node in every(each)]
    given = [value for node in compared for value in script.given(node)]
    words = [str(node.value) if isinstance(node, ast.Constant) else last(node) for node in nodes]
    words += [option(value).rpartition(".")[2] for value in given]
    if any(_COUNT.fullmatch(last(each.left)) for each in nodes if isinstance(each, ast.Compare)):
        return any(_STEPS.fullmatch(word) or _LIMIT.fullmatch(word) for word in words)
    return any(map(_LIMIT.fullmatch, words)) and any(isinstance(node, ast.Compare) for node in nodes)


def _limit(script: Script, node: ast.stmt) -> Limit | None:
    if not isinstance(node, ast.If) or not isinstance(node.body[-1], ast.Break):
        return None
    compared = next((part for part in conjuncts(node.test) if _compared(part)[0]), None)
    loops = _loops(script, node)
    if compared is None or not loops:
        return None
    step, limit = _compared(compared)
    around = loops[1] if len(loops) > 1 else None
    asked, besides = _asked(script, node, around or loops[0], step, limit)
    return Limit(node, step, limit, " and ".join(map(text, asked)), loops[0], around, besides)


def _asked(script: Script, node: ast.If, loop: Loop, step: str, limit: str) -> tuple[list[ast.expr], str]:
    """What must hold for a limit inside a loop to be reached, of what a batch does not change; and what else must hold,
    but for that the step was counted just now, or ""."""
    changing = _assigned(loop).union(*map(_assigned, script.inside(loop)))
    above = script.above[node]
    ways = [*above[above.index(loop) + 1 :], node]
    asked: list[ast.expr] = []
    for way, inner in zip(ways, [*ways[1:], node.body[-1]], strict=True):
        if not isinstance(way, ast.If):
            continue
        counts = any(step in _assigned(line) for line in script.inside(way)) or "sync_gradients" in text(way.test)
        if inner not in way.body and not counts:
            return asked, f"not ({text(way.test)})"
        for part in conjuncts(way.test) if inner in way.body else ():
            if _compared(part) == (step, limit) or _stays(part, changing):
                asked.append(part.value if isinstance(part, ast.NamedExpr) else part)
            elif not counts and not any(isinstance(each, ast.Mod) for each in every(part)):
                return asked, text(part)
    left = (
        each for each in script.inside(loop) if isinstance(each, ast.If) and isinstance(each.body[-1], ast.Continue)
    )
    return asked, next((f"not ({text(each.test)})" for each in left if limit in names_of(each.test)), "")


def _stays(test: ast.expr, changing: set[str]) -> bool:
    """Whether a test comes out alike through all epochs."""
    called = [last(node.func) for node in every(test) if isinstance(node, ast.Call)]
    return (
        not names_of(test) & changing and "sync_gradients" not in text(test) and set(called) <= {"hasattr", "getattr"}
    )


def option(node: ast.AST) -> str:
    """A dotted name, or an option that is read by its name: `vars(args)["steps"]` is `args.steps`; "" for others."""
    if isinstance(node, ast.Call) and text(node.func) == "getattr" and len(node.args) == 2:
        holder, word = node.args
    elif isinstance(node, ast.Subscript) and text(node.value).startswith("vars("):
        holder, word = (node.value.args or [node.value])[0], node.slice  # type: ignore[attr-defined]
    elif isinstance(node, ast.Subscript) and last(node.value) == "__dict__":
        holder, word = node.value.value, node.slice  # type: ignore[attr-defined]
    else:
        return dotted(node)
    known = dotted(holder) and isinstance(word, ast.Constant)
    return f"{dotted(holder)}.{word.value}" if known else ""  # type: ignore[attr-defined]


def names_of(node: ast.AST) -> set[str]:
    return {option(each) for each in every(node)} - {""}


def _compared(node: ast.expr) -> tuple[str, str]:
    """What counts steps and what limits them, in `step >= limit` or the other way round; two "" for others."""
    node = node.value if isinstance(node, ast.NamedExpr) else node
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = node.left, node.comparators[0]
        if isinstance(node.ops[0], (ast.LtE, ast.Lt)):
            left, right = right, left
        elif not isinstance(node.ops[0], (ast.GtE, ast.Gt)):
            return "", ""
        known = _LIMIT.fullmatch(option(right).rpartition(".")[2]) or _full_bar(left, right)
        if option(left) and option(right) and known:
            return option(left), option(right)
    return "", ""


def _full_bar(left: ast.expr, right: ast.expr) -> bool:
    """`progress_bar.n >= progress_bar.total`."""
    step, bar = dotted(left), dotted(right).removesuffix(".total")
    return step == f"{bar}.n" and dotted(right) != bar


def _loops(script: Script, statement: ast.AST) -> list[Loop]:
    """The loops around a statement in its function, innermost first; one whose `else` it is in does not count."""
    found: list[Loop] = []
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            break
        if isinstance(node, LOOPS) and inner in node.body:
            found.append(node)
        inner = node
    return found


def headed(loop: Loop, limit: Limit) -> bool:
    """Whether a loop goes on below the limit only, or leaves by the same test itself, or by what that sets, before or
    after the loop over batches."""
    asked = (limit.step, limit.limit)
    if isinstance(loop, ast.While) and any(_below(part) == asked for part in conjuncts(loop.test)):
        return True
    over, left = limit.batches.orelse, any(isinstance(line, ast.Break) for line in loop.body)
    if left and limit.batches in loop.body and over and isinstance(over[-1], ast.Continue):
        return True  # `else: continue`, and a `break` below
    leaves = (ast.Break, ast.Return, ast.Raise)
    leaving = [line.test for line in loop.body if isinstance(line, ast.If) and isinstance(line.body[-1], leaves)]
    flags = {name for line in limit.statement.body if text(line).endswith(" = True") for name in _assigned(line)}
    flags |= {text(part.target) for part in conjuncts(limit.statement.test) if isinstance(part, ast.NamedExpr)}
    if isinstance(loop, ast.While) and {f"not {flag}" for flag in flags} & set(map(text, conjuncts(loop.test))):
        return True
    known = (limit.test, text(limit.statement.test), *flags)
    plain = limit.test == text(next(part for part in every(limit.statement.test) if _compared(part) == asked))  # type: ignore
    return any(text(test) in known or (plain and _compared(test) == asked and not _beyond(test)) for test in leaving)


def _beyond(test: ast.expr) -> bool:
    """Whether a test only holds a step further on: `step > limit`."""
    test = test.value if isinstance(test, ast.NamedExpr) else test
    return isinstance(test.ops[0], (ast.Gt, ast.Lt))  # type: ignore[attr-defined]


def _below(test: ast.expr) -> tuple[str, str]:
    """What counts steps and what limits them, in `step < limit`; two "" for others."""
    below = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Lt)
    return (option(test.left), option(test.comparators[0])) if below else ("", "")  # type: ignore[attr-defined]


def over_epochs(script: Script, limit: Limit) -> str:
    """Why the loop around the loop over batches is not one over epochs, which all the steps are counted through: it
    "starts anew" what is compared, or goes over "something else"; "" where it is one."""
    loop = limit.around
    assert loop is not None
    inside = set(script.inside(limit.batches))
    outside = [line for line in script.inside(loop) if line not in inside]
    if any(_assigned(line) & _parts(limit) for line in [loop, *outside]) or _by_method(script, outside, limit):
        return "starts anew"
    holder = limit.step.rpartition(".")[0]
    if any(_resets(call, holder) or _sets_by_name(call, limit.limit.rpartition(".")[2]) for call in _calls(outside)):
        return "starts anew"
    counted = [line.value for line in inside if isinstance(line, ast.Assign) and limit.step in map(text, line.targets)]
    of = set().union(*map(names_of, counted))  # by the epoch and the batch together it goes on
    if of & {name for line in outside for name in _assigned(line)} and not of & _assigned(loop):
        return "starts anew"
    names = "" if isinstance(loop, ast.While) else " ".join([text(loop.target), text(loop.iter)])
    if "epoch" in names.lower():
        return ""
    if _OTHER.search(names):
        return "something else"
    if _handed(script, outside, limit.step.rpartition(".")[0]):
        return "something else"
    if isinstance(loop, ast.While):
        return ""
    numbers = any(isinstance(node, ast.Call) and last(node.func) in COUNTED for node in every(loop.iter))
    return "" if numbers or re.fullmatch(r"\w", text(loop.target)) else "something else"


def _resets(call: ast.Call, holder: str) -> bool:
    """Whether a call starts what counts the steps anew: its own method, or a function that is handed it."""
    owner, _, name = dotted(call.func).rpartition(".")
    handed = holder in {dotted(each) for each in call.args}
    return bool(holder) and ((owner == holder and name == "reset") or (handed and "reset" in name))


def _sets_by_name(call: ast.Call, name: str) -> bool:
    """`setattr(args, "max_train_steps", 9)`, `vars(args).update(max_train_steps=9)`."""
    words = [each.value for each in call.args if isinstance(each, ast.Constant)]
    sets = last(call.func) in ("setattr", "update", "__setattr__")
    return sets and (name in words or any(each.arg == name for each in call.keywords))


def _parts(limit: Limit) -> set[str]:
    """The names whose change starts the count anew."""
    parts, holder = {limit.step, limit.limit}, limit.step.rpartition(".")[0]
    parts.add(limit.limit.rpartition(".")[0])
    while holder:
        parts.add(holder)
        holder = holder.rpartition(".")[0]
    return parts - {"", "self"}


def _assigned(line: ast.stmt) -> set[str]:
    nodes = [line.target] if isinstance(line, (ast.For, ast.AsyncFor)) else own(line)
    found = (inner for node in nodes for inner in every(node))
    parts = (node for node in found if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)))
    return {option(node) for node in parts if type(node.ctx) is ast.Store} - {""}


def _by_method(script: Script, lines: list[ast.stmt], limit: Limit) -> bool:
    """Whether one of these lines calls a function of the script that gives the step a value, itself or by another."""
    pending = _called(script, lines)
    for function in pending:
        inside = list(script.inside(function))
        shared = any(isinstance(each, (ast.Global, ast.Nonlocal)) for each in inside)
        if (limit.step.startswith("self.") or shared) and any(_assigned(each) & _parts(limit) for each in inside):
            return True
        pending += [each for each in _called(script, inside) if each not in pending]
    return False


def _called(script: Script, lines: list[ast.stmt]) -> list[Function]:
    """The functions of the script that these lines call."""
    return list(dict.fromkeys(called for call in _calls(lines) if (called := script.called(call))))


def _calls(lines: list[ast.stmt]) -> list[ast.Call]:
    return [node for line in lines for node in own(line) if isinstance(node, ast.Call)]


def _handed(script: Script, lines: list[ast.stmt], holder: str) -> bool:
    """Whether one of these lines hands what holds the step to a function, or calls a method of it that the script
    doesn't show: either may start the count anew."""
    for call in _calls(lines):
        given = {dotted(each) for each in (*call.args, *(each.value for each in call.keywords))} - {""}
        owner = dotted(call.func).rpartition(".")[0]
        if holder and (holder in given or (owner == holder and not script.called(call))):
            return True
    return False
