"""TOML and JSON into frozen dataclasses, key by key: an unknown key, a missing one or a wrong type is one line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kit.errors import KitError

if sys.version_info >= (3, 11):
    import tomllib as tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
Keys = tuple[str | int, ...]

_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is close to ``word``, and ``word`` is not."""
    words = list(known)
    close = [] if word in words else difflib.get_close_matches(word, words, n=1)  # most are right: it is slow
    return f"; did you mean {close[0]!r}?" if close else ""


def fill(text: str, **facts: Any) -> str:
    """``text`` with `{name}` filled in, and `{name.field}` of a dataclass; braces are doubled: `{{ }}`.

    Plain data only, without formats: str.format would reach a value's class, and from there all of Python. Raises
    AttributeError, LookupError or ValueError.
    """

    def value(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if not found[1]:
            raise ValueError("braces enclose one name")
        name, _, key = found[1].partition(".")
        fact = facts[name]
        if not key:
            return str(fact)
        if key not in {field.name for field in dataclasses.fields(fact)}:
            raise AttributeError(f"{type(fact).__name__!r} object has no attribute {key!r}")
        return str(getattr(fact, key))

    return re.sub(r"\{\{|\}\}|\{([a-z0-9_]+(?:\.[a-z0-9_]+)?)\}|[{}]", value, text)


@dataclasses.dataclass(frozen=True)
class Source:
    """A TOML file and its text, to tell the line a complaint is about."""

    path: Path
    text: str
    places: Mapping[str, Sequence[int]] = dataclasses.field(
        default_factory=dict
    )  # of a list of tables, as "smoke.step":
    # which of the file's each is; -1 for one that is another file's (kit/extending.py)

    def line(self, keys: Keys) -> int:
        """The line of the key that ``keys`` leads to, or of the nearest table header above it. Lines count from 1."""
        lines = self.text.splitlines()
        names = [key for key in keys if isinstance(key, str)]
        wanted = [key for key in keys if isinstance(key, int)]
        if wanted and (places := self.places.get(".".join(str(key) for key in keys[: keys.index(wanted[0])]))):
            if (own := places[wanted[0]]) < 0:
                return self.line(("extends",))
            wanted[0] = own
        start, depth = 0, 0
        for size in range(len(names), 0, -1):
            header = re.compile(rf"\s*\[\[?\s*{re.escape('.'.join(names[:size]))}\s*\]\]?\s*(#.*)?$")
            found = [number for number, line in enumerate(lines) if header.match(line)]
            if found:
                start, depth = found[min(wanted[0], len(found) - 1) if wanted else 0], size
                break
        for number in range(start + (depth > 0), len(lines)):
            if lines[number].lstrip().startswith("[") and not lines[number].startswith((" ", "\t")):
                break
            if depth < len(names) and re.match(rf"\s*[\"']?{re.escape(names[depth])}[\"']?\s*[=.]", lines[number]):
                return number + 1
        below = re.compile(rf"\s*\[\[?\s*{re.escape('.'.join(names))}\s*\.")  # a table that only its own tables open
        return next(
            (number + 1 for number, line in enumerate(lines) if names and not depth and below.match(line)), start + 1
        )

    def complain(self, keys: Keys, what: str, hint: str = "") -> KitError:
        return KitError(f"{self.path}:{self.line(keys)}: {what}", hint)


def load_toml(path: Path) -> tuple[Source, dict[str, Any]]:
    """Read a TOML file. Raises KitError where it is missing, not UTF-8 or not TOML."""
    try:
        source = Source(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError(f"{path}: {error.strerror}", "run `kit list` for the recipes there are") from None
    except UnicodeDecodeError as error:
        raise KitError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    try:
        return source, tomllib.loads(source.text)
    except RecursionError:
        raise KitError(f"{path}:1: its tables and lists are too deep", "a table in a table is deep enough") from None
    except ValueError as error:
        place = re.search(r"\(at line (\d+), column \d+\)|\(at end of document\)", str(error))
        line = place[1] if place and place[1] else len(source.text.splitlines())
        what = str(error)[: place.start()].strip() if place else str(error)
        raise KitError(f"{path}:{line}: not TOML: {what}", "see https://toml.io for the syntax") from None


def read(cls: type[T], table: Any, source: Source, keys: Keys = ()) -> T:
    """Build the dataclass ``cls`` from a TOML table: nested dataclasses, tuples of them, strings, numbers.

    Raises KitError naming file, line and key for a key that is unknown (with what was probably meant), missing or of
    the wrong type.
    """
    if not isinstance(table, dict):
        raise source.complain(keys, f"{_dotted(keys)} must be a table")
    declared = dataclasses.fields(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in declared if field.metadata.get("key", True)}
    hints = _hints(cls)  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            where = f" in [{_dotted(keys)}]" if keys else ""
            hint = f"known keys{where}: {', '.join(fields)}"
            raise source.complain((*keys, key), f"unknown key {key!r}{where}{nearest(key, fields)}", hint)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            where = f" in [{_dotted(keys)}]" if keys else ""
            raise source.complain(keys, f"missing key {name!r}{where}", f"add `{name} = …`")
    return cls(**{key: _value(hints[key], value, source, (*keys, key)) for key, value in table.items()})


@cache  # a recipe has a hundred tables of a dozen classes, and reading hints compiles each
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(hint: Any, value: Any, source: Source, keys: Keys) -> Any:
    hint = getattr(hint, "__supertype__", hint)  # a NewType, such as TreePath
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        if type(value) in arguments:
            return value
        return _value(next(argument for argument in arguments if argument is not type(None)), value, source, keys)
    if dataclasses.is_dataclass(hint):
        return read(hint, value, source, keys)  # type: ignore[arg-type]
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise source.complain(keys, f"{_dotted(keys)} must be a list")
        return origin(_value(arguments[0], item, source, (*keys, index)) for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise source.complain(keys, f"{_dotted(keys)} must be a table")
        return {key: _value(arguments[1], item, source, (*keys, key)) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise source.complain(keys, f"{_dotted(keys)} must be {_NAMES[hint]}, not {reprlib.repr(value)}")
    return value


def _dotted(keys: Keys) -> str:
    return ".".join(key for key in keys if isinstance(key, str))
