"""Fixes that a recipe brings: what one says of itself is read from its text, its code runs only when it is applied."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.fixes._ast import parse


class NotGiven(KitError):
    """The code of a fix stands beside a recipe that the command was not given."""


class Beside:
    """A fix's module that stands at ``path``. Without ``runs`` it is only looked at."""

    def __init__(self, path: Path, runs: bool) -> None:
        self._path, self._runs = path, runs

    def __getattr__(self, name: str) -> Any:
        """What the module says under ``name``. Raises AttributeError where it says nothing, NotGiven for what only
        running it can tell, and KitError where it does not run."""
        said = _said(self._path)
        if name in said:
            return said[name]
        if name.isupper() and name not in _bound(self._path):
            raise AttributeError(name)
        if not self._runs:
            what = f"{self._path}: this fix comes with a recipe that the command was not given"
            raise NotGiven(what, "`kit verify --smoke` runs it, as does every command that names its recipe")
        return getattr(_module(self._path), name)


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise KitError(f"{path}: {error.strerror}", "restore the fix, or take it out of the recipe") from None


@cache
def _bound(path: Path) -> frozenset[str]:
    targets = (target for node in _tree(path).body if isinstance(node, ast.Assign) for target in node.targets)
    return frozenset(each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))


@cache
def _said(path: Path) -> dict[str, Any]:
    """The module's plain values, by name."""
    found = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # worked out when it runs
    return found


@cache
def _module(path: Path) -> Any:
    """The module, imported under a name of its own: two recipes may each bring a fix of one name. Those beside it it
    imports as `from . import _helper`."""
    package = f"kit_beside_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]}"
    if package not in sys.modules:
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(path.parent)]
    try:
        return importlib.import_module(f"{package}.{path.stem}")
    except Exception as error:  # whatever a fix being written raises
        last = error.__traceback__
        line = 1
        while last:
            line = last.tb_lineno if last.tb_frame.f_code.co_filename == str(path) else line
            last = last.tb_next
        raise KitError(f"{path}:{line}: {type(error).__name__}: {error}", "mend the fix") from None
