"""How a script asks whether it runs under DeepSpeed, and imports what it takes to ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes._ast import every, text
from kit.fixes._roles import Script
from kit.fixes._roles._script import FUNCTIONS, for_types, own

if TYPE_CHECKING:
    from kit.fixes import Options, Splice
    from kit.fixes._block import Block

_NAME, _LIBRARY = "DistributedType", "accelerate"


def asked(script: Script, accelerator: str, options: Options) -> str:
    """The test: whether the run is DeepSpeed's."""
    return f"{accelerator}.distributed_type == {_spelt(script, options)}.DEEPSPEED"


def asks(node: ast.AST) -> bool:
    """Whether an expression is that test, however it is put."""
    return isinstance(node, ast.expr) and "deepspeed" in text(node).lower() and not _denies(node)


def names(gate: ast.If) -> bool:
    """Whether an `if` asks for DeepSpeed by the name that the test takes."""
    return any(isinstance(node, ast.Name) and node.id == _NAME for node in every(gate.test))


def _denies(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.NotEq, ast.Is))


def shuts_out(test: ast.expr) -> bool:
    """Whether a test only holds where the run is not DeepSpeed's."""
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
    return any("deepspeed" in text(part).lower() and (_denies(part) or isinstance(part, ast.UnaryOp)) for part in parts)


def named(script: Script, options: Options) -> bool:
    """Whether the script has the names that the test takes."""
    return _imported(script) or "." in _spelt(script, options)


def shadowed(script: Script, statement: ast.stmt, name: str = _NAME) -> str:
    """Why a name that a fix imports would be something else at a statement, or would make what is imported
    in a function alone an import of the whole module; "" where it is what is imported."""
    brings = [line for full, line in script.imports.values() if full.partition(".")[0] == _LIBRARY]
    if name == _NAME and not _imported(script) and brings and all(script.function(line) for line in brings):
        return f"{_LIBRARY} is imported in a function alone (line {brings[0].lineno}): import it at the top first"
    for meant, line in script.imported.get(name, ()) if name != _NAME else ():
        if meant != name:
            return f"`{name}` is `{meant}` there (line {line.lineno}): import that under another name"
    for scope in script.scopes(statement):
        given = (
            {part.arg for part in every(scope.args) if isinstance(part, ast.arg)} if hasattr(scope, "args") else set()
        )
        lines = [node for line in script.inside(scope) for node in (line, *own(line))]
        given |= {node.id for node in lines if isinstance(node, ast.Name) and type(node.ctx) is ast.Store}
        given |= {node.name for node in lines if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
        if name in given:
            return f"`{name}` is something else there: give that another name"
    return ""


def importing(block: Block, options: Options) -> Iterator[Splice]:
    """The import of DistributedType where it is lacking: beside the Accelerator's."""
    script = block.script
    if not named(script, options):
        module = options.get("accelerate", _LIBRARY)
        yield from block.importing(_NAME, _beside(script, module), module)


def _spelt(script: Script, options: Options) -> str:
    module = options.get("accelerate", _LIBRARY)
    own = script.spelt(module)
    return f"{own}.{_NAME}" if own and not _imported(script) and _beside(script, module) is None else _NAME


def _imported(script: Script) -> bool:
    return any(
        isinstance(line, ast.ImportFrom) and any((alias.asname or alias.name) == _NAME for alias in line.names)
        for line in _at_top(script)
    )


def _beside(script: Script, module: str) -> ast.stmt | None:
    """The import of the Accelerator itself, at the module's top or in a `try` there."""
    lines = [line for line in _at_top(script) if isinstance(line, ast.ImportFrom) and line.module == module]
    return next((line for line in lines if any(alias.name == "Accelerator" for alias in line.names)), None)


def _at_top(script: Script) -> list[ast.stmt]:
    """The module's own statements, and those of a `try` or an `if` there."""
    return script.once(_tops)


def _tops(script: Script) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    pending = list(script.tree.body)
    while pending:
        node = pending.pop(0)
        found.append(node)
        if isinstance(node, (ast.Try, ast.If)):
            pending[:0] = [*(() if for_types(node) else node.body), *node.orelse]
    return found
