"""Which rows of a tensor come from what: sources given to the rows of some tensors follow them through torch.

A source is a string ("image 3fa2", "caption a cat", "noise 91c0"). A tensor's rows are the slices along one of its
dimensions; each has the set of sources that went into it. What moves elements (indexing, reshaping, stacking) is done
once more on the numbers of the rows, so that any such function is followed without a rule of its own; what computes is
taken to keep rows apart, as everything but a batch norm does. A tensor whose rows cannot be told is left without.

Runs in a recipe's reference environment (torch 2.0 or newer, Python 3.8 or newer), on tiny models.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

Sources = frozenset  # of strings
NOTHING: Sources = frozenset()


class Rows(NamedTuple):
    """The sources of a tensor's slices along ``dim``; of the whole tensor where ``dim`` is None (then one entry)."""

    dim: int | None
    sources: tuple[Sources, ...]


def digest(tensor: torch.Tensor) -> str:
    """What a tensor holds, as a short word."""
    with torch._C.DisableTorchFunction():
        data = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:12]


_known: dict[int, tuple[Any, Rows]] = {}

# Functions that only move elements: their result says by itself where each came from.
_MOVES = frozenset(
    """
    __getitem__ __setitem__ broadcast_to cat chunk concat concatenate contiguous expand expand_as flatten flip gather
    hstack index_select moveaxis movedim narrow permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape
    reshape_as roll select split squeeze stack swapaxes swapdims t take_along_dim tensor_split tile transpose unbind
    unflatten unsqueeze view view_as vstack
    """.split()
)


def of(tensor: Any) -> Rows | None:
    """The rows of ``tensor``, None where nothing is known of it."""
    entry = _known.get(id(tensor))
    return entry[1] if entry is not None and entry[0]() is tensor else None


