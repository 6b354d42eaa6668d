"""Write the model card only when the result is pushed to the hub."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import guarded, has_call, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "write the model card only under --push_to_hub"
WHY = """\
After training, even where nothing is pushed, the script asks the hub for the model card of a repository named like the
output folder. A machine without network waits 23 s in retries (huggingface-hub 0.36.2), one with network fetches the
card of whoever owns that name, and a folder name that is no repository id ("my lora") ends the run, trained, with
HFValidationError. Only a pushed repository needs the card; validation images are in the tracker's log either way."""
LINKS = ("https://github.com/huggingface/diffusers/issues/11629",)
NEEDS = ("args", "save_model_card")
GENERAL = True

_PUSH = "args.push_to_hub"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    return [
        Site(statement.lineno, guarded(statement, above, _PUSH))
        for statement, above in statements(tree)
        if has_call(statement, "save_model_card")
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, statement in enumerate(block.statements):
        if not block.calls(statement, "save_model_card") or block.guarded(_PUSH):
            continue
        blank, comments = block.leading(statement)
        moved = statement.with_changes(leading_lines=comments)
        following = block.statements[index + 1 : index + 2]
        if following and block.test(following[0]) == _PUSH and block.body(following[0]):
            push, body, stop = following[0], [moved, *block.body(following[0])], index + 2
        else:
            above = blank or block.blank_lines(bool(index))
            push = block.parse(f"if {_PUSH}:\n    pass\n")[0].with_changes(leading_lines=above)
            body, stop = [moved], index + 1
        yield Splice(index, stop, [block.with_body(push, body)])
