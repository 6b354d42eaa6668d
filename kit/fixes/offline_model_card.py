"""Write the model card only when the result is pushed to the hub."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import calls, guarded, statements

if TYPE_CHECKING:
    from kit.codemod import Block

TITLE = "write the model card only under --push_to_hub"
WHY = """\
After training, even where nothing is pushed, the script asks the hub for the model card of a repository named like the
output folder. A machine without network waits 23 s in retries (huggingface-hub 0.36.2), one with network fetches the
card of whoever owns that name, and a folder name that is no repository id ("my lora") ends the run, trained, with
HFValidationError. Only a pushed repository needs the card; validation images are in the tracker's log either way."""
LINKS = ("https://github.com/huggingface/diffusers/issues/11629",)
NEEDS = ("args", "save_model_card")

_PUSH = "args.push_to_hub"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    return [
        Site(statement.lineno, guarded(statement, above, _PUSH))
        for statement, above in statements(tree)
        if calls(statement, "save_model_card")
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if block.guarded(_PUSH):
        return
    for index, statement in enumerate(block.statements):
        if not block.calls(statement, "save_model_card"):
            continue
        following = block.statements[index + 1 : index + 2]
        if following and block.test(following[0]) == _PUSH:
            push, stop = following[0], index + 2
            moved = statement.with_changes(leading_lines=())
            body = [moved, *block.body(push)]
        else:
            push, stop = block.parse(f"if {_PUSH}:\n    pass\n")[0], index + 1
            body = [statement.with_changes(leading_lines=())]
        leading = statement.leading_lines  # type: ignore[attr-defined]
        push = push.with_changes(leading_lines=leading or block.blank_lines(1))
        yield Splice(index, stop, [block.with_body(push, body)])
