"""What holds for every fix: its contract, and that a file's own encoding, indentation and line ends are kept."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from fixing import Case, check_applied

from kit import codemod, fixes
from kit.fixes import Outcome, Site

MODULES = {name: f"test_{name.replace('-', '_')}" for name in fixes.names()}
TABLES = {name: importlib.import_module(module) for name, module in MODULES.items() if find_spec(module)}
CASES = [
    pytest.param(name, param.values[0], id=f"{name}: {param.id}")
    for name, table in TABLES.items()
    for param in table.APPLIED
]


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


FORMS: dict[str, Callable[[str], str]] = {
    "tabs": _tabs,
    "two spaces": _deeper,
    "no newline at the end": lambda text: text.rstrip("\n"),
    "a header and a footer": lambda text: f"#!/usr/bin/env python\n\n{text}\n\n\n# the end\n\n",
    "a form feed": lambda text: f"'words'\n\f\n{text}",
    "other words": lambda text: f"'é 中文'\n{text}",
}


def _keeps_its_meaning(given: Case, form: str) -> bool:
    """Whether the form leaves the texts inside the script alone."""
    return form not in ("tabs", "two spaces") or '"""' not in given.before


FORMED = [
    pytest.param(*param.values, form, id=f"{param.id} - {form}")
    for param in CASES
    for form in FORMS
    if _keeps_its_meaning(param.values[1], form)
]


@pytest.mark.parametrize(("name", "given", "form"), FORMED)
def test_a_file_keeps_its_form(name: str, given: Case, form: str) -> None:
    change = FORMS[form]
    check_applied(name, replace(given, before=change(given.before), after=change(given.after)))


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "a byte order mark": lambda text: text.encode("utf-8-sig"),
    "latin-1": lambda text: f"# -*- coding: latin-1 -*-\n# \xe9\n{text}".encode("latin-1"),
    "a byte order mark, a cookie and CRLF": lambda text: f"# coding: utf-8\n# \xe9\n{text}".replace(
        "\n", "\r\n"
    ).encode("utf-8-sig"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("name", "given"), CASES)
def test_a_file_keeps_its_bytes(name: str, given: Case, encoding: str) -> None:
    encode = ENCODINGS[encoding]
    result = codemod.run(fixes.load(name), encode(given.before), "train.py", given.count, given.options)
    assert (result.outcome, result.reason) == (Outcome.applied, "")
    assert result.content == encode(given.after)
    again = codemod.run(fixes.load(name), result.content, "train.py", given.count, given.options)
    assert (again.outcome, again.content) == (Outcome.satisfied, result.content)


@pytest.mark.parametrize(("name", "given"), CASES)
def test_red_without_the_edits_no_case_is_applied(name: str, given: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fix that does nothing is noticed by codemod itself, not only by the tables."""
    monkeypatch.setattr(fixes.load(name), "edits", lambda block, options: iter(()))
    result = codemod.run(fixes.load(name), given.before.encode(), "train.py", given.count, given.options)
    assert (result.outcome, result.content) == (Outcome.conflict, given.before.encode())
    assert "make the change by hand" in result.reason or "of its own" in result.reason


@pytest.mark.parametrize(("name", "given"), CASES)
def test_red_without_the_check_no_case_is_applied(name: str, given: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is never content stops the fix, whatever its edits did."""
    fix = fixes.load(name)
    sites = fix.sites
    monkeypatch.setattr(
        fix, "sites", lambda tree, options: [Site(site.line, False) for site in sites(tree, options) if not site.done]
    )
    result = codemod.run(fix, given.before.encode(), "train.py", given.count, given.options)
    assert (result.outcome, result.content) == (Outcome.conflict, given.before.encode())
