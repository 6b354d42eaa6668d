"""How a sample's index can be handed on from its data set to the batch, read from an `ast` tree: see `_caches`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from kit.fixes._ast import every, same, statements, text
from kit.fixes._roles._script import last

Function = ast.FunctionDef | ast.AsyncFunctionDef
# What may move the rows of a batch, or make them more or fewer.
_MOVES = re.compile(
    r"flip|fliplr|flipud|(un)?flatten|reshape|view|rearrange|roll|repeat_interleave|sort(ed)?|shuffle|reversed"
)


class Unknown(Exception):
    """The script has the fault in a form that is not known; the text says which."""


def assigned(scope: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What each name in ``scope`` is given, those of a tuple by the same value."""
    for node in _by_depth(scope):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Name):
                    yield each.id, node.value  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _by_depth(scope: ast.AST) -> tuple[ast.AST, ...]:
    """A scope and the statements in it, the outer ones first."""
    found = [scope]
    for node in found:
        inner = (part for _, value in ast.iter_fields(node) if isinstance(value, list) for part in value)
        found += [part for part in inner if isinstance(part, (ast.stmt, ast.excepthandler, ast.match_case))]
    return tuple(found)


@dataclass(frozen=True)
class Samples:
    """Where a sample's index has to be handed on. ``container`` and ``index``: the dictionary that `__getitem__` of the
    class ``dataset`` returns, and its parameter; ``batch`` and ``examples`` those of the function ``collate``."""

    dataset: str
    container: str
    index: str
    collate: str
    batch: str
    examples: str

    @property
    def of_sample(self) -> str:
        """The line by which a sample has its index."""
        return f'{self.container}["index"] = {self.index}'

    @property
    def of_batch(self) -> str:
        """The line by which a batch has those of its samples."""
        return f'{self.batch}["indices"] = [example["index"] for example in {self.examples}]'


def in_order(function: Function, loader: str) -> bool:
    """Whether ``loader`` gives the same batches in the same order each time, to every process: nothing in ``function``
    shuffles it, or prepares it for several processes."""
    values = [value for name, value in assigned(function) if name == loader]
    plain = (makes(each, ("DataLoader",)) and len(each.args) <= 2 and _plain(each.keywords) for each in values)  # type: ignore
    return all(plain)


def _plain(given: list[ast.keyword]) -> bool:
    orders = (each for each in given if each.arg in (None, "shuffle", "sampler", "batch_sampler"))
    return all(each.arg and (same(each.value, "False") or same(each.value, "None")) for each in orders)


def samples(tree: ast.Module, loader: str, function: Function) -> Samples:
    """How the samples of ``loader``, made in ``function``, can be known. Raises Unknown where they cannot surely."""
    made = [value for name, value in assigned(function) if name == loader and makes(value, ("DataLoader",))]
    if len(made) != 1:
        raise Unknown(f"`{loader}` is not made once, by DataLoader")
    call: ast.Call = made[0]  # type: ignore[assignment]
    given = {each.arg: each.value for each in call.keywords}
    for word in ("sampler", "drop_last"):
        if not same(given.get(word, ast.Constant(False)), "False"):
            raise Unknown(f"`{loader}` is given {word}: the pass that fills the caches may leave out samples")
    if "batch_sampler" in given and not _fixed(tree, function, given["batch_sampler"]):
        raise Unknown("its batch sampler makes other batches each time: those that fill the caches may lack samples")
    dataset = _class(tree, function, next(iter(call.args), given.get("dataset")))
    methods = [node for node in dataset.body if isinstance(node, ast.FunctionDef)]
    item = next((node for node in methods if node.name == "__getitem__"), None)
    container = _returned(item, ast.Dict) if item and len(item.args.args) == 2 else ""
    if not item or not container:
        raise Unknown(f"`{dataset.name}.__getitem__` does not return a dictionary that it makes at its start")
    collate = given.get("collate_fn")
    called = collate.body.func if isinstance(collate, ast.Lambda) and isinstance(collate.body, ast.Call) else collate
    if isinstance(collate, ast.Call) and last(collate.func) == "partial" and len(collate.args) == 1:
        called = collate.args[0]
    found = [node for node in every(tree) if isinstance(node, ast.FunctionDef) and same(called, node.name)]
    if len(found) != 1:
        raise Unknown(f"the collate_fn of `{loader}` is no function of this file: hand one on, itself or in a lambda")
    batch = _returned(found[0], ast.Dict) if found[0].args.args else ""
    if not batch:
        raise Unknown(f"the collate_fn of `{loader}` does not return a dictionary that it makes: give it a name there")
    examples = found[0].args.args[0].arg
    known = Samples(dataset.name, container, item.args.args[1].arg, found[0].name, batch, examples)
    _index_kept(item, known)
    _examples_kept(found[0], examples)
    written = {text(ast.parse(line).body[0]) for line in (known.of_sample, known.of_batch)}
    for scope, key in ((dataset, "index"), (found[0], "index"), (found[0], "indices"), (function, "indices")):
        _unused(scope, key, written)
    return known


