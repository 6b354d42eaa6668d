"""The modules of `stub_world.py`'s world: options, files and folders, and what stands in for Python's own functions."""

from __future__ import annotations

import builtins
import importlib
import itertools
import os.path
import random
import types
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stub_values import Handed
from stub_world import CURRENT, Run, Thing, needed, words, wrote

# Python's own modules that reach nothing outside.
REAL = words("""
    math re collections collections.abc itertools functools typing types dataclasses contextlib string enum abc operator
    copy numbers textwrap __future__ typing_extensions
""")
OPTIONS = {  # so that every script trains three steps in two epochs, saves at each, and keeps one checkpoint
    "max_train_steps": 3,
    "num_train_epochs": 2,
    "checkpointing_steps": 1,
    "checkpoints_total_limit": 1,
    "gradient_accumulation_steps": 1,
    "validation_epochs": 1,
    "validation_steps": 1,
    "save_steps": 1,
    "train_batch_size": 1,
    "max_train_samples": 8,
    "dataloader_num_workers": 1,
    "seed": 1,
    "output_dir": "out",
    "logging_dir": "logs",
}


class Parser(Handed):
    """argparse's, of as much as is needed: which options there are."""

    def __init__(self, run: Run) -> None:
        self.run, self.options, self.command = run, dict[str, Any](), "command"

    def add_argument(self, *names: Any, **named: Any) -> None:
        long = next((str(name) for name in names if str(name).startswith("--")), str(names[0]))
        dest = str(named.get("dest", long.lstrip("-").replace("-", "_")))
        self.options[dest] = self.value(dest, named)

    def value(self, dest: str, named: dict[str, Any]) -> Any:
        if dest in OPTIONS:
            return OPTIONS[dest]
        if (told := self.run.says(dest)) is not None:
            return told
        if dest == "resume_from_checkpoint":
            return "latest" if self.run.resumed else None
        if named.get("action") in ("store_true", "store_false"):
            return self.run.yes(dest)
        if named.get("default") is not None:
            return named["default"]
        needed = named.get("required") or dest == "pretrained_model_name_or_path"
        if not needed and not self.run.yes(f"{dest} is given"):
            return None
        choices, kind = named.get("choices"), named.get("type", str)
        value = choices[0] if isinstance(choices, (list, tuple)) and choices else 1 if kind in (int, float) else dest
        return [value] if "nargs" in named and named["nargs"] != "?" else value

    def add_subparsers(self, **named: Any) -> Parser:
        self.command = named.get("dest", "command")
        return self

    def add_parser(self, name: str, **named: Any) -> Parser:
        self.options.setdefault(self.command, name)
        return self

    def set_defaults(self, **named: Any) -> None:
        self.options.update(named)

    def parse_args(self, *given: object, **named: object) -> Any:
        return Options(self.run, self.options) if self.open else types.SimpleNamespace(**self.options)

    def parse_known_args(self, *given: object, **named: object) -> Any:
        return self.parse_args(), []

    def error(self, text: str) -> None:
        raise SystemExit(text)

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self  # a group of options


class Options:
    """Options of which some were added elsewhere."""

    def __init__(self, run: Run, known: dict[str, Any]) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Parser(CURRENT[-1]).value(name, {"type": None})


class Path(PurePosixPath):
    """pathlib's, on the disk of a run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Thing(CURRENT[-1], f"path.{name}").__call__


class Disk:
    """`os` and `shutil`, as far as scripts use them, on a run's own disk."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.environ = {"LOCAL_RANK": str(run.rank), "RANK": str(run.rank), "WORLD_SIZE": "2"}
        self.path = types.SimpleNamespace(
            **{name: self.pure(name) for name in ("join", "basename", "dirname", "splitext", "split", "normpath")},
            exists=lambda path: str(path) in run.disk or run.yes(f"{path} exists"),
            isdir=lambda path: str(path) in run.disk or run.yes(f"{path} exists"),
            isfile=lambda path: run.yes(f"{path} exists"),
            abspath=str,
            realpath=str,
            expanduser=str,
            getsize=lambda path: 1,
            sep="/",
        )

    @staticmethod
    def pure(name: str) -> Any:
        return lambda *given: getattr(os.path, name)(*map(str, given))

    def listdir(self, path: object = ".") -> list[str]:
        inside = sorted(each for each in self.run.disk if each.startswith(f"{path}/"))
        return [each.removeprefix(f"{path}/").partition("/")[0] for each in inside]

    def makedirs(self, *given: object, **named: object) -> None:
        if not named.get("exist_ok"):
            wrote(self.run, "makedirs", given, {})

    def rmtree(self, path: object, **named: object) -> None:
        wrote(self.run, "rmtree", (str(path),), {})
        self.run.disk.discard(str(path))

    def getenv(self, name: str, default: object = None) -> object:
        return self.environ.get(name, default)

    def __getattr__(self, name: str) -> Any:
        return Thing(self.run, f"os.{name}")


