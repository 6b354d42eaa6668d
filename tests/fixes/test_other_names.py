"""What a fix makes of a name that it does not know is the same for all of them, whichever comes first in the alphabet.

In the scripts of its table each word becomes one that no fix knows, everywhere: once an early one, once a late one. A
comparison that is no longer for equality tells the two apart.
"""

from __future__ import annotations

import ast
import collections
import importlib
import keyword
import re

import pytest

from kit import fixes

MOST = 2  # scripts of a table that a word is tried in


def found(name: str, text: str) -> object:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # `from __future__ import bbbb`
        return []
    fix = fixes.load(name)
    signs = fix.looks_like(tree, {}) if hasattr(fix, "looks_like") else ()
    return fix.sites(tree, {}), [*signs]


@pytest.mark.parametrize("name", fixes.general())
def test_an_early_name_and_a_late_one(name: str) -> None:
    table = importlib.import_module(f"test_{name.replace('-', '_')}")
    texts = [param.values[0].before for param in table.APPLIED] + [param.values[0].text for param in table.REFUSED]
    tried: collections.Counter[str] = collections.Counter()
    for text in texts:
        for word in sorted(set(re.findall(r"[A-Za-z_]\w*", text)) - set(keyword.kwlist)):
            tried[word] += 1
            if tried[word] <= MOST:
                names = ("Bbbb", "Zzzz") if word[0].isupper() else ("bbbb", "zzzz")  # no mode of an `open`
                early, late = (repr(found(name, re.sub(rf"\b{word}\b", each, text))) for each in names)
                assert early.replace(names[0], names[1]) == late, f"{word} in:\n{text}"