def _index_kept(item: ast.FunctionDef, known: Samples) -> None:
    """Raises Unknown where a sample may be another than the one that was asked for."""
    method = f"`{known.dataset}.__getitem__`"
    for node in every(item):
        if isinstance(node, ast.Name) and node.id == known.index and not isinstance(node.ctx, ast.Load):
            raise Unknown(f"{method} gives `{known.index}` another value (line {node.lineno}): use a name of its own")
        if isinstance(node, ast.Return) and node is not item.body[-1]:
            raise Unknown(f"{method} returns early (line {node.lineno}): let it return `{known.container}` at its end")


def _examples_kept(collate: ast.FunctionDef, examples: str) -> None:
    """Raises Unknown where a batch may have other rows than the samples that it is made of."""
    for node in every(collate):
        part = getattr(node, "value", None)
        own = isinstance(node, ast.Name) and node.id == examples
        inside = isinstance(node, (ast.Attribute, ast.Subscript)) and same(part, examples)
        changed = (own or inside) and (isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load))  # type: ignore
        filtered = any(each.ifs and same(each.iter, examples) for each in getattr(node, "generators", ()))
        left = isinstance(node, (ast.Break, ast.Continue, ast.Return)) and node is not collate.body[-1]
        if changed or filtered or left or moves(node) or _several(node, examples):
            where = f"`{collate.name}` may leave out or move examples (line {node.lineno})"  # type: ignore[attr-defined]
            raise Unknown(f"{where}: do that in the data set, so that a batch has a row for each of `{examples}`")


def moves(node: ast.AST) -> bool:
    """Whether an expression may move the rows of a batch, or make them more or fewer."""
    if isinstance(node, ast.Subscript):
        at = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
        return isinstance(at, ast.Slice) and text(at) != ":"
    return isinstance(node, ast.Call) and _MOVES.fullmatch(last(node.func)) is not None


def _several(node: ast.AST, examples: str) -> bool:
    """Whether a loop, or a comprehension, over a batch's samples makes several rows of one next to each other."""
    if isinstance(node, ast.For) and same(node.iter, examples):
        parts = [part for line in node.body for part in every(line)]
        calls = [text(part.func) for part in parts if isinstance(part, ast.Call)]
        added = [call for call in calls if call.endswith((".append", ".extend"))]
        inner = any(isinstance(part, (ast.For, ast.While, ast.AugAssign)) for part in parts)
        return inner or len(set(added)) < len(added) or any(call.endswith(".extend") for call in added)
    return any(same(each.iter, examples) for each in getattr(node, "generators", [])[:-1])


def _unused(scope: ast.AST, key: str, written: set[str]) -> None:
    """Raises Unknown where a script has ``key`` in ``scope`` for something of its own."""
    lines = (node for node, _ in statements(scope) if text(node) in written)
    ours = {part for line in lines for part in every(line)}
    for node in every(scope):
        name = node.value if isinstance(node, ast.Constant) else node.arg if isinstance(node, ast.keyword) else None
        if name == key and node not in ours:
            raise Unknown(f'it uses "{key}" itself (line {node.lineno}): give that another name')  # type: ignore[attr-defined]


def makes(value: ast.expr, names: tuple[str, ...]) -> bool:
    return isinstance(value, ast.Call) and text(value.func).rpartition(".")[2] in names


def _class(tree: ast.Module, function: Function, node: ast.expr | None) -> ast.ClassDef:
    """The class in this module of what ``node`` names, which is made once."""
    made = [value for name, value in assigned(function) if same(node, name) and isinstance(value, ast.Call)]
    classes = [each for each in tree.body if isinstance(each, ast.ClassDef) and made and makes(made[0], (each.name,))]
    if len(made) != 1 or len(classes) != 1:
        raise Unknown(f"the class of `{text(node) if node else 'its data'}` is not in this file")
    return classes[0]


def _fixed(tree: ast.Module, function: Function, node: ast.expr) -> bool:
    """Whether a batch sampler makes its batches once, as it is made, and only orders them anew."""
    methods = {each.name: each for each in _class(tree, function, node).body if isinstance(each, ast.FunctionDef)}
    made = [name for name, each in methods.items() for part in every(each) if _sets(part, "self.batches")]
    iterates = methods.get("__iter__")
    return set(made) == {"__init__"} and bool(iterates) and "for batch in self.batches" in text(iterates)


def _sets(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(same(target, name) for target in node.targets)


def _returned(function: ast.FunctionDef, kind: type) -> str:
    """The name that a function gives a new dictionary, among its own statements, and returns at its end."""
    last = function.body[-1]
    name = text(last.value) if isinstance(last, ast.Return) and isinstance(last.value, ast.Name) else ""
    own = [node for node in function.body if isinstance(node, ast.Assign) and same(node.targets[0], name or "_")]
    return name if len(own) == 1 and isinstance(own[0].value, kind) else ""
