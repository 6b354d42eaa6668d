"""What a fix makes of a name that it does not know is the same for all of them, whichever comes first in the alphabet.

In the scripts of its tables each word becomes one that no fix knows, once an early one, once a late one: everywhere,
and then in one place alone. A comparison that is no longer for equality tells the two apart.
"""

from __future__ import annotations

import ast
import collections
import importlib
import keyword
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from situations import Given

from kit import fixes

SITUATIONS = [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("test_situations_*.py"))]
MOST = 2  # scripts of a table that a word is tried in: everywhere; in one place alone it is in the first of them


def found(name: str, text: str) -> str:
    """What a fix says of a script."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # `from __future__ import bbbb`
        return ""
    fix = fixes.load(name)
    signs = fix.looks_like(tree, {}) if hasattr(fix, "looks_like") else ()
    return repr([fix.sites(tree, {}), *signs])


def renamed(text: str, word: str, alone: bool) -> Iterator[tuple[str, str]]:
    """A script with a word as an early and a late one; ``alone``: in one place."""
    names = ("Bbbb", "Zzzz") if word[0].isupper() else ("bbbb", "zzzz")  # no mode of an `open`
    places = [match.span() for match in re.finditer(rf"\b{word}\b", text)]
    for start, stop in places if alone and len(places) > 1 else ():  # of one place it is what is yielded below
        early, late = (text[:start] + name + text[stop:] for name in names)
        yield early, late
    early, late = (re.sub(rf"\b{word}\b", name, text) for name in names)
    yield early, late


@pytest.mark.parametrize("name", fixes.general())
def test_an_early_name_and_a_late_one(name: str) -> None:
    table = importlib.import_module(f"test_{name.replace('-', '_')}")
    texts = [param.values[0].before for param in table.APPLIED] + [param.values[0].text for param in table.REFUSED]
    tried: collections.Counter[str] = collections.Counter()
    for text in [*texts, *situations(name)]:
        for word in sorted(set(re.findall(r"[A-Za-z_]\w*", text)) - set(keyword.kwlist)):
            tried[word] += 1
            for pair in renamed(text, word, tried[word] == 1) if tried[word] <= MOST else ():
                early, late = (found(name, each).lower().replace("bbbb", "zzzz") for each in pair)
                assert words(early) == words(late), f"{word} in:\n{pair[0]}"


def situations(name: str) -> list[str]:
    """The scripts of other shapes that a fix is tried on."""
    lists = [each for module in SITUATIONS for each in vars(module).values() if isinstance(each, list)]
    given = [row.values[0] for rows in lists for row in rows if isinstance(getattr(row, "values", None), tuple)]
    return list(dict.fromkeys(each.text for each in given if isinstance(each, Given) and each.fix == name))


def words(told: str) -> list[str]:
    """Sorted: so are imports, of which one is not where the other was."""
    return sorted(re.findall(r"\w+", told))
