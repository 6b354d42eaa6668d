"""Remove old checkpoints once the new one is whole, on the main process only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, expression, handed, stored, text
from kit.fixes._listed import IN_IT, keeps_newest, listed, lists, made_above, rotations, spelt
from kit.fixes._roles import Script, read
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import Function, last, own, shown
from kit.fixes._roles.holders import accelerator, is_accelerator
from kit.fixes._roles.paths import given

if TYPE_CHECKING:
    import libcst as cst

    from kit.fixes._block import Block

TITLE = "rotate checkpoints after the save, on the main process only"
WHY = """\
Where every DeepSpeed rank enters the checkpoint block, each of them also removes the checkpoints beyond
--checkpoints_total_limit. They race in shutil.rmtree: one deletes a file another has just listed, and the run ends with
`FileNotFoundError: 'scheduler.bin'`. The same race was reported for train_unconditional.py. Asking for the main process
is not enough: another rank may have made the new folder before the main one counts, and one checkpoint too many is
removed. Before the save it is wrong on one process, too: while the new checkpoint is written there is one fewer than
was asked for, with a limit of 1 none, and a kill then loses the run. So the main process removes the old ones when the
new one is whole, which it does not count. For that moment there is one more than the limit on the disk."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/4977",
    "https://github.com/huggingface/diffusers/issues/5338",
    "https://github.com/huggingface/diffusers/issues/2606",
)
NEEDS = ("os",)
GENERAL = True
UPSTREAM = "no pull request found; 22 scripts at 58eb52c0"
EXAMPLE = """\
import os
import shutil
from accelerate import Accelerator


def main(args, accelerator, step):
    if args.checkpoints_total_limit is not None:
        checkpoints = [d for d in os.listdir(args.output_dir) if d.startswith("checkpoint")]
        for old in checkpoints[: 1 - args.checkpoints_total_limit]:
            shutil.rmtree(os.path.join(args.output_dir, old))
    save_path = os.path.join(args.output_dir, f"checkpoint-{step}")
    accelerator.save_state(save_path)
"""

