"""Hand kohya's ControlNet data set its caption separator."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "hand ControlNet's data set the caption separator"
WHY = """\
DreamBoothSubset got the parameter caption_separator, and the call in ControlNetDataset was left as it was: every
argument after it slips by one place, and each ControlNet training, SDXL's ControlNet-LLLite too, ends in `missing 1
required positional argument: 'token_warmup_step'`."""
LINKS = ()
NEEDS = ("subset",)

_MAKER = "DreamBoothSubset"
_BEFORE, _MISSING = "subset.shuffle_caption", "subset.caption_separator"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The subsets made of another subset's attributes, in order where the separator follows on the shuffling."""
    found = []
    for statement, _ in statements(tree):
        call = statement.value if isinstance(statement, ast.Assign) else None
        if isinstance(call, ast.Call) and same(call.func, _MAKER):
            given = [ast.unparse(each) for each in call.args]
            if _BEFORE in given:
                found.append(Site(statement.lineno, given[given.index(_BEFORE) + 1 :][:1] == [_MISSING]))
    return found


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, _ in block.wanted():
        statement = block.statements[index]
        if call := block.call(statement):
            at = next(number for number, each in enumerate(call.args) if block.code(each.value) == _BEFORE)
            argument = call.args[at].with_changes(value=block.expression(_MISSING))
            whole = call.with_changes(args=[*call.args[: at + 1], argument, *call.args[at + 1 :]])
            yield Splice.instead(index, [statement.deep_replace(call, whole)])  # type: ignore[arg-type]
