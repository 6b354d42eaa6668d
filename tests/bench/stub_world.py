"""A world in which a training script runs without anything it needs: every module but a few of Python's own is a
stand-in that answers everything (`Thing`), and writes down which collectives and which files a rank comes to.

What a stand-in is true of, is decided by what it is called in the script and by the world's number: both ranks, and the
script before a fix and after it, come by the same ways. Only what a rank is (`is_main_process`, `get_rank()`) differs.
"""

from __future__ import annotations

import collections
import types
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from stub_values import Device, Handed, Rank, Stop, Word


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What every rank must come to, and as often (torch.distributed's and accelerate's).
COLLECTIVES = words("""
    wait_for_everyone barrier gather gather_for_metrics gather_object reduce all_reduce all_gather all_gather_object
    all_gather_into_tensor broadcast broadcast_object_list pad_across_processes backward get_state_dict load_state
    prepare end_training main_process_first local_main_process_first
""")
# What writes or removes something of everybody's, or sends it away: one rank's work.
WRITES = words("""
    save save_pretrained save_file save_lora_weights save_model save_checkpoint dump savez save_model_card to_csv
    upload_folder upload_file push_to_hub create_repo rmtree remove unlink rmdir copyfile copytree move rename
    write_text write_bytes
""")
# What gives a module or a tensor in another place or form.
ITSELF = words("""
    to cuda cpu float half bfloat16 double eval train requires_grad_ detach contiguous clone unwrap_model compile
""")
CHECKPOINT = "out/checkpoint-1"  # there at the start of a world in which a run is resumed
STEPS = 3000  # statements of one run; a script that waits for something runs until then


@dataclass
class Run:
    """One rank's run in one world, and what it came to: collectives in order and files with how often, each with
    the part of the script that was run; lines (from 1)."""

    number: int
    rank: int
    deepspeed: bool
    resumed: bool
    collectives: list[tuple[str, str]] = field(default_factory=list)
    files: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    lines: set[int] = field(default_factory=set)
    raised: dict[str, str] = field(default_factory=dict)  # what ended it, by which part of it was run
    parts: list[str] = field(default_factory=list)  # of the script that were run: itself, functions by themselves
    whole: list[str] = field(default_factory=list)  # those of them that came to their end
    steps: int = 0
    turns: collections.Counter[int] = field(default_factory=collections.Counter)
    disk: set[str] = field(default_factory=set)
    hooks: list[tuple[str, Any]] = field(default_factory=list)
    busy: list[object] = field(default_factory=list)  # functions of the script that are being called back

    def __post_init__(self) -> None:
        self.disk |= {CHECKPOINT} if self.resumed else set()

    def yes(self, name: str) -> bool:
        """Whether something of that name is true here: never in world 0, always in world 1."""
        return self.number == 1 if self.number < 2 else bool(zlib.crc32(f"{self.number}{name}".encode()) & 64)

    def at(self, line: int) -> None:
        """A statement is come to. Raises Stop."""
        self.lines.add(line)
        self.steps += 1
        if self.steps > STEPS:
            raise Stop

    def turn(self, line: int) -> bool:
        """Whether a loop without an end of its own goes on: a few times."""
        self.turns[line] = (self.turns[line] + 1) % 6
        return self.turns[line] > 0

    def says(self, name: str) -> object:
        """What an attribute of that name tells of a rank; None for any other."""
        if name in ("is_main_process", "is_local_main_process", "is_master", "is_main"):
            return Rank(self.rank == 0)
        if name in ("process_index", "local_process_index", "local_rank", "global_rank", "get_rank", "get_local_rank"):
            return Rank(self.rank)
        if name in ("num_processes", "world_size", "get_world_size", "device_count"):
            return Rank(2)
        if name == "distributed_type":
            return Word("DEEPSPEED" if self.deepspeed else "MULTI_GPU")
        return True if name == "sync_gradients" else None


def short(name: str) -> str:
    """A name that stays short, however long what it is made of."""
    return name if len(name) < 120 else f"{name[:60]}~{zlib.crc32(name.encode()):x}"