_REMOVES = re.compile(r"\brmtree\b|\brm\b|\bunlink\b|shutil\.move")
_COUNTS = "it removes checkpoints after the save, and may count the one just saved: leave that out of what it lists"
_MOVES = ("rename", "renames", "replace", "move")
_COMMENTS = {  # what upstream says of it, and what is true after the fix
    "# _before_ saving state, check if this save would set us over the `checkpoints_total_limit`": (
        "# _after_ saving state, check if this save has set us over the `checkpoints_total_limit`"
    ),
    "# before we save the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints": (
        "# beside the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints"
    ),
}


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `if`s that look at the limit and remove something; in order where they stand below the save, for the main
    process, and leave the checkpoint just saved out of what they list."""
    return [_site(read(tree), statement) for statement in rotations(read(tree))]


def _site(script: Script, statement: ast.If) -> Site:
    block = script.block(statement)
    at = block.index(statement)
    main = _on_main(script, statement)
    saved, to_save = _saved(script, block[:at]), _saved(script, block[at:])
    name, why = accelerator(script, statement)
    held, function = roles.collective(statement), script.function(statement)
    if held and _apart(script, statement):
        return Site(statement.lineno, True)
    refuses = ""
    if held:
        refuses = (
            f"it holds {shown(held)}, which every process must come to: "
            f"put `if {name}.is_main_process:` around what removes"
        )
    elif function and roles.SAVE in script.calls and _apart_from_saves(script, function):
        refuses = _where_called(script, statement, function)
        return Site(statement.lineno, not refuses, refuses=refuses)
    elif not saved and not to_save and (within := _saved_within(script, block)):
        refuses = f"the save (line {within.lineno}) stands in another statement beside it: move it below that by hand"
    elif not saved and not to_save:
        beside = f"no `{name}.save_state(…)` of a name stands beside it: give the folder a name, and save to that"
        refuses = f"{why}: bind it above, or skip the fix" if why else beside
    elif not to_save and _other(saved) not in text(statement) and not keeps_newest(statement):
        refuses = _COUNTS
    elif to_save and (why_not := _not_movable(script, statement, to_save)):
        refuses = f"{why_not}: move it below the save by hand"
    elif statement.orelse and not main:
        refuses = "its `else` would be taken by all the other processes: give that an `if` of its own"
    elif why and not main:
        refuses = f"{why}: bind it above, or skip the fix"
    return Site(statement.lineno, main and not to_save and not refuses, refuses=refuses)


def _apart_from_saves(script: Script, function: Function) -> bool:
    """Whether a function neither saves nor trains: it only removes."""
    lines = list(script.inside(function))
    return not any(roles.saves(script, line) or roles.collective(line) for line in lines)


def _where_called(script: Script, statement: ast.If, function: Function) -> str:
    """Why what removes, in a function that saves nothing, is not in order where that is called; "" where it is: below
    the save, on the main process, or nowhere."""
    calls = [line for _, line in script.calls_of(function)]
    for line in calls:
        lines = script.inside(script.scopes(line)[0])
        if not any(each.lineno < line.lineno and roles.saves(script, each) for each in lines):
            return f"`{function.name}` is called above the save (line {line.lineno}): call it below that"
    if calls and not roles.only_main(script, statement):
        return f"every process that calls `{function.name}` removes them: call it on the main process alone"
    return _COUNTS * (bool(calls) and not keeps_newest(statement))


def _on_main(script: Script, statement: ast.If) -> bool:
    """Whether only the main process removes anything."""
    asked = roles.required(script, statement.test, statement)
    return asked or roles.alone(script, statement) or _apart(script, statement)


def _apart(script: Script, statement: ast.If) -> bool:
    """Whether what removes has a test of its own for the main process."""
    lines = [line for line in script.inside(ast.Module(statement.body, [])) if not hasattr(line, "body")]
    removing = [line for line in lines if roles.removals(script, line)]
    return bool(removing) and all(roles.alone(script, line) for line in removing)


def _saved(script: Script, block: Sequence[ast.stmt]) -> str:
    """The name of the folder that one of these statements saves the state to; "" where none does."""
    for line in block:
        call = line.value if isinstance(line, ast.Expr) else None
        if isinstance(call, ast.Call) and roles.names_save(call.func) and is_accelerator(script, call.func.value, line):
            match handed(call, "output_dir"):
                case [ast.Name(id=name)]:
                    return name
                case [ast.Call(func=made, args=[ast.Name(id=name)])] if last(made) in ("str", "fspath"):
                    return name
            return ""
    return ""


def _saved_within(script: Script, block: Sequence[ast.stmt]) -> ast.stmt | None:
    """The first statement that saves inside one of these; None where none does."""
    return next((line for each in block for line in script.inside(each) if roles.saves(script, line)), None)


def _not_movable(script: Script, statement: ast.If, name: str) -> str:
    """Why what removes cannot go right below the save of the folder ``name``; "" where it can."""
    below = script.below(statement)
    moved, passed = _names([statement]), _names(below[: _right_below(script, below)])
    calls = [node for line in below for node in every(line) if isinstance(node, ast.Call)]
    save = next(line for line in below if _saved(script, [line]))
    if len(lists(statement)) != 1:
        return "it does not list the checkpoints as the fix knows it"
    if not (folder := listed(statement)):
        return f"what it lists are not names as os.listdir gives them, which `{name}` can be told from"
    if not re.fullmatch(rf"{IN_IT}/checkpoint[^/?]*", spelt(script, ast.Name(name), save, folder)):
        return f"it may not tell `{name}` from the others: that is not `{text(folder)}` and one name, `checkpoint…`"
    if made := made_above(script, statement, given(script, name, save)):
        return f"{shown(made)} makes `{name}` above, and it counts that one, too"
    if again := next((call for call in calls if last(call.func) == roles.SAVE and call not in every(save)), None):
        return f"line {again.lineno} saves, too"
    if any(last(call.func) in _MOVES and name in _names([call])[1] for call in calls):
        return f"`{name}` gets another name after the save"
    if any(isinstance(node, (ast.Return, ast.Raise)) for node in every(statement)):
        return "it may end the function, with nothing saved"
    if shared := moved[0] & passed[1] or moved[1] & passed[0]:
        return f"`{min(shared)}` is given a value in it or on the way, and used by the other"
    read_below = _read_below(script, statement)
    return f"`{read_below}`, which it sets, is read below, by the other processes, too" if read_below else ""


def _read_below(script: Script, statement: ast.If) -> str:
    """A name that a statement sets, and that is read below it, in its function, before that sets it anew."""
    lines = [statement, *script.inside(statement)]
    set_there = {name for line in lines for name in _set(line)}
    for line in script.inside(script.scopes(statement)[0]):
        if line.lineno <= statement.end_lineno:  # type: ignore[operator]
            continue
        read = {node.id for node in own(line) if isinstance(node, ast.Name) and type(node.ctx) is ast.Load}
        read |= _set(line) if isinstance(line, ast.AugAssign) else set()
        if shared := read & set_there:
            return min(shared)
        set_there -= _set(line)
    return ""


def _set(line: ast.stmt) -> set[str]:
    """The names that a statement itself sets, those of its comprehensions left out."""
    if isinstance(line, (ast.For, ast.AugAssign, ast.AnnAssign)):
        return stored(line.target)
    return stored(*line.targets) if isinstance(line, ast.Assign) else set()


def _names(nodes: Sequence[ast.AST]) -> tuple[set[str], set[str]]:
    """The names that are given a value, and those that are read."""
    found = [node for each in nodes for node in every(each) if isinstance(node, ast.Name)]
    return stored(*nodes), {node.id for node in found if type(node.ctx) is not ast.Store}


def _right_below(script: Script, below: Sequence[ast.stmt]) -> int:
    """The position right below the save in what stands below, and below the calls that say what was saved where."""
    at, name = next((at, name) for at, line in enumerate(below) if (name := _saved(script, [line])))
    said = takewhile(lambda line: isinstance(line, ast.Expr) and name in _names([line])[1], below[at:])
    return at + len(list(said))


def _other(name: str) -> str:
    """What is asked besides of a folder, to be another than the one just saved."""
    return f"!= os.path.basename({name})"


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """What all processes remove, beside a save, where a limit on the checkpoints is looked at in another form, or where
    a function of the script removes them."""
    script = read(tree)
    saving = {script.function(line) for _, line in script.calls.get(roles.SAVE, ())}
    known: set[ast.AST] = set(rotations(script))
    for line, above in script.statements if saving else ():
        if known & {line, *above} or script.function(line) not in saving:
            continue
        asks = isinstance(line, (ast.If, ast.While)) and _limits(script, line.test)
        made = [script.called(node) for node in own(line) if isinstance(node, ast.Call)]
        within = [line] if asks else [each for each in made if each and "checkpoint" in text(each)]
        simple = [each for one in within for each in script.inside(one) if not hasattr(each, "body")]
        removes = [each for each in simple if _REMOVES.search(text(each))]
        apart = roles.only_main(script, line) or all(roles.only_main(script, each) for each in removes)
        if removes and not apart:
            known.add(line)
            yield Sign(line.lineno, "old checkpoints removed by every process")


def _limits(script: Script, test: ast.expr) -> bool:
    """Whether a test asks for a limit on the checkpoints, itself or by another name."""
    names = [part.id for part in every(test) if isinstance(part, ast.Name)]
    values = [test, *(value for name in names for value in script.assigned.get(name, ()))]
    return any("total_limit" in text(value) for value in values)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for at, node in block.wanted():
        below = block.script.below(node)
        alone = _on_main(block.script, node)  # type: ignore[arg-type]
        main = "" if alone else f"{accelerator(block.script, node)[0]}.is_main_process"
        if name := _saved(block.script, below):
            stop = at + 1 + _right_below(block.script, below)
            rest = block.statements[at + 1 : stop]
            first = rest[0].with_changes(leading_lines=block.leading(rest[0])[1])
            yield Splice(at, stop, [first, *rest[1:], _rotation(block, block.statements[at], name, main)])
        elif main:
            yield Splice.instead(at, [block.narrowed(block.statements[at], main)])


def _rotation(block: Block, statement: cst.BaseStatement, name: str, main: str) -> cst.BaseStatement:
    """What removes old checkpoints, as it is below the save."""

    def another(listing: str) -> str | None:
        node: ast.ListComp = expression(listing)  # type: ignore[assignment]
        if ".startswith('checkpoint" not in text(node.generators[-1]):
            return None
        asked = f" and {text(node.generators[-1].target)} {_other(name)}"
        inside = listing.rstrip("]")
        last_line = inside if "#" in inside else inside.rstrip()  # not behind a comment
        return f"{last_line}{asked}{inside[len(last_line) :]}]"

    body = [
        block.with_expressions(_said_again(each), "ListComp", "startswith", another) for each in block.body(statement)
    ]
    made = block.with_body(_said_again(statement), body)
    above = [*block.blank_lines(1), *block.leading(made)[1]]
    return (block.narrowed(made, main) if main else made).with_changes(leading_lines=above)


def _said_again(statement: cst.BaseStatement) -> cst.BaseStatement:
    """A statement whose comments above say what is true after the fix."""
    lines = [
        line.with_deep_changes(line.comment, value=_COMMENTS.get(line.comment.value, line.comment.value))
        if line.comment
        else line
        for line in statement.leading_lines  # type: ignore[attr-defined]
    ]
    return statement.with_changes(leading_lines=lines)
