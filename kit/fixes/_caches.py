"""What a training script keeps for each batch before training starts, read from its `ast` tree: see `sample_caches`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kit.fixes._ast import same, statements, text
from kit.fixes._roles._script import own

FILL, READ, PAD = "cache_samples", "cached_batch", "cached_captions"  # the functions the fix writes
ROWS, LATENTS, LIST, SEVERAL, CAPTIONS = "rows", "latents", "list", "several", "captions"  # what a cache holds
LISTED = -1  # the "dimension" of a list with one tensor a sample
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unknown(Exception):
    """The script has the fault in a form that is not known; the text says which."""


@dataclass(frozen=True)
class Cache:
    """A list with one entry a batch, which training indexes with its own step. ``dims``: the dimension that counts the
    samples, of each part of an entry (None: it has none, all share it). ``masks``: the cache that says how long each
    caption is, where they are padded to the longest of a batch; it may be this one."""

    name: str
    kind: str
    dims: tuple[int | None, ...]
    masks: str = ""


@dataclass(frozen=True)
class Plan:
    """A script's caches, and where a sample's index has to be handed on. ``container`` and ``index``: the dictionary
    that `__getitem__` of the class ``dataset`` returns, and its parameter; ``batch`` and ``examples`` those of the
    function ``collate``."""

    caches: tuple[Cache, ...]
    function: str
    dataset: str
    container: str
    index: str
    collate: str
    batch: str
    examples: str
    lines: tuple[int, ...]  # of the statements that read a cache by the step


def by_step(tree: ast.Module) -> list[tuple[ast.stmt, str, str, ast.For, Function]]:
    """The statements that read a list by the number of a batch, `for step, batch in enumerate(loader)`: each with the
    list's name, the loader's, the loop and the function."""
    found = []
    for loop, above in statements(tree):
        function = next((node for node in reversed(above) if isinstance(node, Function)), None)
        if not isinstance(loop, ast.For) or not function or not (counted := _counted(loop)):
            continue
        assigned = list(_assigned(function))
        lists = {name for name, value in assigned if same(value, "[]")}
        if not any(name == counted[1] and _makes(value, ("DataLoader", "prepare")) for name, value in assigned):
            continue
        for inner, _ in statements(loop):
            for node in _own(inner):
                at = (
                    isinstance(node, ast.Subscript)
                    and isinstance(node.value, ast.Name)
                    and same(node.slice, counted[0])
                )
                if at and node.value.id in lists:  # type: ignore[attr-defined]
                    found.append((inner, node.value.id, counted[1], loop, function))  # type: ignore[attr-defined]
    return found


def _counted(loop: ast.For) -> tuple[str, str] | None:
    """The names of the number and of the loader in `for number, batch in enumerate(loader)`."""
    names = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
    given = loop.iter.args if isinstance(loop.iter, ast.Call) and same(loop.iter.func, "enumerate") else []
    known = len(names) == 2 and len(given) == 1 and all(isinstance(node, ast.Name) for node in (*names, *given))
    return (text(names[0]), text(given[0])) if known else None


def _own(statement: ast.stmt) -> tuple[ast.AST, ...]:
    """A statement and its expressions, not those of the statements inside it."""
    return statement, *own(statement)


def by_sample(tree: ast.Module) -> list[int]:
    """The lines of the statements that gather a batch from a cache by the samples' own indices, as this fix writes
    it and as upstream does: `[cache[idx] for idx in sample_indices]`."""
    indices = {"batch['indices']"} | {name for name, value in _assigned(tree) if same(value, "batch['indices']")}
    return [each.lineno for each, _ in statements(tree) if any(_gathers(node, indices) for node in _own(each))]


def _gathers(node: ast.AST, indices: set[str]) -> bool:
    if isinstance(node, ast.Call) and text(node.func) in (READ, PAD):
        return True
    for part in node.generators if isinstance(node, (ast.ListComp, ast.GeneratorExp)) else ():
        over = isinstance(part.target, ast.Name) and text(part.iter) in indices
        inside = ast.walk(node) if over else ()
        if any(isinstance(each, ast.Subscript) and same(each.slice, text(part.target)) for each in inside):
            return True
    return False


def read(tree: ast.Module) -> Plan | None:
    """The plan for a script; None where nothing is to be done. Raises Unknown where the fix cannot be sure."""
    reads = by_step(tree)
    if not reads:
        return None
    functions = {function for *_, function in reads}
    loaders = {loader for _, _, loader, _, _ in reads}
    if len(functions) > 1 or len(loaders) > 1:
        raise Unknown("several loops read caches by their step")
    function, loader, loop = functions.pop(), loaders.pop(), reads[0][3]
    if function not in tree.body:
        raise Unknown(f"{function.name} is not a function of the module")
    if not isinstance(loop.target.elts[1], ast.Name) or text(loop.target.elts[1]) != "batch":  # type: ignore[attr-defined]
        raise Unknown("the loop does not call its batches `batch`")
    caches = tuple(_cache(name, loader, loop, function, tree) for name in dict.fromkeys(name for _, name, *_ in reads))
    stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if any(cache.kind == SEVERAL for cache in caches) and {"cache", "values"} & stored:
        raise Unknown("it uses the names `cache` and `values` itself")
    dataset, container, index, collate, batch, examples = _loader(tree, loader, function)
    lines = tuple(dict.fromkeys(statement.lineno for statement, *_ in reads))
    return Plan(caches, function.name, dataset, container, index, collate, batch, examples, lines)


def _cache(name: str, loader: str, loop: ast.For, function: Function, tree: ast.Module) -> Cache:
    appends = [(statement, above) for statement, above in statements(function) if appended(statement) == name]
    for _, above in appends:
        if not any(isinstance(node, ast.For) and same(node.target, "batch") and _over(node, loader) for node in above):
            raise Unknown(f"`{name}` is not filled in a loop over the batches of `{loader}`")
    found = [statement for statement, _ in statements(loop) if reads(statement, name)]
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))
    if not appends or uses != 1 + len(appends) + len(found):
        raise Unknown(f"`{name}` is used otherwise than to fill it before training and to read it by the step")
    given = [statement.value.args[0] for statement, _ in appends]  # type: ignore[attr-defined]
    kinds = {_kind(statement, name, given, tree) for statement in found}
    if len(kinds) > 1:
        raise Unknown(f"`{name}` is read in several ways")
    return Cache(name, *kinds.pop())


def appended(statement: ast.stmt) -> str:
    """The name of the list that a statement appends one thing to; "" for other statements."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    method = call.func if isinstance(call, ast.Call) and len(call.args) == 1 and not call.keywords else None
    appends = isinstance(method, ast.Attribute) and method.attr == "append" and isinstance(method.value, ast.Name)
    return text(method.value) if appends else ""  # type: ignore[union-attr]


