"""What holds for every fix: its contract, and that a file's own encoding, indentation and line ends are kept."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
from fixing import NAME, Case, every

from kit import codemod, fixes
from kit.fixes import Outcome, Site

MODULES = {name: f"test_{name.replace('-', '_')}" for name in fixes.names()}
TABLES = {name: importlib.import_module(module) for name, module in MODULES.items() if find_spec(module)}
CASES: dict[str, dict[str, Case]] = {
    name: {param.id: param.values[0] for param in table.APPLIED} for name, table in TABLES.items()
}


@pytest.mark.parametrize("name", fixes.names())
def test_a_fix_has_its_table(name: str) -> None:
    assert name in TABLES, f"write tests/fixes/{MODULES[name]}.py: before and after, and what it refuses"


@pytest.mark.parametrize("name", fixes.names())
def test_a_fix_says_what_and_why(name: str) -> None:
    fix = fixes.load(name)
    subject, body = fixes.message(name, fix)
    assert subject == f"{name}: {fix.TITLE}"
    assert len(fix.WHY) > 100
    assert all(len(line) <= 120 for line in body.splitlines())
    assert all(re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", link) for link in fix.LINKS)
    assert all(need.isidentifier() for need in fix.NEEDS)


@pytest.mark.parametrize("name", fixes.names())
def test_the_fixes_for_any_script_stand_apart(name: str) -> None:
    folder = Path(str(fixes.load(name).__file__)).parent.name  # type: ignore[attr-defined]
    assert folder == ("fixes" if name in fixes.general() else "programs")


@pytest.mark.parametrize("name", fixes.general())
def test_what_is_for_libraries_too(name: str) -> None:
    """`kit new` tries these on a package's modules, the others on scripts alone."""
    library = name in ("accelerator-cache", "float32-rope", "pin-memory-guard")
    assert getattr(fixes.load(name), "LIBRARY", False) == library


def test_loading_fixes_does_not_import_libcst() -> None:
    code = "import sys; from kit import fixes; [fixes.load(n) for n in fixes.names()]; print('libcst' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", fixes.names())
def test_an_empty_file_has_nothing_to_fix(name: str) -> None:
    for content in (b"", b"# nothing\n", b'"""Text."""'):
        result = codemod.run(fixes.load(name), content, "empty.py")
        assert (result.outcome, result.content) == (Outcome.gone, content)


def _tabs(text: str) -> str:
    return re.sub(r"^( {4})+", lambda found: "\t" * (len(found[0]) // 4), text, flags=re.MULTILINE)


def _deeper(text: str) -> str:
    """Two spaces for each level."""
    return re.sub(r"^( {4})+", lambda found: "  " * (len(found[0]) // 4), text, flags=re.MULTILINE)


HEADER = "#!/usr/bin/env python\n'é 中文'\n\n\f\n"
# How deep a level is, and what is around the script; how it is written.
FORMS: dict[str, tuple[Callable[[str], str], Callable[[str], bytes]]] = {
    "tabs, a header, words, a form feed, a footer, a byte order mark, CRLF": (
        _tabs,
        lambda text: f"{HEADER}{text}\n\n\n# end\n\n".replace("\n", "\r\n").encode("utf-8-sig"),
    ),
    "two spaces, no newline at the end, latin-1": (
        _deeper,
        lambda text: f"# -*- coding: latin-1 -*-\n# \xe9\n{text.rstrip(chr(10))}".encode("latin-1"),
    ),
}


def _keeps_its_meaning(given: Case) -> bool:
    """Whether other levels leave the texts inside the script alone, and the script says how deep it goes."""
    return '"""' not in given.before and "\n    " in given.before


@pytest.mark.parametrize("name", CASES)
def test_a_file_keeps_its_form(name: str) -> None:
    def keeps(given: Case, form: str) -> None:
        indent, write = FORMS[form]
        before, after = (
            write(indent(text) if _keeps_its_meaning(given) else text) for text in (given.before, given.after)
        )
        result = codemod.run(fixes.load(name), before, NAME, given.count, given.options)
        assert (result.outcome, result.reason, result.content) == (Outcome.applied, "", after)

    pairs = product(CASES[name].items(), FORMS)
    every(keeps, {f"{id} - {form}": (given, form) for (id, given), form in pairs})


@pytest.mark.parametrize("name", CASES)
def test_red_without_the_edits_no_case_is_applied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fix that does nothing is noticed by codemod itself, not only by the tables."""
    monkeypatch.setattr(fixes.load(name), "edits", lambda block, options: iter(()))

    def refused(given: Case) -> None:
        result = codemod.run(fixes.load(name), given.before.encode(), "train.py", given.count, given.options)
        assert (result.outcome, result.content) == (Outcome.conflict, given.before.encode())
        assert "make the change by hand" in result.reason or "of its own" in result.reason

    every(refused, {id: (given,) for id, given in CASES[name].items()})


@pytest.mark.parametrize("name", CASES)
def test_red_without_the_check_no_case_is_applied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is never content stops the fix, whatever its edits did."""
    fix = fixes.load(name)
    sites = fix.sites
    monkeypatch.setattr(
        fix, "sites", lambda tree, options: [Site(site.line, False) for site in sites(tree, options) if not site.done]
    )

    def refused(given: Case) -> None:
        result = codemod.run(fix, given.before.encode(), "train.py", given.count, given.options)
        assert (result.outcome, result.content) == (Outcome.conflict, given.before.encode())

    every(refused, {id: (given,) for id, given in CASES[name].items()})


def test_a_table_that_fails_names_each_case_that_does() -> None:
    def even(number: int) -> None:
        assert number % 2 == 0, f"{number} is odd"

    with pytest.raises(pytest.fail.Exception) as failed:
        every(even, {"one": (1,), "two": (2,), "three": (3,)})
    said = str(failed.value)
    assert said.startswith("2 of 3 fail: one; three\n") and "1 is odd" in said and "3 is odd" in said
