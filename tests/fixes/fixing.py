"""What the tests of the fixes share: before/after tables, run through `kit.codemod` and checked without it."""

from __future__ import annotations

import ast
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from kit import codemod, fixes
from kit.fixes import Outcome

NAME = "examples/train.py"


@dataclass(frozen=True)
class Case:
    """A script before and after a fix. An equal ``after`` is for scripts the fix leaves alone. ``judged``: it is near
    enough to a training script for the judge of tests/bench."""

    before: str
    after: str
    count: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    judged: bool = True


@dataclass(frozen=True)
class Refusal:
    """A script a fix must not change: what comes of it, at which line, and words of the reason."""

    text: str
    outcome: Outcome
    reason: str
    line: int
    count: int = 1


def case(id: str, before: str, after: str, count: int = 1, **options: str) -> Any:
    return pytest.param(Case(_text(before), _text(after), count, options), id=id)


def unlike(id: str, before: str, after: str, count: int = 1, **options: str) -> Any:
    """A case in words that no training script has, which a judge that knows those does not see."""
    return pytest.param(Case(_text(before), _text(after), count, options, judged=False), id=id)


def satisfied(id: str, text: str) -> Any:
    return pytest.param(Refusal(_text(text), Outcome.satisfied, "", 0), id=f"satisfied: {id}")


def gone(id: str, text: str) -> Any:
    return pytest.param(Refusal(_text(text), Outcome.gone, "is not in this file", 0), id=f"gone: {id}")


def conflict(id: str, reason: str, line: int, text: str, count: int = 1) -> Any:
    return pytest.param(Refusal(_text(text), Outcome.conflict, reason, line, count), id=f"conflict: {id}")


def _text(text: str) -> str:
    return textwrap.dedent(text).removeprefix("\n")


def check_applied(name: str, given: Case) -> None:
    """The fix turns ``before`` into ``after`` to the byte, which is Python, is in order, and stays as it is."""
    fix = fixes.load(name)
    before, after = given.before.encode(), given.after.encode()
    result = codemod.run(fix, before, NAME, given.count, given.options)
    assert (result.outcome, result.reason) == (Outcome.applied, "")
    assert result.content.decode() == given.after
    sites = fix.sites(ast.parse(after), given.options)
    assert sites and all(site.done for site in sites)
    again = codemod.run(fix, result.content, NAME, given.count, given.options)
    assert (again.outcome, again.content) == (Outcome.satisfied, after)


def check_refused(name: str, given: Refusal) -> None:
    """The fix leaves the text as it is, and says the right thing."""
    ast.parse(given.text)  # the table itself is right
    result = codemod.run(fixes.load(name), given.text.encode(), NAME, given.count)
    assert (result.outcome, result.line) == (given.outcome, given.line), result.reason
    assert given.reason in result.reason
    assert bool(given.reason) == bool(result.reason)
    assert result.content.decode() == given.text


def every(check: Callable[..., None], cases: Mapping[str, tuple[Any, ...]]) -> None:
    """Check each case with its arguments; then fail, naming each that did."""
    __tracebackhide__ = True
    failed: dict[str, str] = {}
    for name, arguments in cases.items():
        try:
            check(*arguments)
        except Exception:
            failed[name] = traceback.format_exc()
    if failed:
        told = "\n".join(f"== {name}\n{trace}" for name, trace in failed.items())
        pytest.fail(f"{len(failed)} of {len(cases)} fail: {'; '.join(failed)}\n{told}", pytrace=False)


def tables(name: str, applied: list[Any], refused: list[Any]) -> tuple[Callable[..., None], Callable[..., None]]:
    """The tests of a fix's two tables: ``test_applied, test_refused = tables(NAME, APPLIED, REFUSED)``."""

    @pytest.mark.parametrize("given", applied)
    def test_applied(given: Case) -> None:
        check_applied(name, given)

    @pytest.mark.parametrize("given", refused)
    def test_refused(given: Refusal) -> None:
        check_refused(name, given)

    return test_applied, test_refused


def run(text: str, **names: Any) -> dict[str, Any]:
    """Execute a script with ``names`` given; return what it bound."""
    exec(compile(text, NAME, "exec"), names)
    return names