def reads(statement: ast.stmt, name: str) -> bool:
    """Whether a statement's own expressions index the list ``name``."""
    return any(_at(node, name) for node in _own(statement))


def _at(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Subscript) and same(node.value, name)


def _over(loop: ast.For, loader: str) -> bool:
    """Whether a loop goes over ``loader``, with a progress bar or without."""
    bar = isinstance(loop.iter, ast.Call) and same(loop.iter.func, "tqdm") and loop.iter.args
    return same(loop.iter.args[0] if bar else loop.iter, loader)  # type: ignore[attr-defined]


def _kind(read: ast.stmt, name: str, given: list[ast.expr], tree: ast.Module) -> tuple[Any, ...]:
    """What a cache holds, told by what is put there, by how it is read, and by what else the script does with that: a
    `Cache` but for its name."""
    target, value = (read.targets[0], read.value) if isinstance(read, ast.Assign) else (None, None)
    names = [text(each) for each in (target.elts if isinstance(target, ast.Tuple) else [target])] if target else []
    latents = {each.attr if isinstance(each, ast.Attribute) else "" for each in given}
    method = value.func if isinstance(value, ast.Call) and not value.args and not value.keywords else None
    sampled = isinstance(method, ast.Attribute) and method.attr in ("sample", "mode") and _at(method.value, name)
    if len(names) == 1 and latents == {"latent_dist"} and sampled:
        return LATENTS, (0,)
    if not names or not isinstance(value, ast.Subscript):
        raise Unknown(f"`{name}` is read by the step in a way it does not know (line {read.lineno})")
    if len(names) == 1 and latents == {"latent"}:
        return ROWS, (0,)
    if len(names) == 1 and (masks := _masks(names[0], tree)) and _dim(names[0], tree) == 0:
        return CAPTIONS, (0,), masks
    if any("mask" in each for each in (*names, name)):
        raise Unknown(f"`{name}` says that captions differ in length: each batch would have to be padded anew")
    dims = tuple(_dim(each, tree) for each in names)
    if isinstance(target, ast.Tuple):
        if set(dims) <= {0, None}:
            return SEVERAL, dims
    elif dims == (LISTED,) and all(isinstance(each, ast.Name) for each in given):
        return LIST, ()
    elif dims[0] not in (LISTED, None):
        return ROWS, dims
    raise Unknown(f"what is put in `{name}` cannot be told apart by sample")


