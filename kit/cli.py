"""The command line: click options to command calls, nothing else. What is behind a command is imported when it runs."""

from __future__ import annotations

import atexit
import gc
import io
import sys
from typing import Any

import click

from kit import __version__, completion, output
from kit.cache import cache_dir
from kit.clioptions import (
    OptionsOfRecipe,
    device_option,
    folder,
    json_option,
    recipe_argument,
    settings_option,
    workspace_options,
)
from kit.errors import USAGE, handler

KINDS = ("slurm", "ascendjob", "volcano", "pytorchjob", "trainjob", "modelarts")  # kit/clusters


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


@cli.command(cls=OptionsOfRecipe)
@workspace_options
@click.option("--without", multiple=True, metavar="FIX", shell_complete=completion.fixes, help="Leave a fix out.")
@click.option("--with", "extras", multiple=True, metavar="FIX", help="Apply an extra fix, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing but the cache.")
def prepare(**options: Any) -> int:
    """Make a workspace at DEST (default: RECIPE-DEVICE): fetch the pins, apply the series, copy the overlay in."""
    from kit.commands import prepare as command

    return command.run(**options)


@cli.command(cls=OptionsOfRecipe)
@workspace_options
@click.option("--yes", is_flag=True, help="Ask nothing: what is not given stays at its default.")
def configure(**options: Any) -> int:
    """Ask what matters (device, memory, model, data), check it, and make the workspace with it."""
    from kit.commands import configure as command

    return command.run(**options)


@cli.command()
@click.argument("workspace", required=False, type=folder)
@json_option
def status(**options: Any) -> int:
    """Say what a workspace was made from, and what was edited since."""
    from kit.commands import status as command

    return command.run(**options)


@cli.command()
@click.argument("workspace_path", metavar="WORKSPACE", type=folder)
@click.option("--apply", is_flag=True, help="Bring the edits back into the workspace that is there now.")
@click.option("--from", "source", metavar="FOLDER", type=folder, help="Where they are (default: the last set aside).")
def stash(**options: Any) -> int:
    """Set an edited workspace aside, all of it, to prepare another in its place; with --apply bring its edits back."""
    from kit.commands import stash as command

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
@click.option("--smoke", is_flag=True, help="Run the launch script on a tiny model, in the reference environment.")
@click.option("--parity", is_flag=True, help="Also compare: upstream's training, several processes', a resumed run's.")
@click.option("--red", is_flag=True, help="Also leave each fix out in turn: the failure it is for must appear.")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Of the smoke run, only this step (repeatable).")
@click.option("--case", "cases", multiple=True, metavar="CASE", help="With --parity, only this case (repeatable).")
@click.option("--fix", "fixes", multiple=True, metavar="FIX", help="With --red, leave out only this fix (repeatable).")
@click.option("--report", default="", metavar="FILE.html", type=folder, help="Write the report as one HTML page.")
@json_option
def verify(**options: Any) -> int:
    """Prove that workspaces are what their recipe makes, and that they train.

    Default: the one you are in, or else all in the current folder."""
    from kit.commands import verify as command

    return command.run(**options)


@cli.command()
@click.argument("fixes_and_files", nargs=-1, metavar="[FIX]... FILE...", shell_complete=completion.general)
@click.option("--diff", "as_diff", is_flag=True, help="Print what would change; write nothing.")
@click.option("--check", is_flag=True, help="Say what would change; write nothing.")
@click.option("--list", "list_", is_flag=True, help="List the fixes there are for any script.")
@click.option("--explain", metavar="FIX", help="Say what a fix does and why, and where upstream stands.")
@click.option("--skip", multiple=True, metavar="FIX", help="Leave a fix out; in a script: # kit: skip=FIX")
@click.option("--strict", is_flag=True, help="Exit with 1, too, for what looks like a fault in an unknown form.")
@click.option("--summary", is_flag=True, help="Say of each fix how many files it was applied to, refused, needed.")
@click.option("--csv", "as_csv", is_flag=True, help="The summary as CSV.")
@click.option("--verbose", "-v", is_flag=True, help="Also say where there was nothing to do, and why.")
@click.option("--torch", metavar="VERSION", help="The torch they run on: fixes for a newer one are left out.")
@device_option
@json_option
def fix(**options: Any) -> int:
    """Apply the general fixes (or only those named) to any training script, in place.

    Exit status 1 if a file was changed or would be, or a fix refused one: as pre-commit wants it. What looks like a
    fault in a form that is not known is said, and counts with --strict.
    """
    from kit.commands import fix as command

    return command.run(**options)


@cli.command()
@click.argument("recipe_names", nargs=-1, metavar="[RECIPE]...", shell_complete=completion.recipes)
@device_option
@click.option("--to", default="HEAD", metavar="REF", help="A branch, tag or full commit (default: upstream's newest).")
@click.option("--history", "back", is_flag=True, help="Also the versions before the pin, from the first one on.")
@click.option("--offline", is_flag=True, help="Use the cache alone.")
@click.option("--report", default="", metavar="FILE.html", type=folder, help="Draw the timelines on one HTML page.")
@json_option
def drift(**options: Any) -> int:
    """Try a series on other commits of its upstream: for each fix, where its outcome changed and why.

    Exit status: 0, the newest version asks for nothing; 4, `kit rebase` can move the pin by itself; 5, someone must
    look.
    """
    from kit.commands import drift as command

    return command.run(**options)