class Thing:
    """Anything: an attribute, an item, the result of a call or of an operation is another thing, of that name."""

    __version__ = "1.0"
    __name__ = property(lambda self: self._name)  # type: ignore[assignment]

    def __init__(self, run: Run, name: str) -> None:
        self.__dict__.update(_run=run, _name=short(name))

    def _other(self, name: str) -> Any:
        return Thing(self._run, f"{self._name}{name}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._name.rpartition(".")[2] == "DistributedType":
            return Word(name)
        told = self._run.says(name)
        if told is None:
            told = self.__dict__[name] = Device(self._run.rank) if name == "device" else self._other(f".{name}")
        return told

    def __call__(self, *given: Any, **named: Any) -> Any:
        return called(self._run, self, given, named)

    def __bool__(self) -> bool:
        return self._run.yes(self._name)

    def __iter__(self) -> Iterator[Any]:
        deep = "~" in self._name  # what goes down into its parts comes to an end
        return iter([] if deep else [self._other("[0]"), self._other("[1]")])

    def __next__(self) -> Any:
        return self._other("[0]")

    def __getitem__(self, key: object) -> Any:
        return self._other(f"[{key!s:.20}]")

    def __setitem__(self, key: object, value: object) -> None: ...

    def __delitem__(self, key: object) -> None: ...

    def __len__(self) -> int:
        return 2

    def __contains__(self, value: object) -> bool:
        return self._run.yes(f"{value!s} in {self._name}")

    def __enter__(self) -> Any:
        return self._other(" as")

    def __exit__(self, *raised: object) -> bool:
        return False

    def __eq__(self, other: object) -> Any:
        return (isinstance(other, Thing) and other._name == self._name) or self._other(f"=={other!s:.40}")

    def __ne__(self, other: object) -> Any:
        return self._other(f"!={other!s:.40}")

    def __hash__(self) -> int:
        return hash(self._name)

    def __index__(self) -> int:
        return 1

    __int__ = __index__
    __trunc__ = __ceil__ = __floor__ = __index__

    def __float__(self) -> float:
        return 1.0

    def __str__(self) -> str:
        return str(self._name)

    __repr__ = __fspath__ = __str__

    def __format__(self, form: str) -> str:
        return str(self._name)

    def __round__(self, digits: int = 0) -> int:
        return 1

    def __deepcopy__(self, memo: object) -> Any:
        return self

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        real = any(isinstance(each, type) for each in bases)
        first = next(each for each in bases if isinstance(each, Thing))
        return (Based,) if first is self and not real else ()

    def __instancecheck__(self, value: object) -> bool:
        return self._run.yes(f"{value!s:.40} is {self._name}")

    __subclasscheck__ = __instancecheck__

    def keys(self) -> list[str]:
        return []

    def items(self) -> list[tuple[str, Any]]:
        return [(f"{self._name}.key", self._other("[0]"))]


def operation(sign: str) -> Any:
    def operate(self: Thing, *others: object) -> Any:
        return self._other(f"{sign}{others[0] if others else ''!s:.40}")

    return operate


for _word in words("add sub mul matmul truediv floordiv mod pow and or xor lshift rshift"):
    for _side in ("", "r", "i"):
        setattr(Thing, f"__{_side}{_word}__", operation(_word))
for _word in words("lt le gt ge neg pos abs invert"):
    setattr(Thing, f"__{_word}__", operation(_word))


class Based:
    """What a script's class is made of where its base is a thing."""

    def __init__(self, *given: object, **named: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(Thing(CURRENT[-1], type(self).__name__), name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.forward(*given, **named)


CURRENT: list[Run] = []  # the run that goes on now


def called(run: Run, thing: Thing, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What a call of a thing is, and does: it is of the same name, whatever it is given. Raises TypeError where a
    device is given to what wants a string."""
    name = thing._name
    last = name.rpartition(".")[2]
    for each in (*given, *named.values()):
        if isinstance(each, Handed):
            each.open = True
    if last == "autocast":
        kind = named.get("device_type", *given[:1]) if given or "device_type" in named else "cuda"
        if isinstance(kind, Device):
            raise TypeError("autocast() wants the name of a device, as a string")
    if last == "Accelerator":
        return Thing(run, "accelerator")
    if last in COLLECTIVES:
        run.collectives.append((run.parts[-1], last))
    if last == "save_state":
        run.collectives += [(run.parts[-1], last)] * run.deepspeed
        wrote(run, "save_state", given, named, shared=run.deepspeed)
        run.disk.update(map(str, given[:1]))
    elif last in WRITES:
        wrote(run, last, given, named)
    if last.startswith("register_") and given and not isinstance(given[0], Thing):
        run.hooks.append((last, given[0]))
    if last in ("save_state", "load_state"):
        for kind, hook in run.hooks:
            weights = [[] if run.deepspeed else [Thing(run, "weights")]] if last == "save_state" else []
            if kind == f"register_{last}_pre_hook":
                hook([Thing(run, "accelerator.model")], *weights, str(given[0]) if given else "")
    elif not last.startswith("register_"):
        call_back(run, (*given, *named.values()))
    if last == "prepare" and given:
        return given[0] if len(given) == 1 else given
    if given and (last in ("unwrap_model", "compile") or (last == "tqdm" and isinstance(given[0], Thing))):
        return given[0]
    if last in ITSELF:
        return Thing(run, name.rpartition(".")[0])
    return thing._other("()")


def call_back(run: Run, values: tuple[Any, ...]) -> None:
    """Call the functions that something is handed, once: a collate function, what a launcher starts."""
    for each in values:
        if isinstance(each, types.FunctionType) and each.__name__ != "<lambda>" and each not in run.busy:
            run.busy.append(each)
            try:
                call(run, each)
            finally:
                run.busy.remove(each)


def call(run: Run, function: types.FunctionType) -> Any:
    """Call a function of a script with a thing for each parameter without a default."""
    values = {
        name: [Thing(run, name)] if name in ("models", "weights") else Thing(run, name) for name in needed(function)
    }
    code = function.__code__
    given = [values.pop(name) for name in code.co_varnames[: code.co_argcount] if name in values]
    return function(*given, **values)


def needed(function: types.FunctionType) -> list[str]:
    """The parameters of a function that have no default."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]
    words = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [*names, *(name for name in words if name not in (function.__kwdefaults__ or {}))]


def wrote(run: Run, what: str, given: tuple[Any, ...], named: dict[str, Any], shared: bool = False) -> None:
    """A file is written or removed, unless all of DeepSpeed's ranks do it together."""
    paths = [str(each) for each in (*given, *named.values()) if isinstance(each, (str, PurePosixPath))]
    if not shared:
        run.files[run.parts[-1], " ".join([what, *paths[-1:]])] += 1
