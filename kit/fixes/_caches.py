"""What a training script keeps for each batch before training starts, read from its `ast` tree: see `sample_caches`."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kit.fixes._ast import Ancestors, every, same, statements, stored, text
from kit.fixes._roles._script import own
from kit.fixes._samples import Function, Samples, Unknown, assigned, in_order, makes, moves, samples

FILL, READ, PAD = "cache_samples", "cached_batch", "cached_captions"  # the functions the fix writes
_SHARED = "torch.zeros(prompt_embeds.shape[1], 3)"  # FLUX.1's text_ids: one of them for the whole batch
LISTED = -1  # the "dimension" of a list with one tensor a sample


class Kind(Enum):
    """What a cache holds."""

    ROWS, LATENTS, LIST, SEVERAL, CAPTIONS = range(5)


@dataclass(frozen=True)
class Cache:
    """A list with one entry a batch, which training indexes with its own step. ``dims``: the dimension that counts the
    samples, of each part of an entry (None: it has none, all share it). ``masks``: the cache that says how long each
    caption is, where they are padded to the longest of a batch; it may be this one."""

    name: str
    kind: Kind
    dims: tuple[int | None, ...]
    masks: str = ""


@dataclass(frozen=True)
class Plan:
    """A script's caches, the function that has them, and where a sample's index has to be handed on."""

    caches: tuple[Cache, ...]
    function: str
    samples: Samples
    lines: tuple[int, ...]  # of the statements that read a cache by the step


def by_step(tree: ast.Module) -> list[tuple[ast.stmt, str, str, ast.For, Function]]:
    """The statements that read a list by the number of a batch, `for step, batch in enumerate(loader)`: each with the
    list's name, the loader's, the loop and the function."""
    found = []
    for loop, above in statements(tree):
        function = next((node for node in reversed(above) if isinstance(node, Function)), None)
        if not isinstance(loop, ast.For) or not function or not (counted := _counted(loop)):
            continue
        given = list(assigned(function))
        lists = {name for name, value in given if text(value) in ("[]", "list()")}
        loaded = any(name == counted[1] and makes(value, ("DataLoader", "prepare")) for name, value in given)
        if not loaded or in_order(function, counted[1]):
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
    indices = {"batch['indices']"} | {name for name, value in assigned(tree) if same(value, "batch['indices']")}
    return [each.lineno for each, _ in statements(tree) if any(_gathers(node, indices) for node in _own(each))]


def _gathers(node: ast.AST, indices: set[str]) -> bool:
    if isinstance(node, ast.Call) and text(node.func) in (READ, PAD):
        return True
    for part in node.generators if isinstance(node, (ast.ListComp, ast.GeneratorExp)) else ():
        over = isinstance(part.target, ast.Name) and text(part.iter) in indices
        inside = every(node) if over else ()
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
    if any(cache.kind is Kind.SEVERAL for cache in caches) and {"cache", "values"} & stored(function):
        raise Unknown("it uses the names `cache` and `values` itself")
    known = {getattr(node, field, "") for node in every(tree) for field in ("id", "name", "asname", "arg")}
    if taken := known & {FILL, READ, *(PAD for cache in caches if cache.masks)}:
        raise Unknown(f"it uses the name `{min(taken)}` itself: rename that")
    lines = tuple(dict.fromkeys(statement.lineno for statement, *_ in reads))
    return Plan(caches, function.name, samples(tree, loader, function), lines)


def _cache(name: str, loader: str, loop: ast.For, function: Function, tree: ast.Module) -> Cache:
    appends = [(*above, statement) for statement, above in statements(function) if appended(statement) == name]
    for path in appends:
        _filled_once(name, path, loader)
    for at, path in enumerate(appends):
        if not all(_either(path, other) for other in appends[:at]):
            line = path[-1].lineno  # type: ignore[attr-defined]
            raise Unknown(f"`{name}` is given several entries for a batch (line {line}): give each a cache of its own")
    found = [statement for statement, _ in statements(loop) if reads(statement, name)]
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in every(function))
    if not appends or uses != 1 + len(appends) + len(found):
        raise Unknown(f"`{name}` is used otherwise than to fill it before training and to read it by the step")
    given = [path[-1].value.args[0] for path in appends]  # type: ignore[attr-defined]
    kinds = {_kind(statement, name, given, loop, function, tree) for statement in found}
    if len(kinds) > 1:
        raise Unknown(f"`{name}` is read in several ways")
    return Cache(name, *kinds.pop())


def _filled_once(name: str, path: Ancestors, loader: str) -> None:
    """Raises Unknown where an entry, with what is around it, is not the one for each batch of ``loader``."""
    loops = [node for node in path if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
    over = [node for node in loops if isinstance(node, ast.For) and same(node.target, "batch") and _over(node, loader)]
    if not over:
        raise Unknown(f"`{name}` is not filled in a loop over the batches of `{loader}`")
    line = f"(line {path[-1].lineno})"  # type: ignore[attr-defined]
    if len(loops) > 1:
        raise Unknown(f"`{name}` is given several entries for a batch {line}: encode it in one call, in one loop")
    if any(isinstance(node, (ast.Break, ast.Continue, ast.Return)) for node in every(over[0])):
        raise Unknown(f"the loop that fills `{name}` may leave out batches {line}: fill it with all of them")
    if moved := next((node for node in every(over[0]) if moves(node)), None):
        where = f"`{text(moved)}` (line {moved.lineno})"  # type: ignore[attr-defined]
        raise Unknown(f"{where} may have other rows than the batch has samples: keep them by sample by hand")


def _either(one: Ancestors, other: Ancestors) -> bool:
    """Whether only one of two statements, each below what is around it, can run: they are in the two branches of an
    `if`."""
    for fork, left, right in zip(one, one[1:], other[1:], strict=False):
        if left is not right:
            return isinstance(fork, ast.If) and (left in fork.body) != (right in fork.body)
    return False


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


def _kind(
    read: ast.stmt, name: str, given: list[ast.expr], loop: ast.For, function: Function, tree: ast.Module
) -> tuple[Any, ...]:
    """What a cache holds, told by what is put there, by how it is read, and by what else the script does with that: a
    `Cache` but for its name."""
    single = isinstance(read, ast.Assign) and len(read.targets) == 1
    target, value = (read.targets[0], read.value) if single else (None, None)  # type: ignore[attr-defined]
    names = [text(each) for each in (target.elts if isinstance(target, ast.Tuple) else [target])] if target else []
    latents = {each.attr if isinstance(each, ast.Attribute) else "" for each in given}
    method = value.func if isinstance(value, ast.Call) and not value.args and not value.keywords else None
    sampled = isinstance(method, ast.Attribute) and method.attr in ("sample", "mode") and _at(method.value, name)
    if len(names) == 1 and latents == {"latent_dist"} and sampled:
        return Kind.LATENTS, (0,)
    if not names or not isinstance(value, ast.Subscript):
        way = "give what is read there a name, in a line of its own"
        raise Unknown(f"`{name}` is read by the step in a way it does not know (line {read.lineno}): {way}")
    if len(names) == 1 and latents == {"latent"}:
        return Kind.ROWS, (0,)
    if len(names) == 1 and (masks := _masks(names[0], loop, tree)) and _dim(names[0], read, loop, function, tree) == 0:
        return Kind.CAPTIONS, (0,), masks
    if any("mask" in each for each in (*names, name)):
        raise Unknown(f"`{name}` says that captions differ in length: each batch would have to be padded anew")
    dims = tuple(_dim(each, read, loop, function, tree) for each in names)
    if isinstance(target, ast.Tuple):
        if set(dims) <= {0, None}:
            return Kind.SEVERAL, dims
    elif dims == (LISTED,) and all(isinstance(each, ast.Name) for each in given):
        return Kind.LIST, ()
    elif dims[0] not in (LISTED, None):
        return Kind.ROWS, dims
    raise Unknown(f"what is put in `{name}` cannot be told apart by sample")


def _masks(name: str, loop: ast.For, tree: ast.Module) -> str:
    """The cache with the mask of the captions in ``name`` (which may be that mask), if the script tells their lengths
    by it: `name_mask.sum(dim=1)`. "" where there is none, or what is padded may be used."""
    captions = name.removesuffix("_mask")
    mask = f"{captions}_mask"
    read = {text(node.targets[0]): cache for node, cache, *_ in by_step(tree) if isinstance(node, ast.Assign)}
    told = captions in read and any(same(node, f"{mask}.sum(dim=1)") for node in every(loop))
    return read.get(mask, "") if told else ""


def _dim(name: str, read: ast.stmt, loop: ast.For, function: Function, tree: ast.Module) -> int | None:
    """The dimension of ``name`` that counts the samples, told by what is done where its cache is not read: how the one
    prompt is repeated for all images in the training loop, and how the class prompt is put below it."""
    if any(known == name and text(value).startswith(_SHARED) for known, value in assigned(tree)):
        return None
    paths = {statement: (*above, statement) for statement, above in statements(loop)}
    instead = [statement for statement, path in paths.items() if _either(paths[read], path)]
    given = [value for each in instead for known, value in assigned(each) if known == name]
    below = [value for known, value in assigned(function) if known == name]
    dims = {_repeated(value, loop) for value in given} - {None} or {_class_below(value) for value in below} - {None}
    if len(dims) == 1:
        return dims.pop()
    says = "more than one thing" if dims else "nothing"
    by_hand = "keep it by sample by hand, as upstream's #13353 does"
    raise Unknown(f"{says} in it says which dimension of `{name}` counts the samples: {by_hand}")


def _repeated(value: ast.expr, loop: ast.For) -> int | None:
    """The dimension along which ``value`` is repeated for the samples of the loop's batch."""
    if isinstance(value, ast.ListComp) and len(value.generators) == 2:
        each, times = value.generators
        return LISTED if same(value.elt, text(each.target)) and _by_batch(times.iter, loop) else None
    call = value.elt if isinstance(value, ast.GeneratorExp) else value
    method = call.func.attr if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else ""
    many = [at for at, each in enumerate(call.args) if not same(each, "1")] if method.startswith("repeat") else []  # type: ignore
    if len(many) != 1 or not _by_batch(call.args[many[0]], loop):  # type: ignore[attr-defined]
        return None
    return many[0] if method == "repeat" else _keyword(call)


def _by_batch(node: ast.expr, loop: ast.For) -> bool:
    """Whether an expression is made of the loop's batch, as `len(prompts)` is with `prompts = batch["prompts"]`."""
    values: list[ast.expr] = [node]
    for _ in range(2):
        names = {part.id for value in values for part in every(value) if isinstance(part, ast.Name)}
        values += [value for name, value in assigned(loop) if name in names]
    parts = (part for value in values for part in every(value))
    return any(isinstance(part, ast.Subscript) and same(part.value, "batch") for part in parts)


def _class_below(value: ast.expr) -> int | None:
    """The dimension along which `torch.cat` puts the class prompt below another."""
    one = value.args[0] if isinstance(value, ast.Call) and same(value.func, "torch.cat") and value.args else None
    parts = one.elts if isinstance(one, ast.List) else []
    return _keyword(value) if len(parts) == 2 and text(parts[1]).startswith("class_") else None


def _keyword(call: ast.AST) -> int | None:
    given = (each.value for each in call.keywords if each.arg == "dim") if isinstance(call, ast.Call) else ()
    return next((value.value for value in given if isinstance(value, ast.Constant)), None)  # type: ignore[return-value]
