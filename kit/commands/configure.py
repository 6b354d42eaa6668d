"""`kit configure RECIPE [DEST]`: ask the few things that matter, check them, and prepare the workspace with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import environment, output, recipe
from kit.commands import prepare
from kit.errors import KitError
from kit.recipe import Recipe, Scalar, shown


def run(
    recipe_name: str,
    device: str | None,
    dest: str | None,
    settings: tuple[str, ...],
    profile: str,
    yes: bool,
    force: bool,
    offline: bool,
    as_json: bool,
    **cluster: Any,
) -> int:
    """What is not given is asked, or without a terminal (or with ``yes``) left at its default. Raises KitError where
    the recipe has nothing to configure, and where its check refuses; then nothing is written."""
    found = recipe.load(recipe_name)
    if not found.option:
        raise KitError(f"recipe {found.name} has no options", f"kit prepare {found.name} --device {found.devices[0]}")
    given = prepare.given(settings)
    if sys.stdin.isatty() and not yes:
        device = device or _ask("device", found.devices, _likely(found))
        profiles = {each.name: each.meaning for each in reversed(found.profile) if each.meaning}
        if profiles and not profile:
            for name, meaning in reversed(profiles.items()):
                output.note(f"  {name}: {meaning}")
            profile = _ask("memory", tuple(reversed(profiles)), next(reversed(profiles)))
        for option in found.option:
            if option.ask and option.name not in given:
                given[option.name] = _ask(option.ask, option.choices, shown(option.on(device)), option.read)
    for option in found.option:
        if option.path and given.get(option.name):
            given[option.name] = _from_here(given[option.name], str(option.default))
    return prepare.run(
        recipe_name,
        device,
        dest,
        without=(),
        extras=(),
        settings=tuple(f"{name}={value}" for name, value in given.items()),
        profile=profile,
        dry_run=False,
        offline=offline,
        force=force,
        as_json=as_json,
        check=True,
        **cluster,
    )


def _from_here(value: str, default: str) -> str:
    """A path as it counts from here; the default, and what may be a hub name (org/name), only where it is there."""
    path = Path(value).expanduser().absolute()
    other = value == default or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value)
    return value if other and not path.exists() else str(path)


def _likely(found: Recipe) -> str:
    """The first device of the recipe that this machine has; the CPU, or the last one, where it has none."""
    there = [name for name in found.devices if environment.has_device(found.device(name))]
    return there[0] if there else "cpu" if "cpu" in found.devices else found.devices[-1]


def _ask(question: str, choices: tuple[str, ...], default: str, read: Callable[[str], Scalar] = str) -> str:
    """Ask until the answer is one of ``choices`` (if there are any) and ``read`` takes it. Nothing typed: ``default``;
    "-": nothing."""
    while True:
        among = f" ({' / '.join(choices)})" if choices else ""
        print(f"{question}{among} [{default}]: ", end="", file=sys.stderr, flush=True)
        typed = input().strip()
        answer = "" if typed == "-" else typed or default
        try:
            if choices and answer not in choices:
                raise KitError(f"no {answer!r}", f"one of: {', '.join(choices)}")
            read(answer)
        except KitError as error:
            output.error(error.message, error.hint)
            continue
        return answer
