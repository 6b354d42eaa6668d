"""`kit list`."""

from __future__ import annotations

from kit import devices, output, recipe


def run(as_json: bool) -> int:
    recipes = [recipe.load(name) for name in recipe.names()]
    profiles = [devices.load(name) for name in devices.names()]
    if as_json:
        output.as_json(
            {
                "recipes": [
                    {"name": each.name, "title": each.title, "summary": each.summary, "devices": list(each.devices)}
                    for each in recipes
                ],
                "devices": [{"name": each.name, "title": each.title} for each in profiles],
            }
        )
        return 0
    output.line("recipes")
    output.table([(each.name, " ".join(each.devices), each.summary) for each in recipes])
    output.line("devices")
    output.table([(each.name, each.title) for each in profiles])
    return 0
