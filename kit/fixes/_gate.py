"""The `if`s of the main process around a save of the state, and what else they hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kit.fixes import _deepspeed
from kit.fixes._alike import by_chance, reads, sharing, unlike
from kit.fixes._ast import conjuncts, every, text
from kit.fixes._listed import rotations
from kit.fixes._one import of_one
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import dotted, last, leaving, own, shown
from kit.fixes._roles.holders import accelerator
from kit.fixes._taken import uses_the_save

# What every process must come to, besides what accelerate's own processes do: it gathers the shards of a model.
_GATHERS = re.compile(r"get_state_dict|save_model|save_checkpoint|save_16bit_model|_?consolidate\w*|GatheredParameters")
_LISTS = ("listdir", "scandir", "iterdir", "glob", "iglob", "rglob", "walk")
_PLAIN = (
    "rmtree",
    "remove",
    "unlink",
    "rmdir",
    "run",
    "system",
    "submit",
    "Thread",
    "call",
    "check_call",
    "Popen",
    "map",
)
_SWAPS = re.compile(r"store|copy_to|swap\w*|apply_shadow|(un)?(merge|fuse)_\w+|restore")


@dataclass(frozen=True)
class Gate:
    """An `if` around a save: the part of its test that asks for the main process (as `ast` writes it), the Accelerator,
    whether DeepSpeed is let in, the statements inside it that are one process's work, and why it cannot be opened."""

    statement: ast.If
    main: str
    accelerator: str
    open: bool
    work: frozenset[ast.stmt]
    refuses: str


def gates(script: Script) -> list[Gate]:
    """Each `if` around a save of the state, once, in source order."""
    return script.once(_gates)


def _gates(script: Script) -> list[Gate]:
    found: dict[ast.If, list[ast.stmt]] = {}
    for _, line in (call for calls in script.calls.values() for call in calls):
        for gate in roles.gates(script, line) if roles.saves(script, line) else ():
            found.setdefault(gate, []).append(line)
    made = [_gate(script, gate, lines) for gate, lines in found.items()]
    return sorted(made, key=lambda gate: gate.statement.lineno)


def _gate(script: Script, gate: ast.If, saves: list[ast.stmt]) -> Gate:
    mains = roles.main_test(script, gate.test, gate)
    name, why = accelerator(script, gate)
    opened = any(_opens(script, node, gate) for node in every(gate.test)) or _of_the_others(script, gate)
    main = text(mains[0]) if mains else f"{name}.is_main_process"
    if opened:
        return Gate(gate, main, name, True, frozenset(), "")
    refuses = why or _deepspeed.shadowed(script, gate) or _shape(script, gate, mains, saves)
    work: list[ast.stmt] = []
    if not refuses:
        try:
            work = list(_work(script, gate, saves))
        except _Refused as reason:
            refuses = str(reason)
    return Gate(gate, main, name, False, frozenset(work), refuses)


def _opens(script: Script, node: ast.AST, gate: ast.If) -> bool:
    """Whether a part of a test is `main or DeepSpeed`."""
    either = node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) else []
    asked = [each for part in either for each in (part, *script.given(part))]
    return any(map(_deepspeed.asks, asked)) and any(roles.is_main(script, part, gate) for part in either)


def _of_the_others(script: Script, gate: ast.If) -> bool:
    """Whether a gate is what the others come to where an `if` above has let DeepSpeed's processes save."""
    inner: ast.AST = gate
    for node in reversed(script.above[gate]):
        if not isinstance(node, ast.If) or inner not in node.orelse:
            return False
        asked = any(map(_deepspeed.asks, conjuncts(node.test))) and not roles.mentions_main(script, node.test, node)
        if asked and any(roles.saves(script, line) for line in script.inside(ast.Module(node.body, []))):
            return True
        inner = node
    return False


def _shape(script: Script, gate: ast.If, mains: list[ast.expr], saves: list[ast.stmt]) -> str:
    """Why an `if` cannot be opened by an `or` in its test; "" where it can."""
    inside = {*script.inside(ast.Module(gate.body, []))}
    if _deepspeed.shuts_out(gate.test):
        return "its test shuts DeepSpeed out: take that out of it first"
    if len(mains) != 1 or not all(line in inside for line in saves):
        return f"it saves where `{text(gate.test)}` says so: turn that into an `if` for the main process first"
    if script.is_elif(gate):
        return (
            "it is an `elif`, and the other processes would no longer come to what is below: give it an `if` of its own"
        )
    if gate.orelse:
        return "its `else` is for the other processes, DeepSpeed's too: give the save an `if` of its own"
    return ""