def mark(tensor: torch.Tensor, rows: Rows) -> None:
    """Say where the rows of ``tensor`` come from, beside what is known of them."""
    before = of(tensor)
    if before is not None:
        one, many = sorted((before, rows), key=lambda each: len(each.sources))
        if len(one.sources) == 1 or (one.dim == many.dim and len(one.sources) == len(many.sources)):
            shared = one.sources * (len(many.sources) // len(one.sources))
            rows = Rows(many.dim, tuple(old | new for old, new in zip(shared, many.sources)))
    key = id(tensor)
    _known[key] = (weakref.ref(tensor, lambda _, key=key: _known.pop(key, None)), rows)


def sources(tensor: torch.Tensor, count: int) -> list[Sources]:
    """The sources of the ``count`` rows of ``tensor``, whichever dimension they are along; of none where it has not as
    many rows."""
    rows = of(tensor)
    if rows is None:
        return [NOTHING] * count
    if len(rows.sources) == 1 and (rows.dim is None or count != 1):
        return list(rows.sources) * count
    return list(rows.sources) if len(rows.sources) == count else [NOTHING] * count


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


class _Numbers:
    """Stands numbers in for the elements of tensors, one for each set of sources: ``table`` holds what each means."""

    def __init__(self) -> None:
        self.table: dict[Sources, int] = {NOTHING: 0}

    def of(self, value: Any, moved: bool = True) -> Any:
        """The numbers of a tensor, or of each in a list. Whole numbers that are not ``moved`` are an index."""
        if isinstance(value, torch.Tensor):
            if not moved and not value.is_floating_point():
                return value.cpu()  # where the numbers are
            rows = of(value)
            if rows is None:
                return torch.zeros((1,) * value.dim(), dtype=torch.int64).expand(value.shape)
            numbers = torch.tensor([self.table.setdefault(each, len(self.table)) for each in rows.sources])
            shape = [1] * value.dim()
            if rows.dim is not None:
                shape[rows.dim] = len(rows.sources)
            return numbers.reshape(shape).expand(value.shape)
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
            return type(value)(self.of(each, moved) for each in value)
        return value

    def read(self, numbers: torch.Tensor) -> Rows | None:
        """The rows that a tensor of numbers stands for; None where they are along no one dimension."""
        if not numbers.numel():
            return None
        meaning = list(self.table)
        if bool((numbers == numbers.reshape(-1)[0]).all()):
            whole = meaning[int(numbers.reshape(-1)[0])]
            return Rows(None, (whole,)) if whole else None
        for dim in range(numbers.dim()):
            along = numbers.movedim(dim, 0).reshape(numbers.size(dim), -1)
            if bool((along == along[:, :1]).all()):
                return Rows(dim, tuple(meaning[number] for number in along[:, 0].tolist()))
        return None


def _moved(func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
    numbers = _Numbers()
    with torch._C.DisableTorchFunction():
        try:
            if func.__name__ == "__setitem__":
                result = args[0]
                shadow = numbers.of(result).clone()
                func(shadow, args[1], numbers.of(args[2]))
            else:
                rest = numbers.of(tuple(args[1:]), moved=False)
                named = {key: numbers.of(value, key in ("tensors", "input")) for key, value in kwargs.items()}
                shadow = func(*(numbers.of(each) for each in args[:1]), *rest, **named)
        except Exception:  # a function that takes no whole numbers: its rows are unknown
            return
        for real, stand in zip(_tensors(result), _tensors(shadow)):
            rows = numbers.read(stand) if real.shape == stand.shape else None
            if rows is not None:
                _known.pop(id(real), None)  # what was written over
                mark(real, rows)


def _joins(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call puts tensors together row by row (tokens beside tokens), not rows below rows."""
    if name not in ("cat", "concat", "concatenate"):
        return False
    tensors = list(_tensors(args[:1] or kwargs.get("tensors")))
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    dim += tensors[0].dim() if dim < 0 else 0
    return dim not in (0, *(rows.dim for rows in map(of, tensors) if rows is not None))


def _place(rows: Rows, given: torch.Tensor, made: torch.Tensor, name: str) -> int | None:
    """The dimension of a computed tensor that the rows of one it was made from are along."""
    if rows.dim is None:
        return None
    count = len(rows.sources)
    here = rows.dim
    if made.dim() > given.dim() and name not in ("embedding", "one_hot"):
        here += made.dim() - given.dim()  # broadcast: dimensions are counted from the last
    if here < made.dim() and made.size(here) == count:
        return here
    return None


def _computed(name: str, args: Any, kwargs: Any, result: Any) -> None:
    given = [(of(each), each) for each in (*_tensors(args), *_tensors(kwargs))]
    known = [(rows, each) for rows, each in given if rows is not None]
    if not known:
        return
    for made in _tensors(result):
        if made.dim() == 0:
            mark(made, Rows(None, (frozenset().union(*(each for rows, _ in known for each in rows.sources)),)))
            continue
        by: dict[int, list[Sources]] = {}
        everywhere: Sources = NOTHING
        for rows, each in known:
            if rows.dim is None:
                everywhere |= rows.sources[0]
                continue
            dim = _place(rows, each, made, name)
            if dim is None and len(rows.sources) == 1:
                everywhere |= rows.sources[0]
            elif dim is not None:
                before = by.setdefault(dim, [NOTHING] * len(rows.sources))
                by[dim] = [old | new for old, new in zip(before, rows.sources)]
        if by:
            dim = min(by)
            mark(made, Rows(dim, tuple(each | everywhere for each in by[dim])))
        elif everywhere:
            mark(made, Rows(None, (everywhere,)))


class Following(TorchFunctionMode):
    """While it is entered, rows are followed. ``call(name, func, args, kwargs)`` makes every call, and may make it
    differently (random functions)."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or name == "__set__":
            result = func(*args, **kwargs)
            if name == "__get__" and isinstance(result, torch.Tensor) and of(args[0]) is not None:
                _computed(name, args, kwargs, result)  # .data, .T of one dimension, .real
            return result
        result = self.call(name, func, args, kwargs)
        if not _known:
            return result
        if name in _MOVES and not _joins(name, args, kwargs):
            if any(of(each) is not None for each in (*_tensors(args), *_tensors(kwargs))):
                _moved(func, args, kwargs, result)
        else:
            _computed(name, args, kwargs, result)
        return result


def follow(call: Callable[..., Any]) -> None:
    """Follow rows from here on, in this thread."""
    mode = Following(call)
    mode.__enter__()
    seen: list[str] = []
    mode.call = lambda name, func, args, kwargs: seen.append(name) or func(*args, **kwargs)
    torch.zeros(1)[0]
    mode.call = call
    if "__getitem__" not in seen:  # torch 2.1 tells a mode of everything but this
        for func in (torch._C._TensorBase.__getitem__, torch._C._TensorBase.__setitem__):
            setattr(torch.Tensor, func.__name__, _indexing(func))


def _indexing(func: Any) -> Any:
    def index(self: Any, *args: Any) -> Any:
        result = func(self, *args)
        if any(of(each) is not None for each in (self, *_tensors(args))):
            _moved(func, (self, *args), {}, result)
        return result

    return index