@cli.command()
@recipe_argument
@click.option("--to", metavar="REF", help="The new pin: a branch, tag or full commit (default: upstream's newest).")
@click.option("--upstream", metavar="NAME", help="Which one, where the recipe has several.")
@click.option("--continue", "continue_", is_flag=True, help="The conflicts are resolved: make them a patch.")
@click.option("--abort", is_flag=True, help="Put recipe and patches back as they were.")
@click.option("--offline", is_flag=True, help="Use the cache alone.")
def rebase(**options: Any) -> int:
    """Move a recipe's pin: run its fixes there, refresh its patches, drop what upstream took.

    Exit status 1 where there are conflicts: they are left in RECIPE-rebase as git leaves those of a merge.
    """
    from kit.commands import rebase as command

    return command.run(**options)


@cli.command()
@click.argument("name")
@click.argument("url")
@click.argument("commit")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("--like", default="", metavar="RECIPE", shell_complete=completion.recipes, help="Write all that it has.")
def new(**options: Any) -> int:
    """Start a recipe, recipes/NAME.toml, for an upstream at a commit, branch or tag.

    The general fixes that its FILEs, and the modules they use, need become the series. With --like also launch
    scripts, configs, requirements, inference, a tiny model and a smoke plan, as that recipe has them.
    """
    from kit.commands import new as command

    return command.run(**options)


@cli.group()
def recipe() -> None:
    """Work with a recipe's own files."""


@recipe.command()
@recipe_argument
@click.argument("folder", metavar="DIR", type=folder)
def copy(**options: Any) -> int:
    """Copy a recipe and all that it brings into DIR, to change it there."""
    from kit.commands import recipe as command

    return command.run(**options)


@cli.command()
@click.argument("recipe_names", nargs=-1, metavar="[RECIPE]...", shell_complete=completion.recipes)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a patch would change.")
@click.option("--offline", is_flag=True, help="Use the cache alone.")
@click.option("--from", "workspace", metavar="WORKSPACE", type=folder, help="Make its edits a patch of its recipe.")
@click.option("--fix", metavar="NAME", help="What that patch is called.")
@click.option("--why", metavar="TEXT", help="What it is for.")
def refresh(**options: Any) -> int:
    """Write each fix's patch anew from its codemod, at the pin; with --from, a patch from edits made by hand."""
    from kit.commands import refresh as command

    return command.run(**options)


@cli.command()
@recipe_argument
@device_option
@click.argument("workspace_path", metavar="[WORKSPACE]", required=False, type=folder)
@click.option("--python", default="", metavar="PATH", help="The interpreter to use, instead of the one that is found.")
@click.option("--list", "list_", is_flag=True, help="List the recipe's environments.")
@click.option("--remove", is_flag=True, help="Remove them.")
@click.option("--lock", "write_lock", is_flag=True, help="Resolve the recipe's pins anew, into its lock.")
@json_option
def env(**options: Any) -> int:
    """Build the recipe's reference environment for a workspace (default: RECIPE-DEVICE), or reuse it."""
    from kit.commands import env as command

    return command.run(**options)


@cli.command("patch-env")
@click.argument("python", type=folder)
@click.option(
    "--recipe", "recipe_name", required=True, metavar="RECIPE", shell_complete=completion.recipes, help="Whose fixes."
)
@device_option
@click.option("--restore", is_flag=True, help="Put the packages back as they were.")
def patch_env(**options: Any) -> int:
    """Patch the packages that PYTHON has installed, in place and with a backup, where a workspace cannot be used."""
    from kit.commands import patch_env as command

    return command.run(**options)


@cli.command()
@click.argument("family")
@click.argument("folder", metavar="DIR", type=folder)
@click.option("--python", default="", metavar="PATH", help="The Python of a reference environment to build it in.")
def tiny(**options: Any) -> int:
    """Write a tiny random-weight model, its tokenizers and data, in the layout of the published checkpoint."""
    from kit.commands import tiny as command

    return command.run(**options)


@cli.command()
@click.argument("workspace_path", metavar="WORKSPACE", type=folder)
@click.option("--for", "kind", required=True, type=click.Choice(KINDS), help="The scheduler, or the kind of its job.")
@click.option("--machines", type=click.IntRange(1), metavar="N", help="How many (default: 2, or what is possible).")
@click.option("--image", default="", metavar="IMAGE", help="The container image, where there is one.")
@click.option("--script", default="", metavar="NAME", help="The launch script, where the recipe has several.")
def cluster(**options: Any) -> int:
    """Write kit-KIND.sh: what starts the launch script on several machines, under Slurm, Kubernetes or ModelArts."""
    from kit.commands import cluster as command

    return command.run(**options)


@cli.command()
@click.argument("recipe_name", metavar="[RECIPE]", required=False, shell_complete=completion.recipes)
@device_option
@settings_option
@json_option
def doctor(**options: Any) -> int:
    """Look for what kit, a device and a recipe need: found, missing, what to do."""
    from kit.commands import doctor as command

    return command.run(**options)


def main() -> None:
    """The console script. A usage error exits 2, as click's own do; the rest is `kit.errors.handler`'s."""
    atexit.register(gc.freeze)  # or Python, as it ends, goes through all that was made: a fifth of `kit fix`'s time
    for stream in (sys.stdout, sys.stderr):  # what it cannot write (another character set, odd bytes) is shown
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with handler(cache_dir):
        try:
            status = cli.main(sys.argv[1:] or ["--help"], prog_name="kit", standalone_mode=False)
        except click.Abort:  # what click makes of Ctrl-C
            raise KeyboardInterrupt from None
        except click.UsageError as usage:
            command = usage.ctx.command_path if usage.ctx else "kit"
            output.error(" ".join(usage.format_message().split()), f"{command} --help")
            raise SystemExit(USAGE) from None
        finally:
            sys.stdout.flush()  # here, where a reader that went away is not an error
        raise SystemExit(status or 0)