class _Refused(Exception):
    """Why what a gate holds cannot be told apart."""


def _work(script: Script, gate: ast.If, saves: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a gate that are one process's work. Raises _Refused."""
    ways: set[ast.stmt] = {
        node
        for line in saves
        for node in (line, *script.above[line])
        if isinstance(node, ast.stmt) and node is not gate and gate in script.above.get(node, ())
    }
    lines = [*gate.body, *(line for way in ways if way not in saves for line in _blocks(way))]
    common = [line for line in lines if line in ways or not roles.work_of_one(script, line)]
    _check_block(script, gate, lines)
    early: list[str] = []  # what is done while a checkpoint is made, or is to be
    for line in lines:
        if line in ways:
            _check_way(script, line, line in saves)
            continue
        call = roles.work_of_one(script, line)
        if call is None or _rotates(script, line):
            continue
        given, needed = _names(line, ast.Store), set[str]().union(*(_needed(other, ways, saves) for other in common))
        if given & needed:
            name = sorted(given & needed)[0]
            raise _Refused(
                f"{shown(call)} gives `{name}`, which every process needs, and may do what one alone should: "
                "move it above"
            )
        if roles.collective(line) or any(isinstance(n, (ast.Break, ast.Continue, ast.Return)) for n in every(line)):
            raise _Refused(
                f"{shown(call)} is one process's work, beside what all must come to: move it out of the `if`"
            )
        _check_left(script, line, saves)
        removes = roles.removals(script, line)
        if removes and any(line.lineno < save.lineno for save in saves) and _counts(script, lines, removes[0]):
            early.append(
                f"{shown(removes[0])} is above the save, where other processes may have made the new checkpoint: "
                "move it below that"
            )
        yield line
    _check_swaps(script, lines, ways, saves)
    _check_all_come(script, gate, common, ways, saves)
    below = script.below(gate)
    waits = next((at for at, line in enumerate(below) if roles.collective(line)), len(below))
    alone = [line for line in (*lines, *below[:waits]) if line not in ways and not _rotates(script, line)]
    if call := uses_the_save(script, alone, saves):
        early.append(
            f"{shown(call)} takes the folder while other processes may still write to it: move it out of the `if`, "
            "below a `wait_for_everyone()`"
        )
    if early:
        raise _Refused("; ".join(early))
    if (node := unlike(script, gate, sorted(ways, key=lambda way: way.lineno))) is not None:
        raise _Refused(
            f"`{text(node)}` may differ from process to process, and those that save would wait for the others: work "
            "it out on the main process, broadcast it, and use that"
        )


def _counts(script: Script, lines: list[ast.stmt], removes: ast.Call) -> bool:
    """Whether what is removed above a save was listed there, or may be, by a function that is not in the script."""
    calls = [call for line in lines if line.lineno <= removes.lineno for call in roles.calls_in(line)]
    made = [inner for call in calls if (one := script.called(call)) for inner in roles.calls_in(one)]
    known = script.called(removes) or last(removes.func) in _PLAIN
    return not known or any(last(call.func) in _LISTS for call in [*calls, *made])


def _check_all_come(
    script: Script, gate: ast.If, common: list[ast.stmt], ways: set[ast.stmt], saves: list[ast.stmt]
) -> None:
    """Whether every process comes to a save, with what it takes there. Raises _Refused."""
    for where in (by_chance(script, line) for line in saves):
        if where:
            raise _Refused(
                f"it stands in {where}, to which one process may come alone, and would wait for the others: "
                "save elsewhere, or skip the fix"
            )
    for name, line in of_one(script, gate, common, ways):
        raise _Refused(
            f"line {line} gives `{name}` to the main process alone, and every process needs it: move it above"
        )


def _needed(line: ast.stmt, ways: set[ast.stmt], saves: list[ast.stmt]) -> set[str]:
    """What a statement reads or deletes that every process comes to; of what leads to a save, what it asks itself."""
    parts = own(line) if line in ways and line not in saves else every(line)
    return _named(parts, ast.Load) | _named(parts, ast.Del)


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """The names, attributes and items that a statement reads (ast.Load) or gives something (ast.Store)."""
    return _named(every(node), context)


def _named(nodes: Iterable[ast.AST], context: type[ast.expr_context]) -> set[str]:
    parts = (part for part in nodes if isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)))
    return {text(part) for part in parts if type(part.ctx) is context}


