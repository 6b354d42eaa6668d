"""quoted-false: before and after, and what it refuses."""

from __future__ import annotations

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

NAME = "quoted-false"

APPLIED = [
    case(
        "in the loop",
        """
        def to_arguments(mapping):
            for key, value in mapping.items():
                value_lower = value.lower()  # once
                if value_lower == "false":
                    continue
                if value_lower == "true":
                    yield key
        """,
        """
        def to_arguments(mapping):
            for key, value in mapping.items():
                value_lower = value.lower()  # once
                if value_lower == "false":
                    raise ValueError(f'{key}: "{value}" in quotes would be dropped: write false, without quotes')
                if value_lower == "true":
                    yield key
        """,
    ),
    case(
        "before version 4",
        """
        def to_arguments(mapping):
            for key, value in mapping.items():
                if isinstance(value, str) and value.lower() == "false":
                    continue
                if isinstance(value, str) and value.lower() == "true":
                    yield key
        """,
        """
        def to_arguments(mapping):
            for key, value in mapping.items():
                if isinstance(value, str) and value.lower() == "false":
                    raise ValueError(f'{key}: "{value}" in quotes would be dropped: write false, without quotes')
                if isinstance(value, str) and value.lower() == "true":
                    yield key
        """,
    ),
]

REFUSED = [
    satisfied("refused", "def f(key, value):\n    if value_lower == 'false':\n        raise ValueError(key)\n"),
    gone("not about it", "def f(key, value):\n    if value == 'false':\n        return\n"),
    conflict("no key", "`key` is not bound", 2, "def f(value):\n    if value_lower == 'false':\n        return\n"),
    conflict(
        "on one line",
        "it stands on the line of what it is in",
        2,
        "def f(key, value):\n    if value_lower == 'false': return\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_it_was_dropped_and_is_refused() -> None:
    given = APPLIED[0].values[0]
    assert list(run(given.before)["to_arguments"]({"offload": "False"})) == []
    with pytest.raises(ValueError, match='offload: "False" in quotes'):
        list(run(given.after)["to_arguments"]({"offload": "False"}))
