"""Let diffusers' HiDream script train a LyCORIS adapter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import calls, every, same, statements

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "train a LyCORIS adapter with --lycoris_config"
WHY = """\
The script trains PEFT's LoRA and nothing else. PEFT's own LoKr is not the way: LyCORIS and SimpleTuner find no module
of theirs in its file, and say nothing. With `--lycoris_config FILE` the adapter is what that file says, made by
lycoris-lora, and the files are SimpleTuner's, both ways. What it takes is in lycoris_adapter.py, from the overlay."""
LINKS = ()
NEEDS = ("argparse",)

_ADD = "transformer.add_adapter"
_FLAG = "--lora_layers"
_OPTION = (
    'parser.add_argument("--lycoris_config", help="A LyCORIS configuration: its adapter is trained, not a LoRA.")\n'
)
_USE = """\
if args.lycoris_config is not None:
    from lycoris_adapter import use_lycoris

    use_lycoris(transformer, args.lycoris_config, globals())
else:
    pass
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where the parser gets --lora_layers, in order where it has --lycoris_config; where the transformer gets its
    adapter, in order where that is an alternative to use_lycoris()."""
    found = []
    flags = {argument.value for node in every(tree) for argument in _words(node)}
    for statement, above in statements(tree):
        if any(each.value == _FLAG for each in _words(getattr(statement, "value", statement))):
            found.append(Site(statement.lineno, "--lycoris_config" in flags))
        if calls(statement, _ADD):
            parent = above[-1]
            done = isinstance(parent, ast.If) and statement in parent.orelse
            used = done and any(calls(each, "use_lycoris") for each in parent.body)  # type: ignore[attr-defined]
            found.append(Site(statement.lineno, used and same(parent.test, "args.lycoris_config is not None")))  # type: ignore[attr-defined]
    return found


def _words(node: ast.AST) -> list[ast.Constant]:
    """The first argument of an `add_argument`, where it is text."""
    adds = isinstance(node, ast.Call) and same(node.func, "parser.add_argument")
    return [each for each in node.args[:1] if isinstance(each, ast.Constant)] if adds else []  # type: ignore[attr-defined]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        if calls(node, _ADD):
            choice = block.statement(_USE)
            yield Splice.instead(index, [block.with_else(choice, [block.statements[index]])])
        else:
            yield Splice.below(index, block.parse(_OPTION))
