"""What takes the folder of a save while other processes may still write to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from kit.fixes._ast import every, handed, text
from kit.fixes._roles import Script, paths
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import Function, last

_ADDS = re.compile(r"save\w*|dump|write\w*|open|makedirs|mkdir|log\w*|print")  # which others' files do not matter to


def uses_the_save(script: Script, lines: Sequence[ast.stmt], saves: Sequence[ast.stmt]) -> ast.Call | None:
    """The first call below a save, in ``lines``, that takes the folder while other processes may still write to it."""
    for save in saves:
        folders = set(_folders(script, save))
        for call in (call for line in lines if line.lineno > save.lineno for call in roles.calls_in(line)):
            adds = _ADDS.fullmatch(last(call.func)) or roles.is_harmless(script, call) or call.lineno <= save.lineno
            if not adds and any(isinstance(part, ast.expr) and text(part) in folders for part in every(call)):
                return call
    return None


def _folders(script: Script, save: ast.stmt, within: tuple[Function, ...] = ()) -> Iterator[str]:
    """The folder that a statement saves the state to and those around it, as they are written there."""
    for call in roles.saves(script, save):
        given = handed(call, "output_dir")
        made = script.called(call)
        if made in within:
            continue
        if made:
            lines = [line for line in script.inside(made) if roles.saves(script, line)]
            inner = {name for line in lines for name in _folders(script, line, (*within, made))}
            names = [each.arg for each in made.args.args]
            taken = [*zip(names, call.args, strict=False), *((each.arg, each.value) for each in call.keywords)]
            given = [value for name, value in taken if name in inner]
        for value in given:
            yield from _around_folder(script, value, save)


def _around_folder(script: Script, node: ast.expr, at: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        yield text(node)
    line = paths.giver(script, node.id, at) if isinstance(node, ast.Name) else None
    value, at = (line.value, line) if line else (None, at)
    if isinstance(node, ast.Call) and last(node.func) in ("join", "Path", "str") and node.args:
        value = node.args[0]
    if isinstance(node, ast.BinOp):
        value = node.left
    if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.FormattedValue):
        value = node.values[0].value
    if value is not None:
        yield from _around_folder(script, value, at)
