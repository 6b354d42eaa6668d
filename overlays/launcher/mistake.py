"""What is wrong with a setting, a model, data or the machine, and what to type instead: one line, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Mistake(Exception):
    """What is wrong and what to do about it, in one line."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean X?` where one of the known words is like it, else nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