def _masks(name: str, tree: ast.Module) -> str:
    """The cache with the mask of the captions in ``name`` (which may be that mask), if the script tells their lengths
    by it: `name_mask.sum(dim=1)`. "" where there is none, or what is padded may be used."""
    captions = name.removesuffix("_mask")
    mask = f"{captions}_mask"
    read = {text(node.targets[0]): cache for node, cache, *_ in by_step(tree) if isinstance(node, ast.Assign)}
    told = captions in read and any(same(node, f"{mask}.sum(dim=1)") for node in ast.walk(tree))
    return read.get(mask, "") if told else ""


def _dim(name: str, tree: ast.Module) -> int | None:
    """The dimension of ``name`` that counts the samples, told by what else the script does with it: how it is made,
    how the one prompt is repeated for all images, and how the class prompt is put below it."""
    values = [value for known, value in _assigned(tree) if known == name]
    if any(text(value).startswith("torch.zeros(prompt_embeds.shape[1], 3)") for value in values):
        return None  # FLUX.1's text_ids: one of them for the whole batch
    for value in values:
        if isinstance(value, ast.ListComp):
            return LISTED
        call = value.elt if isinstance(value, ast.GeneratorExp) else value
        method = call.func.attr if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else ""
        times = [at for at, each in enumerate(call.args) if not same(each, "1")] if method == "repeat" else []  # type: ignore
        if len(times) == 1 and "num_images_per_prompt" not in text(value):
            return times[0]
        if method == "repeat_interleave" and (dim := _keyword(call)) is not None:
            return dim
    for value in values:
        if isinstance(value, ast.Call) and same(value.func, "torch.cat") and (dim := _keyword(value)) is not None:
            return dim
    raise Unknown(f"nothing in it says which dimension of `{name}` counts the samples")


def _keyword(call: ast.AST) -> int | None:
    given = (each.value for each in call.keywords if each.arg == "dim") if isinstance(call, ast.Call) else ()
    return next((value.value for value in given if isinstance(value, ast.Constant)), None)  # type: ignore[return-value]


def _assigned(scope: ast.AST) -> Iterator[tuple[str, ast.expr]]:
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


def _loader(tree: ast.Module, loader: str, function: Function) -> tuple[str, str, str, str, str, str]:
    """How the loader numbers its samples: see the last six of a `Plan`'s names."""
    made = [value for name, value in _assigned(function) if name == loader and _makes(value, ("DataLoader",))]
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
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and same(called, node.name)]
    batch = _returned(found[0], ast.Dict) if len(found) == 1 and found[0].args.args else ""
    if not batch:
        raise Unknown(f"the collate_fn of `{loader}` does not return a dictionary that it makes")
    return dataset.name, container, item.args.args[1].arg, found[0].name, batch, found[0].args.args[0].arg


def _makes(value: ast.expr, names: tuple[str, ...]) -> bool:
    return isinstance(value, ast.Call) and text(value.func).rpartition(".")[2] in names


def _class(tree: ast.Module, function: Function, node: ast.expr | None) -> ast.ClassDef:
    """The class in this module of what ``node`` names, which is made once."""
    made = [value for name, value in _assigned(function) if same(node, name) and isinstance(value, ast.Call)]
    classes = [each for each in tree.body if isinstance(each, ast.ClassDef) and made and _makes(made[0], (each.name,))]
    if len(made) != 1 or len(classes) != 1:
        raise Unknown(f"the class of `{text(node) if node else 'its data'}` is not in this file")
    return classes[0]


def _fixed(tree: ast.Module, function: Function, node: ast.expr) -> bool:
    """Whether a batch sampler makes its batches once, as it is made, and only orders them anew."""
    methods = {each.name: each for each in _class(tree, function, node).body if isinstance(each, ast.FunctionDef)}
    made = [name for name, each in methods.items() for part in ast.walk(each) if _sets(part, "self.batches")]
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
