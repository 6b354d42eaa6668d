"""What the shell may complete a word to; imported with the command line, the rest when it is asked."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem


def recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import recipes as known

    return [CompletionItem(name) for name in known.names() if name.startswith(incomplete)]


def devices(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import devices as known

    return [CompletionItem(name) for name in known.names() if name.startswith(incomplete)]


def fixes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import recipes as known

    # click gives no parameters here: to it the line is wrong, for its last option has no value yet.
    words = os.environ.get("COMP_WORDS", "").split()
    steps = [step for word in words if word in known.names() for step in known.load(word).fix]
    return [CompletionItem(step.id) for step in steps if step.id.startswith(incomplete)]


def general(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from kit import fixes as known

    found = [CompletionItem(name) for name in known.general() if incomplete and name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]
