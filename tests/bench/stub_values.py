"""The small values of the stubs' world: what ends a run, and what an Accelerator tells of itself."""

from __future__ import annotations


class Stop(BaseException):
    """A run has taken its steps."""


class Word(str):
    """A member of an enumeration of strings, as accelerate's DistributedType."""

    name = value = property(str)  # type: ignore[assignment]


class Rank(int):
    """A number of ranks, or whether this is a certain one: as an attribute and as a function that tells it."""

    def __call__(self, *given: object, **named: object) -> Rank:
        return self


class Handed:
    """What is another once it was handed to what is not to be seen here: options may have been added to a parser."""

    open = False


class Device:
    """torch.device: it has a type, and is no string."""

    def __init__(self, rank: int) -> None:
        self.type, self.index = "cuda", rank

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *raised: object) -> None: ...

    def __call__(self, *given: object, **named: object) -> Device:
        return self

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
