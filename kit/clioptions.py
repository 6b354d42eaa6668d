"""What several commands take: a recipe, a device, the machines of a run, settings by their own names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from kit import completion

recipe_argument = click.argument("recipe_name", metavar="RECIPE", shell_complete=completion.recipes)
device_option = click.option(
    "--device", metavar="DEVICE", shell_complete=completion.devices, help="The device to prepare for."
)
settings_option = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set an option of the recipe."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
folder = click.Path(path_type=str)


def cluster_options(command: Any) -> Any:
    """Decorator: the options that say which machines and processes a run is meant for."""
    for option in (
        click.option("--processes", type=click.IntRange(1), metavar="T", help="Training processes, on all machines."),
        click.option("--main-port", type=click.IntRange(1, 65535), metavar="P", help="A free port on it."),
        click.option("--main-ip", metavar="IP", help="Address of the machine with rank 0."),
        click.option("--machine-rank", type=click.IntRange(0), metavar="R", help="Which of them this is, from 0."),
        click.option("--machines", type=click.IntRange(1), metavar="N", help="Machines the run is meant for."),
    ):
        command = option(command)
    return command


class OptionsOfRecipe(click.Command):
    """A command that takes `--name value` for `--set name=value` where the recipe has an option of that name."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.params for name in parameter.opts} | {"--help"}
        if any(word.startswith("--") and word.partition("=")[0] not in own for word in args):
            from kit import recipes

            given = [word for word in args if word in recipes.names() or word.endswith(".toml")]
            options = {option.name for name in given[:1] for option in recipes.load(name).option}
            args = list(_as_settings(args, options))
        return super().parse_args(context, args)


def _as_settings(words: list[str], options: set[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and (name := name.replace("-", "_")) in options:
            yield from ("--set", f"{name}={value if equals else next(rest, '')}")
        else:
            yield word
