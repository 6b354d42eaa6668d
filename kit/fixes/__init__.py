"""The fixes: one a file, as pyupgrade has one plugin a file. Adding a fix is adding a file: here, if it is right for
any training script; in `programs/`, if it is one program's; or in `fixes/` beside a recipe (`kit/beside.py`).

A fix is a module with

- ``TITLE``: what it does, in a few words (the subject of its commit);
- ``WHY``: what breaks without it; ``LINKS``: upstream issues that say so;
- ``NEEDS``: the names that must be bound where it edits; where one is not, the fix refuses;
- ``sites(tree, options)``: every place of the construct the fix is about, and whether it is in order there already.
  It asks `ast` and the roles of the script (`kit.fixes._roles`), before (is there anything to do?) and after, of what
  was written (is all done?);
- ``edits(block, options)``: what is done there, one block of statements at a time, as splices of libcst's tree. The
  block has the statements of both trees side by side.

A fix that puts statements beside statements is a table (`kit.fixes._table`), which gives both functions.

- ``CHANGES``, in a fix that means to change which images, noise or arithmetic a run of one process sees: one sentence,
  what differs from upstream there, and when. Without it nothing differs, to the last bit;
- ``WITHIN``, where that is arithmetic alone: by how much, relative, losses may differ in float32.

What a fix may have besides, for `kit fix`, which tries it on any file:

- ``GENERAL = True``: it is right for any training script, not only for the files a recipe names: all in this folder;
- ``LIBRARY = True``: and for a module of a package that scripts use (`kit new` follows them there);
- ``BRINGS``: the fixes it makes necessary; where one of them refuses, it refuses too;
- ``AFTER``: fixes that come before it, as it would hide their places;
- ``looks_like(tree, options)``: the places with the sign of its fault in a form that it does not know (`Sign`);
- ``EXAMPLE``: a few lines of a script that lack it; ``UPSTREAM``: where upstream stands on it (`kit fix --explain`);
- ``OPTIONS``: what its options are there, as a recipe writes them (``{device.package}``); with those it needs a device;
- ``TORCH``: the oldest torch on which what it writes runs, where that is newer than what such scripts run on.

Importing a fix does not import libcst: only running a codemod does (`kit.codemod`).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from kit import beside

if TYPE_CHECKING:
    import libcst as cst

    from kit.fixes._block import Block
    from kit.fixes._roles import Script

Options = Mapping[str, str]


class Outcome(str, Enum):
    """What came of a fix on a file."""

    applied = "applied"  # it was needed, and is in place now
    satisfied = "satisfied"  # upstream has it already
    gone = "gone"  # the construct it is about no longer exists
    conflict = "conflict"  # the construct is there, but not as the fix knows it

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Site:
    """One place a fix is about: its line (from 1), whether what the fix wants is so there, which names must be bound
    there besides those every place needs, and why the fix refuses there ("": it does not)."""

    line: int
    done: bool
    needs: tuple[str, ...] = ()
    refuses: str = ""


@dataclass(frozen=True)
class Sign:
    """A place with the sign of a fault in a form that a fix does not know: its line (from 1) and what it looks like."""

    line: int
    what: str


@dataclass(frozen=True)
class Splice:
    """Replace statements ``start`` to ``stop`` of a block. Those that are not ``counted`` only make room for others
    (an import a site needs)."""

    start: int
    stop: int
    statements: Sequence[cst.BaseStatement]
    counted: bool = True

    @classmethod
    def instead(cls, index: int, statements: Sequence[cst.BaseStatement], counted: bool = True) -> Splice:
        """In place of one statement."""
        return cls(index, index + 1, statements, counted)

    @classmethod
    def below(cls, index: int, statements: Sequence[cst.BaseStatement], counted: bool = True) -> Splice:
        return cls(index + 1, index + 1, statements, counted)


class Fix(Protocol):
    """What a module in this folder provides."""

    TITLE: str
    WHY: str
    LINKS: tuple[str, ...]
    NEEDS: tuple[str, ...]

    def sites(self, tree: ast.Module, options: Options) -> list[Site]: ...

    def edits(self, block: Block, options: Options) -> Iterator[Splice]: ...


def sites(fix: Fix, tree: ast.Module, options: Options) -> list[Site]:
    """The sites of a fix in a script, looked for once: who runs a fix asks for them, and the run itself."""
    from kit.fixes._roles import read

    return read(tree).once(_sites, fix.sites, tuple(sorted(options.items())))


def _sites(script: Script, look: Callable[..., list[Site]], options: Iterable[tuple[str, str]]) -> list[Site]:
    return look(script.tree, dict(options))


def names(roots: Sequence[Path] = ()) -> list[str]:
    """The fixes there are, those in the ``roots`` of a recipe too: the module names with dashes."""
    return sorted(name.replace("_", "-") for name in beside.stems("fixes", ".py", roots))


def general() -> list[str]:
    """The fixes that are for any training script, each before those it brings."""
    return [name for name in _ordered(names()) if getattr(load(name), "GENERAL", False)]


def with_brought(wanted: Sequence[str]) -> list[str]:
    """``wanted``, and what they bring, each fix before those it brings."""
    brought = {other for name in wanted for other in with_brought(brings(name))}
    return _ordered([*wanted, *brought])


def brings(name: str) -> tuple[str, ...]:
    """The fixes that the one called ``name`` makes necessary."""
    found: tuple[str, ...] = getattr(load(name), "BRINGS", ())
    return found


def changes(name: str) -> str:
    """What the fix called ``name`` means to change in a run of one process; "" where that trains as upstream does."""
    sentence: str = getattr(load(name), "CHANGES", "")
    return sentence


def example(name: str) -> str:
    """A few lines of a script that lack the general fix called ``name``."""
    text: str = getattr(load(name), "EXAMPLE", "")
    return text


def upstream(name: str) -> str:
    """Where upstream stands on what the fix called ``name`` mends."""
    told: str = getattr(load(name), "UPSTREAM", "not known to be reported")
    return told


def oldest_torch(name: str) -> str:
    """The oldest torch that the fix called ``name`` is for; "" where any is."""
    version: str = getattr(load(name), "TORCH", "")
    return version


def _ordered(wanted: Sequence[str]) -> list[str]:
    """``wanted`` once each, by name but for this: a fix comes before those it brings, and after those whose places it
    would hide (``AFTER``)."""
    found = sorted(set(wanted))
    later = {name: getattr(load(name), "AFTER", ()) for name in found}
    first = {name: [by for by in found if name in brings(by) or by in later[name]] for name in found}
    return list(TopologicalSorter(first).static_order())


def load(name: str, brought: Path | None = None, runs: bool = True) -> Fix:
    """The fix called ``name`` (see :func:`names`), or the one a recipe has ``brought``, from its file; its code runs
    when it is applied, or, without ``runs``, not at all."""
    from kit.fixes._beside import Beside

    return cast(Fix, Beside(brought, runs)) if brought else _own(name)


@cache  # a fix is asked for by each of the others
def _own(name: str) -> Fix:
    module = name.replace("-", "_")
    folder = "" if (Path(__file__).parent / f"{module}.py").is_file() else "programs."
    return cast(Fix, importlib.import_module(f"kit.fixes.{folder}{module}"))


def message(id: str, fix: Fix | None, why: str = "") -> tuple[str, str]:
    """Subject and body of a fix's commit and patch: what it does, why, and the upstream issues that say so."""
    title = fix.TITLE if fix else "hand-written patch"
    links = "\n".join(f"See: {link}" for link in fix.LINKS) if fix else ""
    paragraphs = [fix.WHY.strip() if fix else "", why.strip(), links]
    return f"{id}: {title}", "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
