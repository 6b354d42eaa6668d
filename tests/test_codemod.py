"""kit.codemod: exact count, postcondition, second run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

import pytest
from old_to_new import HINT, LACKS, _edits, _sites, applied, make_fix, run

from kit import codemod, fixes
from kit.errors import KitError
from kit.fixes import Options, Outcome, Site, Splice
from kit.fixes._ast import every
from kit.fixes._block import Block


def test_applied() -> None:
    assert run("a()\nold()\n") == applied(b"a()\nnew()\n")


def test_satisfied() -> None:
    assert run("new()\n") == codemod.Result(Outcome.satisfied, b"new()\n")


def test_gone() -> None:
    assert run("other()\n") == codemod.Result(
        Outcome.gone, b"other()\n", "the construct it is about is not in this file"
    )


def test_a_file_that_is_half_done_gets_the_other_half() -> None:
    assert run("new()\nold()\n") == applied(b"new()\nnew()\n")


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (1, "expected 1 place to fix, found 2 (lines 1, 3)"),
        (3, "expected 3 places to fix, found 2 (lines 1, 3)"),
    ],
)
def test_the_count_is_exact(count: int, reason: str) -> None:
    text = "old()\na()\nold()\n"
    assert run(text, count) == codemod.Result(Outcome.conflict, text.encode(), reason, 1)
    assert run(text, 2) == applied(b"new()\na()\nnew()\n", 2)


def test_a_name_that_is_not_bound_is_a_conflict() -> None:
    text = "def f():\n    old()\n"
    assert run(text, NEEDS=("helper",)) == codemod.Result(
        Outcome.conflict, text.encode(), f"`helper` is not bound there{HINT}", 2
    )


# Names bound at the line of old(), and not.
BOUND = [
    "def f(helper):\n    old()\n",
    "def f(*helper):\n    old()\n",
    "def f(**helper):\n    old()\n",
    "def f(*, helper=1):\n    old()\n",
    "def f(helper, /):\n    old()\n",
    "import helper\ndef f():\n    old()\n",
    "import helper.more\nold()\n",
    "import more as helper\nold()\n",
    "from x import (\n    helper,\n)\nold()\n",
    "def f():\n    old()\nhelper = 1\n",
    "def f():\n    def g():\n        old()\n    helper = 1\n",
    "def helper(): pass\nold()\n",
    "class helper: pass\nold()\n",
    "for helper in []:\n    old()\n",
    "with a as (b, helper):\n    old()\n",
    "try:\n    a()\nexcept E as helper:\n    old()\n",
    "if (helper := 1):\n    old()\n",
    "match a:\n    case [helper, *_]:\n        old()\n",
    "match a:\n    case [_, *helper]:\n        old()\n",
    "helper: int = 1\nold()\n",
    "class A:\n    def f(self, helper):\n        old()\n",
]
UNBOUND = [
    "old()\nhelper = 1\n",
    "def f():\n    old()\n    helper = 1\n",
    "def g(helper):\n    pass\ndef f():\n    old()\n",
    "def f():\n    def g():\n        helper = 1\n    old()\n",
    "class A:\n    helper = 1\n    def f(self):\n        old()\n",
    "a = [helper for helper in b]\nold()\n",
    "a = lambda helper: 1\nold()\n",
    "import more.helper\nold()\n",
    "import helper as more\nold()\n",
    "print(helper)\nold()\n",
    "a.helper = 1\nold()\n",
]


@pytest.mark.parametrize("text", BOUND)
def test_bound(text: str) -> None:
    assert run(text, NEEDS=("helper",)).outcome is Outcome.applied


@pytest.mark.parametrize("text", UNBOUND)
def test_not_bound(text: str) -> None:
    assert run(text, NEEDS=("helper",)).reason == f"`helper` is not bound there{HINT}"


def test_edits_that_miss_a_place_are_a_conflict() -> None:
    """The check sees `old()` on one line with another statement, the edits do not."""
    text = "a(); old()\n"
    reason = "several statements share the line: give each a line of its own"
    assert run(text) == codemod.Result(Outcome.conflict, text.encode(), reason, 1)


def test_edits_that_find_more_places_than_the_check_are_a_conflict() -> None:
    def everywhere(block: Block, options: Options) -> Iterator[Splice]:
        return (Splice(at, at + 1, block.parse("new()\n")) for at, code in enumerate(block.texts) if code == "old()")

    text = "old()\ndef f():\n    old()\n"
    result = run(text, sites=lambda tree, options: _sites(tree, options)[:1], edits=everywhere)
    assert (result.outcome, result.content) == (Outcome.conflict, text.encode())
    assert "make the change by hand" in result.reason


def test_a_refusal_names_each_place_it_is_about() -> None:
    def sites(tree: ast.Module, options: Options) -> list[Site]:
        return [Site(line, False, refuses=why) for line, why in enumerate(("", "a", "b", "a", "c", "b"), start=1)]

    result = run("old()\n" * 6, sites=sites)
    assert (result.line, result.more, result.reason) == (2, (3, 4, 5, 6), "a; line 3: b; line 5: c")


def test_what_could_not_be_edited_is_named_and_no_other_place() -> None:
    text = "old()\na(); old()\nold(); a()\n"
    result = codemod.run(make_fix(), text.encode(), "train.py", None)
    assert (result.line, result.more) == (2, (3,)) and "several statements share the line" in result.reason


def _wrong_place(block: Block, options: Options) -> Iterator[Splice]:
    if block.at_top:
        yield Splice(0, 0, block.parse("new()\n"))


def _wrong_thing(block: Block, options: Options) -> Iterator[Splice]:
    for splice in _edits(block, options):
        yield Splice(splice.start, splice.stop, block.parse("newer()\n"))


def _again_and_again(block: Block, options: Options) -> Iterator[Splice]:
    for index, code in enumerate(block.texts):
        if code in ("old()", "new()"):
            yield Splice(index, index + 1, block.parse("new()\n"))


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        (_wrong_place, LACKS),
        (_wrong_thing, LACKS),
        (_again_and_again, "a second run would change the file again"),
    ],
)
def test_a_broken_fix_changes_nothing(edits: object, reason: str) -> None:
    text = "a()\nold()\n"
    result = run(text, edits=edits)
    assert (result.outcome, result.content, result.reason) == (Outcome.conflict, text.encode(), reason)
    assert result.line >= 2


def test_edits_that_remove_the_construct_are_a_conflict() -> None:
    """Where nothing is left to check, nothing was proved."""
    text = "a()\nold()\n"
    result = run(text, edits=lambda block, options: [Splice(1, 2, ())] if len(block.statements) > 1 else [])
    assert (result.outcome, result.reason) == (Outcome.conflict, LACKS)


def _over_what_is_above(block: Block, options: Options) -> Iterator[Splice]:
    """`old()` and the statement above it become `new()`."""
    for index, code in enumerate(block.texts):
        if index and code == "old()":
            yield Splice(index - 1, index + 1, block.parse("new()\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f():\n    a, b = c()\n    old()\n    return b\n", "what binds `b`"),
        ("def f():\n    import a\n    old()\n    return lambda: a\n", "what binds `a`"),
        ("b = 1\nold()\ndef f():\n    return b + b\n", "what binds `b`"),
        ("def f():\n    b = 1\n    old()\n    b = 2\n    return b\n", ""),
        ("def f():\n    b = 1\n    old()\n", ""),
        ("def f():\n    global b\n    b = 1\n    old()\nb = 3\nf(b)\n", ""),
    ],
)
def test_an_edit_that_takes_away_what_is_used_is_a_conflict(text: str, said: str) -> None:
    """Upstream added a name to a line that the fix replaces, and uses it below."""
    result = run(text, edits=_over_what_is_above)
    assert result.outcome is (Outcome.conflict if said else Outcome.applied)
    assert said in result.reason and bool(said) == bool(result.reason)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a()\nif x\n    old()\n", "pkg/train.py:2: not valid Python: expected ':'"),
        (b"a()\n\nold(\n", "pkg/train.py:3: not valid Python: '(' was never closed"),
        (b"# coding: nonsense\nold()\n", "not valid Python: unknown encoding"),
        (b"a()\n'\xe9'\n", "pkg/train.py:"),
        (b"a()\0\n", "pkg/train.py:1: not valid Python: source code string cannot contain null bytes"),
        (b"def f():\n\told()\n        old()\n", "pkg/train.py:3: not valid Python: "),
    ],
)
def test_a_file_that_is_not_python(content: bytes, message: str) -> None:
    with pytest.raises(KitError) as raised:
        codemod.run(make_fix(), content, "pkg/train.py")
    assert message in raised.value.message
    assert raised.value.hint == "mend the file first"


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_comment_that_is_not_utf8(above: int) -> None:
    with pytest.raises(KitError, match=f":{above + 1}: not utf-8: ") as raised:
        codemod.run(make_fix(), b"\n" * above + b"old()  # \xff\n", "pkg/train.py")
    assert raised.value.hint == "save the file as UTF-8"


def test_upstreams_own_warnings_are_not_ours() -> None:
    """An invalid escape warns on the terminal from Python 3.12 on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run('a("\\d")\nold()\n').outcome is Outcome.applied


