"""Write a libcst module as a file, and again after an edit: what was not edited is remembered.

libcst writes a module node by node, a third of all that a fix takes. A fix leaves most statements as they are,
and nodes do not change: a statement's text, at its indentation, is kept with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst._nodes.internal import CodegenState

_KEPT = 20_000  # statements: a few files
_texts: dict[tuple[int, str, str, str], tuple[cst.CSTNode, str]] = {}  # with the node, so that its id stays its own


def written(module: cst.Module) -> bytes:
    """A module as a file."""
    state = _state(module, "")
    for line in module.header:
        line._codegen(state)
    state.tokens += [_text(module, statement, "") for statement in module.body]
    for line in module.footer:
        line._codegen(state)
    text = "".join(state.tokens)
    if not module.has_trailing_newline:
        text = text.removesuffix("\n").removesuffix("\r")
    return (text or module.default_newline * module.has_trailing_newline).encode(module.encoding)


def _state(module: cst.Module, indent: str) -> CodegenState:
    state = CodegenState(module.default_indent, module.default_newline)
    if indent:
        state.increase_indent(indent)
    return state


def _text(module: cst.Module, statement: cst.CSTNode, indent: str) -> str:
    """A statement's text at an indentation."""
    key = (id(statement), indent, module.default_indent, module.default_newline)
    if key not in _texts:
        state = _state(module, indent)
        _hollow(module, statement, indent)._codegen(state)
        if len(_texts) > _KEPT:
            _texts.clear()
        _texts[key] = statement, "".join(state.tokens)
    return _texts[key][1]


def _hollow(module: cst.Module, node: Any, indent: str) -> Any:
    """A compound statement whose blocks are texts by now; any other node itself."""
    hollow = None
    for name in ("body", "orelse", "finalbody"):
        part = getattr(node, name, None)
        if isinstance(part, cst.IndentedBlock) and part.body:
            text: Any = _Text(_block(module, part, indent))
        elif isinstance(part, (cst.Else, cst.Finally, cst.If)):
            text = _hollow(module, part, indent)
        else:
            continue
        hollow = hollow or node.with_changes()
        object.__setattr__(hollow, name, text)
    return hollow or node


def _block(module: cst.Module, block: cst.IndentedBlock, indent: str) -> str:
    deeper = indent + (module.default_indent if block.indent is None else block.indent)
    state = _state(module, deeper)
    block.header._codegen(state)
    state.tokens += [_text(module, statement, deeper) for statement in block.body]
    for line in block.footer:
        line._codegen(state)
    return "".join(state.tokens)


@dataclass
class _Text:
    """A block that is written already."""

    text: str

    def _codegen(self, state: CodegenState, **told: Any) -> None:
        state.add_token(self.text)
