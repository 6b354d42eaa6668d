"""Remove old checkpoints once the new one is whole, on the main process only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, expression, guarded, requires, same, statements, text

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
NEEDS = ("accelerator", "args", "os")
GENERAL = True

_MAIN = "accelerator.is_main_process"
_LIMITS = ("args.checkpoints_total_limit is not None", "args.checkpoints_total_limit")
_SAVE = "accelerator.save_state"
_COMMENTS = {  # what upstream says of it, and what is true after the fix
    "# _before_ saving state, check if this save would set us over the `checkpoints_total_limit`": (
        "# _after_ saving state, check if this save has set us over the `checkpoints_total_limit`"
    ),
    "# before we save the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints": (
        "# beside the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints"
    ),
}


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `if`s that look at the limit; in order where they stand below the save, for the main process, and leave the
    checkpoint just saved out of what they list."""
    return [
        _site(statement, above, block[: block.index(statement)], block[block.index(statement) + 1 :])
        for statement, above in statements(tree)
        if isinstance(statement, ast.If) and any(requires(statement.test, limit) for limit in _LIMITS)
        for block in _blocks(above[-1])
        if statement in block
    ]


def _site(statement: ast.If, above: Ancestors, before: Sequence[ast.stmt], after: Sequence[ast.stmt]) -> Site:
    main = requires(statement.test, _MAIN) or guarded(statement, above, _MAIN)
    saved, to_save = _saved(before), _saved(after)
    refuses = ""
    if not saved and not to_save:
        refuses = f"no `{_SAVE}(…)` of a name stands beside it"
    elif not to_save and _other(saved) not in text(statement):
        refuses = "it removes checkpoints after the save, and may count the one just saved"
    elif to_save and len(_lists(statement)) != 1:
        refuses = "it does not list the checkpoints as the fix knows it"
    elif statement.orelse and not main:
        refuses = "its `else` would be taken by all the other processes"
    return Site(statement.lineno, main and not to_save and not refuses, refuses=refuses)


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    return [value for _, value in ast.iter_fields(node) if isinstance(value, list)]


def _saved(block: Sequence[ast.stmt]) -> str:
    """The name of the folder that one of these statements saves the state to; "" where none does."""
    calls = [each.value for each in block if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call)]
    names = [call.args[0] for call in calls if same(call.func, _SAVE) and call.args]
    return next((name.id for name in names if isinstance(name, ast.Name)), "")


def _lists(statement: ast.If) -> list[ast.ListComp]:
    """How the checkpoints are listed: `[d for d in … if d.startswith("checkpoint")]`."""
    found = [node for node in ast.walk(statement) if isinstance(node, ast.ListComp)]
    return [each for each in found if ".startswith('checkpoint" in text(each.generators[-1])]


def _other(name: str) -> str:
    """What is asked besides of a folder, to be another than the one just saved."""
    return f"!= os.path.basename({name})"


def edits(block: Block, options: Options) -> Iterator[Splice]:
    at = next((n for n, each in enumerate(block.statements) if any(block.requires(each, one) for one in _LIMITS)), None)
    if at is None:
        return
    below = [block.read(statement) for statement in block.statements[at + 1 :]]
    main = block.requires(block.statements[at], _MAIN) or block.guarded(_MAIN)
    name = _saved(below)
    if name:
        stop = at + 2 + max(n for n, each in enumerate(below) if name in text(each))
        rest = block.statements[at + 1 : stop]
        first = rest[0].with_changes(leading_lines=block.leading(rest[0])[1])
        yield Splice(at, stop, [first, *rest[1:], _rotation(block, block.statements[at], name, main)])
    elif not main:
        yield Splice(at, at + 1, [block.narrowed(block.statements[at], _MAIN)])


def _rotation(block: Block, statement: cst.BaseStatement, name: str, main: bool) -> cst.BaseStatement:
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
    return (made if main else block.narrowed(made, _MAIN)).with_changes(leading_lines=above)


def _said_again(statement: cst.BaseStatement) -> cst.BaseStatement:
    """A statement whose comments above say what is true after the fix."""
    lines = [
        line.with_deep_changes(line.comment, value=_COMMENTS.get(line.comment.value, line.comment.value))
        if line.comment
        else line
        for line in statement.leading_lines  # type: ignore[attr-defined]
    ]
    return statement.with_changes(leading_lines=lines)
