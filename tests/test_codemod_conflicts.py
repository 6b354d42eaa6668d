"""kit.codemod: which lines a conflict names, and why; how the lines it writes end."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest
from old_to_new import LACKS, applied, make_fix, run

from kit import codemod
from kit.fixes import Options, Outcome, Site, Splice
from kit.fixes._block import Block

MANY = 300  # CPython keeps each number up to 256 once
MIXED = b"a\r\nb\n" * 75


def writing(*codes: str) -> Callable[[Block, Options], Iterator[Splice]]:
    """Edits that write the n-th of these codes in the place on line n, and nothing above or below them."""

    def edits(block: Block, options: Options) -> Iterator[Splice]:
        for index, node in block.wanted():
            yield Splice.instead(index, block.parse(codes[min(node.lineno, len(codes)) - 1]))

    return edits


def at(*sites: tuple[int, str]) -> Callable[[ast.Module, Options], list[Site]]:
    return lambda tree, options: [Site(line, False, refuses=why) for line, why in sites]


def test_one_place_is_expected_where_no_count_is_said() -> None:
    assert codemod.run(make_fix(), b"old()\n" * 2, "a.py").outcome is Outcome.conflict


def test_what_is_not_applied_has_no_places() -> None:
    assert [run(text).places for text in ("other()\n", "new()\n", "old()\n" * 2)] == [0, 0, 0]


def test_as_many_places_as_there_are() -> None:
    assert run("old()\n" * MANY, MANY) == applied(b"new()\n" * MANY, MANY)
    codes = ["new()\n"] * (MANY - 1) + ["newer()\nold()\n"]
    left = run("old()\n" * MANY, MANY, edits=writing(*codes))
    assert (left.reason, left.line, left.more) == (LACKS, MANY, ())


def test_a_place_may_become_two() -> None:
    assert run("old()\n", edits=writing("new()\nnew()\n")) == applied(b"new()\nnew()\n")


@pytest.mark.parametrize(
    ("codes", "lines"),
    [
        (["new()\n", "newer()\nold()\n"], [2]),  # as many as before: the second is left
        (["a()\n", "old()\n"], [1, 2]),  # one is gone: which, is not known
        (["old()\nnew()\n", "new()\n"], [1, 2]),  # or one more
    ],
)
def test_what_has_no_effect_is_named_where_that_is_known(codes: list[str], lines: list[int]) -> None:
    result = run("old()\nold()\n", 2, edits=writing(*codes))
    assert (result.outcome, result.reason, [result.line, *result.more]) == (Outcome.conflict, LACKS, lines)


def test_the_first_place_leads_where_all_of_them_fail() -> None:
    def twice(block: Block, options: Options) -> Iterator[Splice]:
        for index, code in enumerate(block.texts):
            if code in ("old()", "new()"):
                yield Splice.instead(index, block.parse("new()\n"))

    def over(block: Block, options: Options) -> Iterator[Splice]:
        for index, _ in block.wanted():
            yield Splice(index - 1, index + 1, block.parse("new()\n"))

    again = run("a()\nold()\nold()\n", 2, edits=twice)
    assert (again.reason, again.line) == ("a second run would change the file again", 2)
    orphan = run("b = 1\nold()\nc = 1\nold()\nd(b, c)\n", 2, edits=over)
    assert (orphan.reason, orphan.line) == ("the edit takes away what binds `b`, `c`, which is still used", 2)


def test_reasons_are_told_by_line_after_the_one_that_leads() -> None:
    said = at(*((line, why * 2) for line, why in enumerate(("b", "c", "b", "a", "c"), 2)))
    result = run("old()\n" * 6, sites=said)
    assert (result.line, result.more, result.reason) == (2, (3, 4, 5, 6), "bb; line 3: cc; line 5: aa")
    result = run("old()\n" * 3, sites=at((2, "b"), (3, "b"), (1, "b")))
    assert (result.line, result.more, result.reason) == (2, (3, 1), "b")
    assert run("old()\n", sites=at(*((int(f"{MANY}"), "b") for _ in range(2)))).more == ()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("old(\n); a()\n", 1, "several statements share the line"),
        ("a(\n    1,\n); old()\n", 3, "several statements share the line"),
        ("if a: old()\n", 1, "it stands on the line of what it is in"),
        ("def f(a=old()):\n    b()\n", 1, "it is in the head of a function"),
        ("if a:\n    b()\nelif old():\n    c()\n", 3, "it is an `elif`"),
        ("if old():\n    b()\n", 1, "it is written in a way"),
        ("a(\n    old())\n", 2, "it is written in a way"),
    ],
)
def test_why_a_place_could_not_be_edited(text: str, line: int, reason: str) -> None:
    result = run(text, sites=lambda tree, options: [Site(line, False)], edits=lambda block, options: iter(()))
    assert result.reason.startswith(reason) and result.line == line


def test_a_name_that_may_be_none_is_bound() -> None:
    assert run("helper = None\nold()\n", NEEDS=("helper",)).outcome is Outcome.applied


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a()\r\nold()\nb()\n", "a()\r\nnew()\nb()\n"),
        ("a()\r\nold()\nb()\r\n", "a()\r\nnew()\nb()\r\n"),
        ("a()\nold()", "a()\nnew()"),
        ("a()\r\nold()", "a()\r\nnew()"),
    ],
)
def test_a_line_that_is_edited_ends_as_it_did(before: str, after: str) -> None:
    assert run(before) == applied(after.encode())


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (b"a\r\nb\nc\r\n", b"a\r\nc\r\n", b"a\r\nc\r\n"),
        (b"a\nb\r\nc\nd\n", b"a\nB\nC\nd\n", b"a\nB\r\nC\r\nd\n"),
        (b"a\r\nb\nc\nd\r\n", b"a\r\nb\nc\nd\r\nnew\n", b"a\r\nb\nc\nd\r\nnew\r\n"),
        pytest.param(MIXED * 2, MIXED + b"new\n" + MIXED, MIXED + b"new\n" + MIXED, id="long"),
    ],
)
def test_a_new_line_ends_as_the_one_it_stands_for_or_the_one_above(before: bytes, after: bytes, wanted: bytes) -> None:
    assert codemod._with_ends(before, after) == wanted