def test_libcst_reads_what_is_edited_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = codemod.cst.parse_module
    monkeypatch.setattr(codemod.cst, "parse_module", lambda text: parsed.append(text) or parse(text))
    assert run("def f():\n    before()\n    # above\n    old()\n    # below\n\n\nf()\n").outcome is Outcome.applied
    assert [text for text in parsed if "old()" in text]
    assert not [text for text in parsed if "before" in text or "below" in text or "f()" in text]


@pytest.mark.parametrize("blank", [0, 1, 2, 3])
@pytest.mark.parametrize("comment", ["", "# why\n\n"])
def test_a_function_above_another_leaves_that_one_its_comments(
    blank: int, comment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two blank lines above, as most have, the one below is not even read."""

    def edits(block: Block, options: Options) -> Iterator[Splice]:
        for index, node in block.simple():
            if getattr(node, "name", "") == "f" and block.todo:
                yield block.above_function(index, block.parse("def g():\n    pass\n"))
        yield from _edits(block, options)

    parsed: list[str] = []
    parse = codemod.cst.parse_module
    monkeypatch.setattr(codemod.cst, "parse_module", lambda text: parsed.append(text) or parse(text))
    gap, rest = "\n" * blank, "def f():\n    long()\n"
    result = run(f"old()\n{gap}{comment}{rest}", edits=edits)
    assert result == applied(f"new()\n{gap}def g():\n    pass\n\n\n{comment}{rest}".encode())
    assert any("long()" in text for text in parsed) == (blank != 2)


def test_sites_are_looked_for_once_in_a_file() -> None:
    seen: list[Options] = []

    def sites(tree: ast.Module, options: Options) -> list[Site]:
        seen.append(options)
        return []

    fix, tree = make_fix(sites=sites), ast.parse("old()\n")
    for options in ({}, {}, {"a": "b"}, {"a": "b"}):
        fixes.sites(fix, tree, options)
    assert seen == [{}, {"a": "b"}]


def test_every_node_is_there_but_load_and_store() -> None:
    tree = ast.parse("a = [b.c(1, *d, e=2) for f in g]\nwith h as (i, j):\n    del k[0]\n")
    assert every(tree) == [node for node in ast.walk(tree) if not isinstance(node, ast.expr_context)]


def test_options_reach_the_fix() -> None:
    seen: list[Options] = []

    def sites(tree: ast.Module, options: Options) -> list[Site]:
        seen.append(options)
        return _sites(tree, options)

    codemod.run(make_fix(sites=sites), b"old()\n", "a.py", options={"a": "b"})
    assert seen == [{"a": "b"}] * 2


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (b"a\r\nb\nc\r\n", b"a\r\nb\nnew\r\nc\r\n", b"a\r\nb\nnew\nc\r\n"),
        (b"a\nb\r\nc\n", b"a\nb\r\nnew\nc\n", b"a\nb\r\nnew\r\nc\n"),
        (b"a\nb\r\nc\n", b"a\nB\nnew\nc\n", b"a\nB\r\nnew\r\nc\n"),
        (b"a\r\nb\n", b"new\na\r\nb\n", b"new\r\na\r\nb\n"),
    ],
)
def test_a_new_line_ends_as_the_one_it_stands_for_or_the_one_above(before: bytes, after: bytes, wanted: bytes) -> None:
    assert codemod._with_ends(before, after) == wanted
