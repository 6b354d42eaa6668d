"""A recipe that extends another takes over all that it does not say anew: tables key by key, lists of tables entry by
entry, where an entry is known by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By list of tables: the keys an entry is known by. A list that is not here (published figures) is said anew as a whole.
KNOWN_BY = {
    "upstream": ("name",),
    "fix": ("id",),
    "overlay": ("source",),
    "option": ("name",),
    "profile": ("name", "devices"),
    "smoke.step": ("name",),
    "smoke.parity": ("name",),
    "smoke.red": ("fix", "steps", "parity"),
}
Table = dict[str, Any]


def merged(base: Table, own: Table, at: str = "") -> tuple[Table, dict[str, list[int]]]:
    """``own`` over ``base``, and for each list of tables that both have, which entry of ``own``'s (from 0) each is; -1
    for what is ``base``'s alone."""
    table, places = dict(base), {}
    for key, value in own.items():
        kind, before = f"{at}{key}", base.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            table[key], inner = merged(before, value, f"{kind}.")
            places.update(inner)
        elif kind in KNOWN_BY and isinstance(value, list) and isinstance(before, list):
            table[key], places[kind] = _entries(before, value, KNOWN_BY[kind])
        else:
            table[key] = value
    return table, places


def _entries(base: list[Any], own: list[Any], keys: tuple[str, ...]) -> tuple[list[Any], list[int]]:
    entries = {_name(entry, keys, -1 - number): entry for number, entry in enumerate(base)}
    places = dict.fromkeys(entries, -1)
    for number, entry in enumerate(own):
        name = _name(entry, keys, number)
        entries[name] = {**entries.get(name, {}), **entry} if isinstance(entry, dict) else entry
        places[name] = number
    return list(entries.values()), list(places.values())


def _name(entry: Any, keys: tuple[str, ...], number: int) -> str:
    """What an entry is known by; one that has none of it is itself."""
    said = [entry.get(key) for key in keys] if isinstance(entry, Mapping) else []
    return repr(said) if any(said) else repr(number)


def without(table: Table, dropped: list[Any]) -> Table:
    """``table`` without these fixes, their reds and the overlays that go with them."""

    def kept(entries: Any, key: str) -> Any:
        return [each for each in entries if each.get(key) not in dropped]

    smoke = table.get("smoke")
    changed = {"fix": kept(table.get("fix", []), "id"), "overlay": kept(table.get("overlay", []), "extra")}
    if isinstance(smoke, dict):
        changed["smoke"] = {**smoke, "red": kept(smoke.get("red", []), "fix")}
    return {**table, **changed}
