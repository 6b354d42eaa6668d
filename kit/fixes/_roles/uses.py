"""Where the functions of a script are called, or handed on to be called."""

from __future__ import annotations

import ast

from kit.fixes._roles._script import Scope, Script, dotted, own


def uses(script: Script, function: Scope) -> list[ast.stmt]:
    """The statements that call a function, or hand it on: a method as an attribute of whatever object. What makes an
    object calls the methods that Python calls by itself (`__init__`)."""
    name, owner = getattr(function, "name", ""), script.above.get(function, (script.tree,))[-1]
    if not isinstance(owner, ast.ClassDef):
        return script.once(_read).get(name, [])
    if name.startswith("__"):
        return [line for _, line in script.calls.get(owner.name, ())]
    return script.once(_read).get(f".{name}", [])


def own_uses(script: Script, function: Scope, owner: ast.ClassDef) -> list[ast.stmt]:
    """The same of a method, where its own object is asked for it (`self.load`); of a function inside one, all."""
    name = getattr(function, "name", "")
    if owner not in script.above.get(function, ())[-1:]:
        return uses(script, function)
    return [line for line in script.once(_read).get(f"self.{name}", ()) if owner in script.above[line]]


def _read(script: Script) -> dict[str, list[ast.stmt]]:
    """Where the script reads a name, or an attribute: that as it is written, and by its own name (`.load`)."""
    found: dict[str, list[ast.stmt]] = {}
    for line, _ in script.statements:
        for node in own(line):
            if isinstance(node, ast.Name) and type(node.ctx) is ast.Load:
                found.setdefault(node.id, []).append(line)
            elif isinstance(node, ast.Attribute) and type(node.ctx) is ast.Load:
                found.setdefault(dotted(node), []).append(line)
                found.setdefault(f".{node.attr}", []).append(line)
    return found