def module(run: Run, name: str) -> Any:
    """What `import name` gives."""
    if name == "random":  # a state of another run is a thing
        return types.SimpleNamespace(**{**vars(random), "setstate": lambda state: None, "seed": lambda *given: None})
    if name in REAL:
        return importlib.import_module(name)
    if name in ("os", "shutil", "os.path"):
        return Disk(run).path if name == "os.path" else Disk(run)
    if name == "argparse":
        parser = types.SimpleNamespace(ArgumentParser=lambda *given, **named: Parser(run))
        return types.SimpleNamespace(**vars(parser), **{each: Thing(run, each) for each in _ARGPARSE})
    if name == "pathlib":
        return types.SimpleNamespace(Path=Path, PurePath=Path)
    return Thing(run, name)


_ARGPARSE = [
    "Namespace",
    "ArgumentTypeError",
    "ArgumentDefaultsHelpFormatter",
    "RawTextHelpFormatter",
    "BooleanOptionalAction",
]


def member(run: Run, name: str, what: str) -> Any:
    """What `from name import what` gives."""
    found = module(run, name)
    return getattr(found, what) if hasattr(found, what) else Thing(run, f"{name}.{what}")


def builtins_of(run: Run) -> dict[str, Any]:
    """Python's own functions that reach out of the world, and those that the judge writes into a script."""

    def opened(path: object = "", mode: str = "r", *given: object, **named: object) -> Any:
        if set(str(mode)) & set("wax+"):
            wrote(run, "open", (str(path),), {})
        return Thing(run, "open()")

    away = {name: Thing(run, name) for name in words("print input exit quit eval exec compile breakpoint help")}
    return {
        **vars(builtins),
        **away,
        "open": opened,
        "getattr": lambda value, name, *default: getattr(value, str(name), *default),
        "hasattr": lambda value, name: hasattr(value, str(name)),
        "setattr": lambda value, name, given: setattr(value, str(name), given),
        "__at__": run.at,
        "__turn__": run.turn,
        "__unpack__": unpack,
        "__each__": each_unpacked,
        "__few__": lambda values: itertools.islice(values, 6),  # a loop over hundreds of steps is cut short
        "__spread__": spread,
        "__words__": named_words,
        "__module__": lambda name: module(run, name),
        "__member__": lambda name, what: member(run, name, what),
        "__caught__": caught,
    }


Names = tuple[Any, ...]  # of what is unpacked to: None for a name, "*" for the rest, or again names


def unpack(value: Any, names: Names) -> Any:
    """A value that is unpacked to names, with as many items as there are names where it is a thing."""
    if isinstance(value, Thing):
        items: list[Any] = [[value[0]] if name == "*" else value[at] for at, name in enumerate(names)]
        if "*" in names:
            items[names.index("*") : names.index("*") + 1] = items[names.index("*")]
    else:
        items = list(value)
    if len(items) != len(names) or "*" in names:
        return items
    return [unpack(item, name) if isinstance(name, tuple) else item for item, name in zip(items, names, strict=True)]


def each_unpacked(values: Any, names: Names) -> Iterator[Any]:
    for value in values:
        yield unpack(value, names)


def spread(function: Any, values: Any, given: int) -> Any:
    """What a function is given by `*values`: as many as it takes where that is a thing."""
    inner = getattr(function, "__func__", function)
    if isinstance(values, Thing) and isinstance(inner, types.FunctionType):
        return [values[at] for at in range(inner.__code__.co_argcount - given - (inner is not function))]
    return values


def named_words(function: Any, values: Any, given: list[str]) -> Any:
    """What a function is given by `**values`: all that it needs where that is a thing."""
    if isinstance(values, Thing) and isinstance(function, types.FunctionType):
        return {name: getattr(values, name) for name in needed(function) if name not in given}
    return values


class Never(BaseException):
    """What no thing raises."""


def caught(kind: Any) -> Any:
    """What an `except` is for."""
    if isinstance(kind, tuple):
        return tuple(map(caught, kind))
    return Never if isinstance(kind, Thing) else kind
