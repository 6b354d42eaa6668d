"""Let HiDream's fourth text encoder come from a folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import same, text, walk

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "take the Llama from $HIDREAM_LLAMA"
WHY = """\
SimpleTuner knows one place for HiDream's fourth text encoder, a repository of the hub, and no option changes it: on a
machine without network training cannot start, whatever is on its disk. The environment variable HIDREAM_LLAMA names a
folder with text_encoder_4 and tokenizer_4 instead; without it everything stays as it was."""
LINKS = ()
NEEDS = ("os",)

_HUB = '"terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"'
_ANY = f'os.environ.get("HIDREAM_LLAMA", {_HUB})'


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The places that name the repository; in order where it is what the environment says otherwise."""
    return [
        Site(node.lineno, same(above[-1], _ANY))
        for node, above in walk(tree)
        if isinstance(node, ast.Constant) and same(node, _HUB)
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.simple():
        statement = block.statements[index]
        if _HUB.strip('"') in text(node) and "HIDREAM_LLAMA" not in text(node):
            chosen = block.with_expressions(statement, "SimpleString", _HUB, lambda code: _ANY)
            if chosen is not statement:
                yield Splice.instead(index, [chosen])
