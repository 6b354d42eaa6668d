"""Run one fix on one file: exact count, postcondition on what was written, nothing left for a second run.

What a script is about is asked of its `ast` tree and of the roles in it (`kit.fixes._roles`); its blocks of statements
are gone through by `ast` too. libcst reads the statements that are edited, and no others (`kit.fixes._lines`): over a
whole script it takes longer than all the rest. Where it would not keep a byte of those (a form feed before one), that
is a conflict.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import libcst as cst

from kit import fixes
from kit.errors import KitError
from kit.fixes import Fix, Options, Outcome, Site, _lines
from kit.fixes import _roles as roles
from kit.fixes._ast import loose_names, parse, undecodable
from kit.fixes._block import Block
from kit.fixes._lines import Change, Lost, Statements
from kit.fixes._roles._script import FUNCTIONS
from kit.fixes._roles.paths import missing

_BY_HAND = "make the change by hand (`kit fix --explain` shows one), or skip the fix"


@dataclass(frozen=True)
class Result:
    """The outcome of a fix on a file; ``reason`` and ``line`` (from 1) say why it is a conflict or gone, ``more`` at
    which other lines that is so, ``places`` how many it was applied at."""

    outcome: Outcome
    content: bytes
    reason: str = ""
    line: int = 0
    places: int = 0
    more: tuple[int, ...] = ()


def run(
    fix: Fix,
    content: bytes,
    name: str,
    count: int | None = 1,
    options: Options | None = None,
    skipped: Callable[[bytes], frozenset[int]] = lambda content: frozenset(),
) -> Result:
    """Apply ``fix`` to the file ``content``, whose ``name`` appears in messages.

    ``count`` places must need it, no more and no fewer; None: as many as there are; those on the lines that ``skipped``
    tells of a file's content are left alone. The result is ``applied`` only if afterwards the fix's own postcondition
    holds at every other site and a second run finds nothing to do. Raises KitError with file and line where the file is
    not Python.
    """
    options = options or {}
    tree = parse(content, name)
    before = _sites(fix, tree, options, skipped(content))
    todo = [site for site in before if not site.done]
    if not before:
        return Result(Outcome.gone, content, "the construct it is about is not in this file")
    if not todo:
        return Result(Outcome.satisfied, content)
    if refusals := _refusals(fix, tree, todo):
        return _conflict(content, refusals)
    if count and count != len(todo):
        places = ", ".join(str(site.line) for site in todo)
        reason = f"expected {count} place{'s' * (count != 1)} to fix, found {len(todo)} (lines {places})"
        return Result(Outcome.conflict, content, reason, todo[0].line)

    try:
        result, counted = _edit(fix, content, tree, options, frozenset(site.line for site in todo))
    except Lost as lost:
        reason = "libcst would not keep this line as it is (a form feed, a lone carriage return, blanks at the end?)"
        return Result(Outcome.conflict, content, reason, lost.line)
    except cst.ParserSyntaxError as error:
        raise KitError(f"{name}:{error.raw_line}: libcst cannot read this: {error.message}", "update libcst") from None
    except UnicodeDecodeError as error:  # in a comment, where Python itself lets it pass
        raise undecodable(content, name, error) from None
    if counted != len(todo):
        stuck = [site for site in todo if not _edit(fix, content, tree, options, frozenset([site.line]))[1]]
        return _conflict(content, [(_unedited(content, tree, site), site.line) for site in stuck or todo])
    if _mixed(content):
        result = _with_ends(content, result)
    after = _sites(fix, parse(result, name), options, skipped(result))
    if len(after) < len(before) or not all(site.done for site in after):
        left = [was.line for was, site in zip(before, after, strict=False) if not site.done]
        lines = left if left and len(after) == len(before) else [site.line for site in todo]
        reason = f"what it would write does not have the effect it wants there: {_BY_HAND}"
        return _conflict(content, [(reason, line) for line in lines])
    known = loose_names(content, name)  # first: what does not compile is said of the file as it is
    orphans = loose_names(result, name) - known
    if orphans and (orphans := orphans & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
        names = ", ".join(f"`{name}`" for name in sorted(orphans))
        reason = f"the edit takes away what binds {names}, which is still used"
        return Result(Outcome.conflict, content, reason, todo[0].line)
    if _edit(fix, result, parse(result, name), options, frozenset())[1]:
        return Result(Outcome.conflict, content, "a second run would change the file again", todo[0].line)
    return Result(Outcome.applied, result, places=len(todo))


def _mixed(content: bytes) -> bool:
    """Whether lines end in more than one way: new ones end as the first line does, then."""
    return content.count(b"\r\n") not in (0, content.count(b"\n"))


def _with_ends(content: bytes, result: bytes) -> bytes:
    """``result`` with the lines that are not in ``content`` ended as the one they stand for, or the one above."""
    before, after = content.splitlines(True), result.splitlines(True)
    lines: list[bytes] = []
    for kind, i, j, k, n in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        beside = (before[i:j] or lines[-1:] or before)[0]
        end = beside[len(beside.rstrip(b"\r\n")) :] or b"\n"
        same = kind == "equal"
        lines += before[i:j] if same else [line.rstrip(b"\r\n") + end for line in after[k:n]]
    return b"".join(lines)


def _sites(fix: Fix, tree: ast.Module, options: Options, skipped: frozenset[int]) -> list[Site]:
    return [site for site in fixes.sites(fix, tree, options) if site.line not in skipped]


def _conflict(content: bytes, refusals: Sequence[tuple[str, int]]) -> Result:
    """A conflict for some reasons, each with its line; the first one leads."""
    reason, line = refusals[0]
    others = {why: at for why, at in reversed(refusals) if why != reason}
    told = "".join(f"; line {at}: {why}" for why, at in sorted(others.items(), key=lambda each: each[1]))
    more = dict.fromkeys(at for _, at in refusals if at != line)
    return Result(Outcome.conflict, content, f"{reason}{told}", line, more=tuple(more))


def _unedited(content: bytes, tree: ast.Module, site: Site) -> str:
    """Why a site could not be edited."""
    lines = content.splitlines()
    node = roles.read(tree).at(site.line)
    before, after = (
        lines[node.lineno - 1][: node.col_offset].strip(),
        lines[node.end_lineno - 1][node.end_col_offset :],  # type: ignore[operator]
    )
    if before.endswith(b";") or after.strip().startswith(b";"):
        return "several statements share the line: give each a line of its own"
    if before:
        return "it stands on the line of what it is in: give it a line of its own"
    if isinstance(node, FUNCTIONS):
        return f"it is in the head of a function, which this fix cannot edit: {_BY_HAND}"
    if roles.read(tree).is_elif(node):
        return f"it is an `elif`, which this fix cannot edit: {_BY_HAND}"
    return f"it is written in a way that this fix cannot edit: {_BY_HAND}"


def _refusals(fix: Fix, tree: ast.Module, sites: Sequence[Site]) -> list[tuple[str, int]]:
    """Why a fix refuses at some sites, each with its line."""
    script = roles.read(tree)
    found = []
    for site in sites:
        here = script.at(site.line)
        reasons = [missing(script, name, here, may_be_none=True) for name in fix.NEEDS]
        lacking = next(filter(None, [*reasons, *(missing(script, name, here) for name in site.needs)]), "")
        why = site.refuses or (f"{lacking}: bind it above, or skip the fix" if lacking else "")
        found += [(why, site.line)] if why else []
    return found


def _edit(fix: Fix, content: bytes, tree: ast.Module, options: Options, todo: frozenset[int]) -> tuple[bytes, int]:
    """The file with a fix's splices made, and how many of them count."""
    counted = 0
    changes: list[Change] = []
    script, text = roles.read(tree), _lines.of(content, tree)
    for groups, indent, above in text.blocks:
        given = Statements(text, groups, indent, changes)
        splices = list(fix.edits(Block(given, groups, above, text.shape, script, todo), options))
        counted += sum(splice.counted for splice in splices)
        changes = given.spliced(splices) if splices else changes
    return text.bytes(changes) if changes else content, counted