def _check_block(script: Script, gate: ast.If, lines: list[ast.stmt]) -> None:
    """Whether each statement has a line of its own, and none gathers a model. Raises _Refused."""
    for block in (gate.body, *(script.block(line) for line in lines)):
        if second := sharing(block):
            raise _Refused(f"several statements share line {second.lineno}: give each a line of its own")
    for line in lines:
        if call := gathers(script, line):
            raise _Refused(f"{shown(call)} is for every process to call: move it out of the `if`")


def gathers(script: Script, line: ast.AST, within: tuple[ast.AST, ...] = ()) -> ast.Call | None:
    """The first call in a statement, or in a function of the script that it calls, that gathers a model."""
    for call in roles.calls_in(line):
        made = script.called(call)
        if not made and _GATHERS.fullmatch(last(call.func)):
            return call
        if made and made not in within:
            for inner in made.body:
                if gathers(script, inner, (*within, made)):
                    return call
    return None


def _check_left(script: Script, line: ast.stmt, saves: list[ast.stmt]) -> None:
    """Whether one process's work sets what the save reads of an object. Raises _Refused."""
    read = {name for name in reads(script, saves) if not name.endswith(".accelerator")}
    for call in roles.calls_in(line):
        owner = dotted(call.func).rpartition(".")[0]
        owner = "" if owner.partition(".")[0] in script.imports else owner
        touched = [name for name in sorted(read) if owner and name.rpartition(".")[0] == owner]
        made = script.called(call)
        if made and not any(name in _names(made, ast.Store) for name in touched) and not _calls_self(made):
            continue
        if touched and dotted(call.func) not in read:
            raise _Refused(f"{shown(call)} may set `{touched[0]}`, which every process needs: move it above")


def _calls_self(function: ast.AST) -> bool:
    """Whether a method calls others of its object."""
    return any(isinstance(node, ast.Call) and dotted(node.func).startswith("self.") for node in every(function))


def _check_swaps(script: Script, lines: list[ast.stmt], ways: set[ast.stmt], saves: list[ast.stmt]) -> None:
    """Whether one process's work leaves a model other weights while the save comes. Raises _Refused."""
    calls = [call for line in lines if line not in ways for call in roles.calls_in(line)]
    for save in saves:
        before = [call for call in calls if call.lineno < save.lineno and _SWAPS.fullmatch(last(call.func))]
        if before and last(before[-1].func) != "restore" and not last(before[-1].func).startswith("un"):
            raise _Refused(
                f"{shown(before[-1])} gives the model other weights for the save, on every process alike: move it above"
            )


def _check_way(script: Script, line: ast.stmt, saves: bool) -> None:
    """Whether what leads to a save, or saves, does one process's work in the same breath. Raises _Refused."""
    for node in own(line):
        if isinstance(node, ast.Call) and roles.saving(script, node, line):
            if more := roles.does_more(script, node):
                raise _Refused(
                    f"{shown(node)} saves the state and calls {shown(more)}, which one process alone should: "
                    "part the two"
                )
        elif (
            isinstance(node, ast.Call) and not roles.is_harmless(script, node) and (saves or isinstance(line, ast.With))
        ):
            raise _Refused(f"{shown(node)} may do what one process alone should: take it out of the save")


def _blocks(node: ast.AST) -> list[ast.stmt]:
    """The statements directly in a compound one, of all its branches."""
    if isinstance(node, ast.Try):
        return [*node.body, *node.orelse, *node.finalbody, *(line for each in node.handlers for line in each.body)]
    return [*getattr(node, "body", ()), *getattr(node, "orelse", ())]


def _rotates(script: Script, line: ast.stmt) -> bool:
    """Whether a statement is the removal of old checkpoints, which has a fix of its own."""
    return line in rotations(script)


def leaves_others(script: Script, line: ast.stmt) -> bool:
    """`if not main: continue`."""
    test = leaving(line)
    return test is not None and roles.mentions_main(script, test, line)
