"""`kit list`."""

from __future__ import annotations

from kit import devices, output, recipes
from kit.devices import Device
from kit.errors import KitError
from kit.recipe import Recipe


def run(as_json: bool) -> int:
    found, broken = [], []
    for name in recipes.names():
        try:
            found.append(recipes.load(name))
        except KitError as fault:  # one's own: the others are worth listing
            broken.append(fault)
    profiles = [devices.load(name) for name in devices.names()]
    if as_json:
        output.as_json(
            {
                "recipes": [
                    {"name": each.name, "title": each.title, "summary": each.summary, "devices": list(each.devices)}
                    for each in found
                ],
                "devices": [{"name": each.name, "title": each.title} for each in profiles],
            }
        )
    else:
        _show(found, profiles)
    for error in broken:
        output.error(error.message, error.hint)
    return 1 if broken else 0


def _show(found: list[Recipe], profiles: list[Device]) -> None:
    output.line("recipes")
    output.table([(each.name, " ".join(each.devices), each.summary) for each in found])
    output.line("devices")
    output.table([(each.name, each.title) for each in profiles])
