"""Where the functions of a script are called, or handed on to be called."""

from __future__ import annotations

import ast

from kit.fixes._roles._script import Scope, Script, dotted, own

Uses = dict[str, list[tuple[str, ast.stmt]]]


def uses(script: Script, function: Scope) -> list[ast.stmt]:
    """The statements that call a function, or hand it on: a method as an attribute of whatever object. What makes an
    object calls the methods that Python calls by itself (`__init__`)."""
    name, owner = getattr(function, "name", ""), script.above.get(function, (script.tree,))[-1]
    if not isinstance(owner, ast.ClassDef):
        return [line for read, line in script.once(_read).get(name, ()) if read == name]
    if name.startswith("__"):
        return [line for _, line in script.calls.get(owner.name, ())]
    return [line for read, line in script.once(_read).get(name, ()) if read != name]


def own_uses(script: Script, function: Scope, owner: ast.ClassDef) -> list[ast.stmt]:
    """The same of a method, where its own object is asked for it (`self.load`); of a function inside one, all."""
    name = getattr(function, "name", "")
    if owner not in script.above.get(function, ())[-1:]:
        return uses(script, function)
    return [
        line
        for read, line in script.once(_read).get(name, ())
        if read == f"self.{name}" and owner in script.above[line]
    ]


def _read(script: Script) -> Uses:
    """What the script reads, each with its statement, by the last part of its name."""
    found: Uses = {}
    for line, _ in script.statements:
        for node in own(line):
            if isinstance(node, ast.Name) and type(node.ctx) is ast.Load:
                found.setdefault(node.id, []).append((node.id, line))
            elif isinstance(node, ast.Attribute) and type(node.ctx) is ast.Load:
                found.setdefault(node.attr, []).append((dotted(node) or f".{node.attr}", line))
    return found
