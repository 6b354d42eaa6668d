"""Remove old checkpoints once the new one is whole, on the main process only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import conjuncts, every, expression, same, stored, text
from kit.fixes._roles import Script, read
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import last, shown
from kit.fixes._roles.holders import accelerator, is_accelerator

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


def main(args, accelerator, save_path):
    if args.checkpoints_total_limit is not None:
        checkpoints = [d for d in os.listdir(args.output_dir) if d.startswith("checkpoint")]
        for old in checkpoints[: 1 - args.checkpoints_total_limit]:
            shutil.rmtree(os.path.join(args.output_dir, old))
    accelerator.save_state(save_path)
"""

_LIMIT = "checkpoints_total_limit"
_LISTED = re.compile(r"((sorted|list)\()?os\.listdir\(")
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
    return [_site(read(tree), statement) for statement in _rotations(read(tree))]


def _rotations(script: Script) -> list[ast.If]:
    return script.once(_found)


def _found(script: Script) -> list[ast.If]:
    asked = [
        node for node, _ in script.statements if isinstance(node, ast.If) and any(map(_limit, conjuncts(node.test)))
    ]
    return [node for node in asked if roles.removals(script, node)]


def _limit(part: ast.expr) -> bool:
    """Whether a test is whether there is a limit: the option itself, or that it is not None."""
    if isinstance(part, ast.Compare) and isinstance(part.ops[0], (ast.IsNot, ast.Gt)):
        part = part.left
    return isinstance(part, (ast.Name, ast.Attribute)) and last(part) == _LIMIT


def _site(script: Script, statement: ast.If) -> Site:
    block = script.block(statement)
    at = block.index(statement)
    main = _on_main(script, statement)
    saved, to_save = _saved(script, block[:at]), _saved(script, block[at:])
    name, why = accelerator(script, statement)
    held = roles.collective(statement)
    if held and _apart(script, statement):
        return Site(statement.lineno, True)
    refuses = ""
    if held:
        refuses = (
            f"it holds {shown(held)}, which every process must come to: "
            f"put `if {name}.is_main_process:` around what removes"
        )
    elif not saved and not to_save:
        refuses = f"no `{name}.save_state(…)` of a name stands beside it: give the folder a name, and save to that"
    elif not to_save and _other(saved) not in text(statement):
        refuses = (
            "it removes checkpoints after the save, and may count the one just saved: leave that out of what it lists"
        )
    elif to_save and (why_not := _not_movable(script, statement, to_save)):
        refuses = f"{why_not}: move it below the save by hand"
    elif statement.orelse and not main:
        refuses = "its `else` would be taken by all the other processes: give that an `if` of its own"
    elif why and not main:
        refuses = f"{why}: bind it above, or skip the fix"
    return Site(statement.lineno, main and not to_save and not refuses, refuses=refuses)


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
        saves = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == roles.SAVE
        if saves and is_accelerator(script, call.func.value, line):  # type: ignore[union-attr]
            names = [each.id for each in call.args[:1] if isinstance(each, ast.Name)]  # type: ignore[union-attr]
            return names[0] if names else ""
    return ""


def _lists(statement: ast.If) -> list[ast.ListComp]:
    """How the checkpoints are listed: `[d for d in … if d.startswith("checkpoint")]`."""
    found = [node for node in every(statement) if isinstance(node, ast.ListComp)]
    return [each for each in found if ".startswith('checkpoint" in text(each.generators[-1])]


def _not_movable(script: Script, statement: ast.If, name: str) -> str:
    """Why what removes cannot go right below the save of the folder ``name``; "" where it can."""
    below = script.block(statement)[script.block(statement).index(statement) + 1 :]
    moved, passed = _names([statement]), _names(below[: _right_below(script, below)])
    calls = [node for line in below for node in every(line) if isinstance(node, ast.Call)]
    bound = [
        text(line.value) for line, _ in script.statements if isinstance(line, ast.Assign) and name in _names([line])[0]
    ]
    if len(_lists(statement)) != 1:
        return "it does not list the checkpoints as the fix knows it"
    if not _bare(statement):
        return f"what it lists are not names as os.listdir gives them, which `{name}` can be told from"
    if any(re.search(r"(''|/'|\bsep)\)*$", each) for each in bound):
        return f"`{name}` ends with a slash, so that no name it lists is the same"
    if any(last(call.func) in _MOVES and name in _names([call])[1] for call in calls):
        return f"`{name}` gets another name after the save"
    if any(isinstance(node, (ast.Return, ast.Raise)) for node in every(statement)):
        return "it may end the function, with nothing saved"
    if shared := moved[0] & (passed[0] | passed[1]) | moved[1] & passed[0]:
        return f"`{min(shared)}` is given a value in it or on the way, and used by the other"
    return ""


def _names(nodes: Sequence[ast.AST]) -> tuple[set[str], set[str]]:
    """The names that are given a value, and those that are read."""
    found = [node for each in nodes for node in every(each) if isinstance(node, ast.Name)]
    return stored(*nodes), {node.id for node in found if type(node.ctx) is not ast.Store}


def _bare(statement: ast.If) -> bool:
    """Whether the names it lists are those of os.listdir: no paths."""
    source = _lists(statement)[0].generators[-1]
    given = [
        node.value
        for node in every(statement)
        if isinstance(node, ast.Assign) and same(node.targets[0], text(source.iter))
    ]
    named = [source.iter, *given] if not isinstance(source.iter, ast.Name) else given[:1]
    asked = any(text(part).startswith(f"{text(source.target)}.startswith('checkpoint") for part in source.ifs)
    return asked and bool(named) and _LISTED.match(text(named[0])) is not None


def _right_below(script: Script, below: Sequence[ast.stmt]) -> int:
    """The position right below the save in what stands below, and below the calls that say what was saved where."""
    at = next(n for n in range(len(below)) if _saved(script, below[n : n + 1]))
    name = _saved(script, below)
    while at < len(below) and isinstance(below[at], ast.Expr) and name in _names([below[at]])[1]:
        at += 1
    return at


def _other(name: str) -> str:
    """What is asked besides of a folder, to be another than the one just saved."""
    return f"!= os.path.basename({name})"


def edits(block: Block, options: Options) -> Iterator[Splice]:
    found = _rotations(block.script)
    for at, node in block.wanted():
        if not isinstance(node, ast.If) or node not in found:
            continue
        here = block.script.block(node)
        below = here[here.index(node) + 1 :]
        main = "" if _on_main(block.script, node) else f"{accelerator(block.script, node)[0]}.is_main_process"
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
        asked = f" and {text(node.generators[-1].target)} {_other(name)}]"
        return listing.rstrip("]") + asked if ".startswith('checkpoint" in text(node.generators[-1]) else None

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
