"""The pipeline a script trains for, and its components: read from the pipeline's own __init__ and __call__."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kit.fixes._ast import parse
from kit.paths import TreePath


@dataclass(frozen=True)
class Pipeline:
    """A pipeline class: the class of each component, with its library, and the parameters of its call."""

    name: str
    components: Mapping[str, str]  # by name: "library.Class"; those with a default of None are left out
    parameters: tuple[str, ...]


def find(script: bytes, name: str, files: Mapping[TreePath, bytes], reached: Iterable[TreePath]) -> Pipeline | None:
    """The first pipeline that ``script`` loads, defined in one of the ``reached`` files; None where there is none."""
    loaded = {
        node.func.value.id: node.lineno
        for node in ast.walk(parse(script, name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.endswith("Pipeline")
    }
    for wanted in sorted(loaded, key=loaded.__getitem__):
        for path in reached:
            tree = parse(files[path], path)
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and node.name == wanted:
                    return _read(node, tree)
    return None


def _read(node: ast.ClassDef, tree: ast.Module) -> Pipeline:
    functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    theirs = {
        alias.name
        for each in tree.body
        if isinstance(each, ast.ImportFrom) and each.module == "transformers" and not each.level
        for alias in each.names
    }
    components = {}
    if made := functions.get("__init__"):
        arguments = made.args.args[1:]
        given = len(arguments) - len(made.args.defaults)
        for argument in arguments[:given]:
            cls = ast.unparse(argument.annotation).strip("'\"") if argument.annotation else ""
            cls = re.split(r"[],|\s]", cls.rpartition("[")[2], maxsplit=1)[0]  # of several the first
            components[argument.arg] = f"{'transformers' if cls in theirs else 'diffusers'}.{cls}"
    call = functions.get("__call__")
    parameters = tuple(each.arg for each in call.args.args[1:]) if call else ()
    return Pipeline(node.name, components, parameters)
