"""How old checkpoints are listed, and whether the one to be saved can be told from them: see `checkpoint_rotation`."""

from __future__ import annotations

import ast
import re

from kit.fixes._ast import conjuncts, every, same, stored, text
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import last, own
from kit.fixes._roles.paths import giver

_LIMIT = "checkpoints_total_limit"
_LISTS, IN_IT = "os.listdir", "<it>"
_ORDERED = re.compile(r"key=.*(int\(|mtime|ctime)")
_LESS = re.compile(r"\+ 1\b|\b1 -")


def rotations(script: Script) -> list[ast.If]:
    """The `if`s that look at the limit on the checkpoints and remove some."""
    return script.once(_found)


def _found(script: Script) -> list[ast.If]:
    asked = [
        node for node, _ in script.statements if isinstance(node, ast.If) and any(map(_limit, conjuncts(node.test)))
    ]
    return [node for node in asked if roles.removals(script, node)]


def _limit(part: ast.expr) -> bool:
    """Whether a test is whether there is a limit: the option itself, or that it is not None."""
    match part:
        case ast.Compare(left=left, ops=[ast.IsNot() | ast.Gt()]):
            part = left
    return isinstance(part, (ast.Name, ast.Attribute)) and last(part) == _LIMIT


def lists(statement: ast.If) -> list[ast.ListComp]:
    """How the checkpoints are listed: `[d for d in … if d.startswith("checkpoint")]`."""
    found = [node for node in every(statement) if isinstance(node, ast.ListComp)]
    return [each for each in found if ".startswith('checkpoint" in text(each.generators[-1])]


def listed(statement: ast.If) -> ast.expr | None:
    """The folder whose names, as os.listdir gives them, it lists; None where they are paths, or others."""
    source = lists(statement)[0].generators[-1]
    assigned = [
        node.value
        for node in every(statement)
        if isinstance(node, ast.Assign) and same(node.targets[0], text(source.iter))
    ]
    named = next(iter(assigned), None) if isinstance(source.iter, ast.Name) else source.iter
    match named:
        case ast.Call(func=func, args=[inner]) if last(func) in ("sorted", "list"):
            named = inner
    asked = any(text(part).startswith(f"{text(source.target)}.startswith('checkpoint") for part in source.ifs)
    match named:
        case ast.Call(func=func, args=[folder]) if asked and text(func) == _LISTS:
            return folder
    return None


def spelt(script: Script, node: ast.expr, at: ast.stmt, folder: ast.expr) -> str:
    """A path as it is put together where a statement is: `<it>` for the ``folder``, `{}` for what is written into a
    text, `?` for what is not known."""

    def part(node: ast.expr) -> str:
        return spelt(script, node, at, folder)

    if text(node) == text(folder):
        return IN_IT
    if isinstance(node, ast.Name) and (line := giver(script, node.id, at)) and line.value:
        return spelt(script, line.value, line, folder)
    match node:
        case ast.Constant(value=str() as word):
            return word
        case ast.JoinedStr(values=values):
            return "".join(map(part, values))
        case ast.FormattedValue(value=value):
            return part(value).replace("?", "{}")
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return part(left) + part(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return f"{part(left)}/{part(right)}"
        case ast.BinOp(left=template, op=ast.Mod()):
            return part(template)
        case ast.Call(func=ast.Attribute(value=template, attr="format"), keywords=[]):
            return part(template)
        case ast.Call(func=func, args=args, keywords=[]) if text(func).endswith("path.join"):
            return "/".join(map(part, args))
        case ast.Call(func=func, args=[inner], keywords=[]) if last(func) in ("Path", "fspath"):
            return part(inner)
        case ast.Call(func=ast.Name(id="str"), keywords=[]):
            return "{}"
    return "?"


def made_above(script: Script, statement: ast.stmt, value: ast.expr | None) -> ast.Call | None:
    """The first call above a statement, in its function, that may make the folder that is given ``value``."""
    known = {text(value)} if value is not None else set()
    for line in script.inside(script.scopes(statement)[0]):
        if line is statement:
            break
        if apart(script, line, statement):
            continue
        for call in (node for node in own(line) if isinstance(node, ast.Call)):
            makes = last(call.func) in ("makedirs", "mkdir") or not roles.is_harmless(script, call)
            if makes and any(isinstance(part, ast.expr) and text(part) in known for part in every(call)):
                return call
        if isinstance(line, ast.Assign):
            known -= stored(line)
            known |= {text(target) for target in line.targets if text(line.value) in known}
    return None


def apart(script: Script, one: ast.stmt, other: ast.stmt) -> bool:
    """Whether only one of two statements can run: they are in the two branches of an `if`."""
    for node in script.above[other]:
        if isinstance(node, ast.If) and node in script.above[one]:
            sides = [any(each in (line, *script.above[line]) for each in node.body) for line in (one, other)]
            if sides[0] != sides[1]:
                return True
    return False


def keeps_newest(statement: ast.If) -> bool:
    """Whether what removes goes through the checkpoints in the order they were saved in, and leaves as many of the
    newest as it may: below a save it leaves that one, too."""
    return bool(_ORDERED.search(text(statement))) and not _LESS.search(text(statement))
