"""Random numbers that depend on the image, not on the process, so that one process can be compared with several.

Where a random tensor has as many rows as the batch at hand has images, each row is drawn from a generator of its own,
seeded with the image, how often the loader was started, and how many such tensors the batch had before it. All others
(weights, a validation) are left as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

LIKE = ("randn_like", "rand_like")
SIZED = ("randn", "rand", "randint", "normal")
RANDOM = (*LIKE, *SIZED)


class Batch:
    """The batch at hand: the images of its rows, the epoch it is of, what is drawn, and how many tensors were."""

    def __init__(self, images: tuple[str, ...], epoch: int, what: str = "") -> None:
        self.images, self.epoch, self.what, self.draws = images, epoch, what, 0


def _shape(name: str, args: tuple[Any, ...], kwargs: Any) -> list[int] | None:
    if name in LIKE:
        return list(args[0].shape)
    if "size" in kwargs:
        return list(kwargs["size"])
    if name in ("randn", "rand"):
        return list(args[0]) if args and not isinstance(args[0], int) else list(args)
    sizes = [each for each in args if isinstance(each, (tuple, list, torch.Size))]
    return list(sizes[0]) if sizes else None


# How one row is drawn, of its shape, from its own generator, with the arguments of the whole.


def _randint(shape: Any, own: Any, *args: Any, low: int = 0, high: int = 0, **_: Any) -> Any:
    bounds = [each for each in args if isinstance(each, int)] or [low, high]
    return torch.randint(*(bounds if len(bounds) == 2 else [0, *bounds]), shape, generator=own)


def _normal(shape: Any, own: Any, mean: float, std: float, *_: Any, **__: Any) -> Any:
    return torch.normal(float(mean), float(std), shape, generator=own)


def _randn(shape: Any, own: Any, *_: Any, **__: Any) -> Any:
    return torch.randn(shape, generator=own)


def _rand(shape: Any, own: Any, *_: Any, **__: Any) -> Any:
    return torch.rand(shape, generator=own)


_ROW: dict[str, Callable[..., Any]] = {"randint": _randint, "normal": _normal}
_ROW.update(randn=_randn, randn_like=_randn, rand=_rand, rand_like=_rand)


def by_image(batch: Batch | None, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a random function; row by row where it has one for each image of the batch."""
    shape = _shape(name, args, kwargs)
    if batch is None or not shape or shape[0] != len(batch.images) or kwargs.get("generator") is not None:
        return func(*args, **kwargs)
    like = args[0] if name in LIKE else None
    dtype = kwargs.get("dtype") or (like.dtype if like is not None else None)
    device = kwargs.get("device") or (like.device if like is not None else "cpu")
    batch.draws += 1
    rows = []
    for image in batch.images:
        key = f"{image} {batch.epoch} {batch.what} {batch.draws}"
        generator = torch.Generator().manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:15], 16))
        rows.append(_ROW[name](shape[1:], generator, *args, **kwargs))
    return torch.stack(rows).to(device=device, **({"dtype": dtype} if dtype else {}))
