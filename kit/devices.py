"""Device profiles: what a device needs, as data. Adding a device is adding a file to `kit/profiles/`, or to `profiles/`
beside a recipe (`kit/beside.py`)."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from kit import beside
from kit.errors import KitError
from kit.schema import Source, load_toml, nearest, read


@dataclass(frozen=True)
class Variable:
    """An environment variable a device's runs set, with one line on what it does."""

    name: str
    value: str
    meaning: str
    torch: str = ""  # the oldest torch that knows it, as 2.1; older ones end with an error where it is set


@dataclass(frozen=True)
class Device:
    """A device profile (`kit/profiles/<name>.toml`)."""

    name: str
    title: str
    device: str  # torch's device string
    distributed_type: str  # accelerate's DistributedType for several of them on one machine
    backend: str  # torch.distributed's collective backend
    precisions: tuple[str, ...]
    package: str = ""  # the Python package that registers the device with torch; none for cuda and cpu
    visible_devices: str = ""  # the variable that chooses among several
    processes: int = 8  # training processes on one machine: one a card
    gres: str = ""  # what Slurm calls a card
    resource: str = ""  # what Kubernetes calls one
    toolkit: tuple[str, ...] = ()  # set-up scripts to source, the first that exists
    toolkit_variables: tuple[str, ...] = ()  # any of which is set where it was sourced already
    probe: tuple[str, ...] = ()  # paths (globs) or commands one of which a machine with the device has
    environment: tuple[Variable, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)  # pip pins the device adds, or has instead of the recipe's
    toolkit_name: str = ""  # what the toolkit is called
    toolkit_imports: tuple[str, ...] = ()  # pip packages that the toolkit's own Python imports
    toolkit_releases: dict[str, str] = field(default_factory=dict)  # by version of the device's package: its toolkit
    # By what `kit doctor` finds missing (driver, toolkit, torch, a package): the commands that install it, in the words
    # of its documentation.
    install: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def requirements(self) -> dict[str, str]:
        """What pip installs for the device beside the recipe's packages, each with its version, or with none."""
        return {**dict(sorted(self.packages.items())), **dict.fromkeys(self.toolkit_imports, "")}


def names(roots: Sequence[Path] = ()) -> list[str]:
    """The devices there is a profile for, in the ``roots`` of a recipe or in kit."""
    return sorted(name for name in beside.stems("profiles", ".toml", roots) if not name.endswith(".api"))


def load(name: str, roots: Sequence[Path] = ()) -> Device:
    """Read one profile. Raises KitError for an unknown device or a malformed profile."""
    known = names(roots)
    path = beside.find("profiles", f"{name}.toml", roots) if name in known else None
    if not path:
        raise KitError(f"unknown device {name!r}{nearest(name, known)}", f"known devices: {', '.join(known)}")
    source, table = load_toml(path)
    return read(Device, table, source)


def toolkit_release(script: Path | None) -> str:
    """The release of the toolkit whose set-up script this is, as its installer noted it (`version=8.3.RC1` in
    <machine>-linux/ascend_toolkit_install.info, below `latest` up to CANN 8.3); "" where there is none."""
    folders = [script.parent, script.parent / "latest"] if script else []
    for folder in folders:
        for note in sorted(folder.glob("*-linux/ascend_toolkit_install.info")):
            found = re.search(r"(?m)^version=(\S+)", note.read_text("utf-8", "replace"))
            if found:
                return found[1]
    return ""


def present(probe: str) -> list[str]:
    """The paths a probe matches: an absolute path is a pattern, a bare name is a program."""
    if probe.startswith("/"):
        return sorted(map(str, Path("/").glob(probe[1:])))
    return list(filter(None, [shutil.which(probe)]))


@dataclass(frozen=True)
class Signature:
    """A function of a device package: its parameters in order, and which of them are by keyword only or optional."""

    parameters: tuple[str, ...] = ()
    keyword_only: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    any: bool = False  # nothing is known of them


def signatures(name: str, roots: Sequence[Path] = (), version: str = "") -> dict[str, Signature]:
    """The published API of a device's package in a version (`profiles/<name>-<version>.api.toml`), or, where there is
    none of that version, in the profile's (`<name>.api.toml`): by dotted name, how it may be called."""
    of_version = beside.find("profiles", f"{name}-{version}.api.toml", roots)
    path = of_version or beside.find("profiles", f"{name}.api.toml", roots)
    if not path:
        return {}
    source, table = load_toml(path)
    return {function: _signature(function, text, source) for function, text in table.items()}


def _signature(name: str, text: object, source: Source) -> Signature:
    """A signature as Python writes it, such as `(x, dim=..., *, eps=...)`. Raises KitError with file and line."""
    try:
        return _parsed(str(text))
    except (AttributeError, SyntaxError, ValueError):
        what = f"{name}: {text!r} is no signature"
        raise source.complain((name,), what, 'write "(x, dim=..., *, eps=...)"') from None


@lru_cache(maxsize=4096)  # a package has hundreds, many of them alike
def _parsed(text: str) -> Signature:
    (function,) = ast.parse(f"def f{text}: ...").body
    given = function.args  # type: ignore[attr-defined]
    first, last = [each.arg for each in given.posonlyargs + given.args], [each.arg for each in given.kwonlyargs]
    optional = first[len(first) - len(given.defaults) :]
    optional += [each for each, default in zip(last, given.kw_defaults, strict=True) if default]
    return Signature((*first, *last), tuple(last), tuple(optional), bool(given.vararg or given.kwarg))


def misuse(known: Mapping[str, Signature], name: str, positional: int, keywords: list[str | None]) -> str:
    """What is wrong with a call of ``name`` by its published signature; nothing where it is right."""
    if name not in known:
        return f"{name} is not in the published API{nearest(name, known)}"
    signature = known[name]
    if signature.any:
        return ""
    by_position = [parameter for parameter in signature.parameters if parameter not in signature.keyword_only]
    if positional > len(by_position):
        return f"{name} takes {len(by_position)} arguments by position, not {positional}"
    given = {*by_position[:positional], *(keyword for keyword in keywords if keyword)}
    for keyword in keywords:
        if keyword and keyword not in signature.parameters:
            return f"{name} has no parameter {keyword!r}{nearest(keyword, signature.parameters)}"
        if keyword in by_position[:positional]:
            return f"{name} is given {keyword} twice"
    missing = [name for name in signature.parameters if name not in signature.optional and name not in given]
    if missing and None not in keywords:
        return f"{name} needs {', '.join(missing)}"
    return ""
