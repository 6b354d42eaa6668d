"""Which modules of an upstream's own package its scripts reach: by the names they use, not by all that is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping

from kit.errors import KitError
from kit.fixes._ast import parse
from kit.paths import TreePath


def packages(scripts: Mapping[TreePath, bytes], tree: Collection[str]) -> list[TreePath]:
    """The folders of the upstream's packages that the scripts import: `src/NAME` or `NAME`, with an __init__.py."""
    names = {
        name.partition(".")[0]
        for path, content in scripts.items()
        for node in ast.walk(parse(content, path))
        for name in _modules(node)
    }
    places = (f"{above}{name}" for name in sorted(names) for above in ("src/", ""))
    return [TreePath(place) for place in places if f"{place}/__init__.py" in tree]


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def reached(scripts: Iterable[TreePath], files: Mapping[TreePath, bytes], roots: Iterable[TreePath]) -> list[TreePath]:
    """The modules among ``files`` (the scripts and the packages at ``roots``) that hold a definition the scripts use,
    at any remove."""
    found = _Package(files, tuple(roots))
    pending = [(path, name) for path in scripts for name in found.imported(path)]
    seen = set(pending)
    while pending:
        for step in found.uses(*pending.pop()):
            if step not in seen:
                seen.add(step)
                pending.append(step)
    given = set(scripts)
    return sorted({path for path, _ in seen if path not in given})


class _Package:
    """Where names are defined and what definitions use, in the files of an upstream."""

    def __init__(self, files: Mapping[TreePath, bytes], roots: tuple[TreePath, ...]) -> None:
        self.files, self.roots = files, roots
        self.trees: dict[TreePath, dict[str, list[ast.stmt]]] = {}
        self.links: dict[TreePath, dict[str, tuple[str, str]]] = {}
        self.places: dict[str, list[TreePath]] = {}
        for path, content in files.items():
            for name in re.findall(rb"(?m)^(?:class|def)\s+(\w+)", content):
                if "dummy_" not in path:  # what diffusers has in place of what is not installed
                    self.places.setdefault(name.decode(), []).append(path)

    def imported(self, path: TreePath) -> dict[str, tuple[str, str]]:
        """The names a file imports: what they are called here, the module they come from and their name there."""
        self._read(path)
        return self.links[path]

    def _read(self, path: TreePath) -> None:
        if path in self.trees:
            return
        self.trees[path], self.links[path] = {}, {}
        try:
            module = parse(self.files[path], path)
        except KitError:
            return
        for node in module.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                self.trees[path].setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.trees[path].setdefault(target.id, []).append(node)
        for each in ast.walk(module):
            if isinstance(each, ast.ImportFrom):
                parts = path.split("/")[: -each.level] if each.level else []
                source = "/".join([*parts, *(each.module.split(".") if each.module else [])])
                for alias in each.names:
                    self.links[path][alias.asname or alias.name] = (source, alias.name)

    def uses(self, path: TreePath, name: str) -> Iterable[tuple[TreePath, str]]:
        """The definitions that the one of ``name`` in a file leads to."""
        self._read(path)
        if name in self.trees[path]:
            for node in self.trees[path][name]:
                bases = {base.id for base in getattr(node, "bases", ()) if isinstance(base, ast.Name)}
                for each in ast.walk(node):
                    if not isinstance(each, ast.Name) or ("Pipeline" in each.id and each.id not in bases):
                        continue  # what looks pipelines up names them all
                    if each.id in self.trees[path] or each.id in self.links[path]:
                        yield path, each.id
        elif name in self.links[path]:
            yield from self._defined(*self.links[path][name])

    def _defined(self, source: str, name: str) -> Iterable[tuple[TreePath, str]]:
        """Where a name imported from a module is defined: in its file, or, of a package that hands it on, where a class
        or function of that name is."""
        above = (root.rpartition("/")[0] for root in self.roots)
        for start in dict.fromkeys([source, *(f"{folder}/{source}" for folder in above if folder)]):
            if (file := TreePath(f"{start}.py")) in self.files:
                yield file, name
                return
            yield from ((path, name) for path in self.places.get(name, []) if path.startswith(f"{start}/"))
