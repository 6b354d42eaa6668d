"""kit.codemod: every kind of block is reached, and every byte that is not edited stays."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from old_to_new import applied, make_fix, run

from kit import codemod
from kit.errors import KitError
from kit.fixes import Options, Outcome, Splice
from kit.fixes._block import Block


@pytest.mark.parametrize(
    "text",
    [
        "if a:\n    old()\nelif b:\n    c()\nelse:\n    d()\n",
        "if a:\n    b()\nelif b:\n    old()\n",
        "if a:\n    b()\nelse:\n    old()\n",
        "for a in b:\n    c()\nelse:\n    old()\n",
        "while a:\n    old()\n",
        "try:\n    old()\nexcept A:\n    b()\n",
        "try:\n    a()\nexcept A:\n    old()\n",
        "try:\n    a()\nexcept A:\n    b()\nelse:\n    old()\n",
        "try:\n    a()\nfinally:\n    old()\n",
        "with a, b as c:\n    old()\n",
        "async def f():\n    async with a:\n        async for b in c:\n            old()\n",
        "@d\nclass A(B):\n    x = 1\n    @e\n    def f(self) -> None:\n        old()\n",
        "match a:\n    case 1 if b:\n        c()\n    case _:\n        old()\n",
        "def f():\n    '''Text.'''\n    # above\n\n    old()\n    # below\n\n# after\n",
        "x = (\n  1,\n     2)\nold()\ny  =  3 ; z = 4\n",
        pytest.param(
            "try:\n    a()\nexcept* A:\n    old()\n",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="except* came with Python 3.11"),
        ),
    ],
)
def test_every_kind_of_block_is_reached_and_all_else_stays(text: str) -> None:
    assert run(text) == applied(text.replace("old()", "new()").encode())


def test_statements_of_one_line_are_not_touched() -> None:
    for text in ("if a: old()\n", "for a in b: old()\n", "class A: old()\n", "def f(): old()\n"):
        assert run(text).outcome is Outcome.conflict


lines = st.lists(
    st.sampled_from(
        ["", "   ", "# note", "\f", "x = 1  # c", "y = (1,\n  2)", "'''a\n  b'''", "pass;", "z = 'é'", "if a: b()"]
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(lines, lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.booleans())
@example([], [], "\r\n", True, True, True)
def test_bytes_around_the_edit_are_kept(
    above: list[str], below: list[str], newline: str, mark: bool, nested: bool, last: bool
) -> None:
    block = "def f():\n\told()\n" if nested else "old()\n"
    text = "\n".join([*above, block + "\n".join(below)]) + "\n" * last
    encode = "utf-8-sig" if mark else "utf-8"
    content = text.replace("\n", newline).encode(encode)
    try:
        ast.parse(content)
    except SyntaxError:
        return
    result = codemod.run(make_fix(), content, "a.py")
    if result.outcome is Outcome.conflict:
        assert (result.content, result.reason.split(" (")[0]) == (content, "libcst would not keep this line as it is")
    else:
        assert (result.outcome, result.content) == (Outcome.applied, content.replace(b"old()", b"new()"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\fold()\n", 1),
        (b"a()\n\fold()\n", 2),
    ],
)
def test_what_libcst_would_lose_is_a_conflict(content: bytes, line: int) -> None:
    """libcst 1.9 drops these bytes without a word."""
    result = codemod.run(make_fix(), content, "a.py")
    assert (result.outcome, result.content, result.line) == (Outcome.conflict, content, line)
    assert result.reason.startswith("libcst would not keep this line as it is")


@pytest.mark.parametrize(
    "text",
    [
        "old()\n\n\f\n\n# end\n",
        "old()\n\n   ",
        "a()\rold()\r",
        "old()\n\fb()\n",
        "if a:\n    old()\n\f\n    b()\n",
        "x = 1; \\\ny = 2\nold()\n",
        "if a: \\\n    b()\nold()\n",
    ],
)
def test_what_libcst_does_not_read_stays(text: str) -> None:
    assert run(text) == applied(text.replace("old()", "new()").encode())


@pytest.mark.parametrize(
    "text",
    [
        "# head\n\n# more\nold()\n",
        "if a:\n    b()\n    # in it\n  # between\n# above\n\nold()\n",
        "if a:\n    if b:\n        c()\n        # in both\n    # in one\n\n    \n# above\nold()\n",
        "if a:\n    if b:\n        c()\n    elif d:\n      e()\n      # in it\n\n    # above\n    old()\n    # below\n",
        "for a in b:\n    # above\n  # less\n    old()\n    # below\nelse:\n    c()\n",
        "try:\n    a()\nexcept A:\n    b()\n    # in it\n# above\nold()\n",
        "match a:\n    case 1:\n        b()\n        # in it\n    # in the match\n# above\nold()\n",
        "if a: b()\n    # above\nold()\n",
        "a('''\n# text''')\n# above\nold()\n",
        "@a\n# between\n@(\n    b\n)\ndef f():\n    c()\n\n\n# above\nold()\n",
    ],
)
def test_a_comment_belongs_to_what_libcst_counts_it_to(text: str) -> None:
    """Read alone, a statement has the lines above that it has in the whole script; what goes there goes below those
    that belong to the block before."""
    import libcst
    from libcst import matchers

    content = text.encode()
    seen: list[libcst.BaseStatement] = []

    def edits(block: Block, options: Options) -> Iterator[Splice]:
        seen.extend(block.statements[at] for at, _ in block.wanted())
        for at, _ in block.wanted():
            yield Splice(at, at + 1, block.parse("new()\n"))

    result = codemod.run(make_fix(edits=edits), content, "a.py")
    (read,) = seen
    whole = libcst.parse_module(content)
    (found,) = (
        each for each in matchers.findall(whole, matchers.SimpleStatementLine()) if "old()" in whole.code_for_node(each)
    )
    assert result.outcome is Outcome.applied and found.deep_equals(read)
    assert result.content == whole.deep_replace(found, libcst.parse_statement("new()\n")).bytes  # type: ignore


def test_what_libcst_cannot_read_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python newer than libcst knows."""
    import libcst

    def parse_module(content: bytes) -> libcst.Module:
        raise libcst.ParserSyntaxError("no such syntax", lines=["old()"], raw_line=7, raw_column=0)

    monkeypatch.setattr(libcst, "parse_module", parse_module)
    with pytest.raises(KitError) as raised:
        run("old()  # newer\n")
    assert raised.value.message == "pkg/train.py:7: libcst cannot read this: no such syntax"
