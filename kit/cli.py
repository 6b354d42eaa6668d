"""The command line: click options to command calls, nothing else. What is behind a command is imported when it runs."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from kit import __version__
from kit.errors import handler


def _complete_recipe(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import recipe

    return [CompletionItem(name) for name in recipe.names() if name.startswith(incomplete)]


def _complete_device(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import devices

    return [CompletionItem(name) for name in devices.names() if name.startswith(incomplete)]


def _complete_fix(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import recipe

    name = context.params.get("recipe_name")
    steps = recipe.load(name).fix if name in recipe.names() else ()
    return [CompletionItem(step.id) for step in steps if step.id.startswith(incomplete)]


recipe_argument = click.argument("recipe_name", metavar="RECIPE", shell_complete=_complete_recipe)
device_option = click.option(
    "--device", metavar="DEVICE", shell_complete=_complete_device, help="The device to prepare for."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
folder = click.Path(path_type=str)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="kit")
def cli() -> None:
    """Take training code written for one device and make it train on another, reproducibly.

    Start with `kit list`, then `kit show RECIPE` and `kit prepare RECIPE --device DEVICE`.
    """


@cli.command("list")
@json_option
def list_command(**options: Any) -> int:
    """List the recipes and devices there are."""
    from kit.commands import list as command

    return command.run(**options)


@cli.command()
@recipe_argument
@json_option
def show(**options: Any) -> int:
    """Say what a recipe will change and why, before anything is fetched."""
    from kit.commands import show as command

    return command.run(**options)


@cli.command()
@recipe_argument
@device_option
@click.argument("dest", required=False, type=folder)
@click.option("--machines", type=int, metavar="N", help="Machines the run is meant for.")
@click.option("--machine-rank", type=int, metavar="R", help="Which of them this is, from 0.")
@click.option("--main-ip", metavar="IP", help="Address of the machine with rank 0.")
@click.option("--main-port", type=int, metavar="P", help="A free port on it.")
@click.option("--processes", type=int, metavar="T", help="Training processes, on all machines together.")
@click.option("--without", multiple=True, metavar="FIX", shell_complete=_complete_fix, help="Leave a fix out.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing but the cache.")
@click.option("--offline", is_flag=True, help="Use the cache alone.")
@click.option("--force", is_flag=True, help="Replace an edited workspace; the edited tree is set aside, not deleted.")
@json_option
def prepare(**options: Any) -> int:
    """Make a workspace at DEST (default: RECIPE-DEVICE): fetch the pins, apply the series, copy the overlay in."""
    from kit.commands import prepare as command

    return command.run(**options)


@cli.command()
@click.argument("workspace", required=False, type=folder)
@json_option
def status(**options: Any) -> int:
    """Say what a workspace was made from, and what was edited since."""
    from kit.commands import status as command

    return command.run(**options)


@cli.command()
@click.argument("workspace", required=False, type=folder)
@click.option("--local", is_flag=True, help="Only what was edited since the workspace was made.")
@click.option("--stat", is_flag=True, help="A summary by file.")
def diff(**options: Any) -> int:
    """Show what kit changed in the upstreams, or with --local what was edited since."""
    from kit.commands import diff as command

    return command.run(**options)


@cli.command()
@click.argument("workspaces", nargs=-1, metavar="[WORKSPACE]...", type=folder)
@json_option
def verify(**options: Any) -> int:
    """Prove a workspace: the tree is what the lock says, and everything in it holds together.

    With no argument: the workspace it stands in, or every workspace below.
    """
    from kit.commands import verify as command

    return command.run(**options)


@cli.command()
@click.argument("recipe_names", nargs=-1, metavar="[RECIPE]...", shell_complete=_complete_recipe)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a patch would change.")
@click.option("--offline", is_flag=True, help="Use the cache alone.")
def refresh(**options: Any) -> int:
    """Write each fix's patch anew from its codemod, at the pin."""
    from kit.commands import refresh as command

    return command.run(**options)


@cli.command()
@device_option
@json_option
def doctor(**options: Any) -> int:
    """Look for what kit and a device need: found, missing, what to do."""
    from kit.commands import doctor as command

    return command.run(**options)


def main() -> None:
    """The console script."""
    with handler():
        raise SystemExit(cli.main(standalone_mode=False) or 0)
