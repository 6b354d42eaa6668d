"""`kit list`."""

from __future__ import annotations

from kit import devices, output, recipes


def run(as_json: bool) -> int:
    found = [recipes.load(name) for name in recipes.names()]
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
        return 0
    output.line("recipes")
    output.table([(each.name, " ".join(each.devices), each.summary) for each in found])
    output.line("devices")
    output.table([(each.name, each.title) for each in profiles])
    return 0
