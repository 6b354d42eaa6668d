"""Refuse options given as the string "false", which would be dropped."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import requires, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = 'refuse the string "false" in a configuration'
WHY = """\
An option given as the string "false", as upstream's quick start and example write it, is dropped without a word, so
one that is on by default stays on: `"offload_during_startup": "false"` means nothing. Nor is it noticed that an option
no longer exists (`validation_torch_compile`). A real `false` is passed on; the string is refused, with the option."""
LINKS = ()
NEEDS = ("key", "value")

_TESTS = ('value_lower == "false"', 'value.lower() == "false"')  # the second one before SimpleTuner 4
_RAISE = """raise ValueError(f'{key}: "{value}" in quotes would be dropped: write false, without quotes')\n"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The branches for the string "false"; in order where they raise."""
    return [
        Site(statement.lineno, isinstance(statement.body[-1], ast.Raise))
        for statement, _ in statements(tree)
        if isinstance(statement, ast.If) and any(requires(statement.test, test) for test in _TESTS)
    ]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, _ in block.wanted():
        if block.body(block.statements[index]):
            yield Splice.instead(index, [block.with_body(block.statements[index], block.parse(_RAISE))])
