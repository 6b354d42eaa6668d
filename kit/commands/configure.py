"""`kit configure RECIPE [DEST]`: ask what matters, check each answer, prepare the workspace with them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit import environment, options, output, planning, recipes, workspace
from kit.commands import prepare
from kit.errors import KitError
from kit.options import Option, shown
from kit.recipe import Recipe


@dataclass
class Answers:
    """What was given or answered so far."""

    recipe: str
    dest: str | None
    device: str | None
    profile: str
    settings: dict[str, str]
    cluster: Mapping[str, Any]

    def destination(self, found: Recipe) -> Path:
        return Path(self.dest or f"{found.name}-{self.device}")

    def command(self, verb: str, settings: Mapping[str, str]) -> str:
        """The command line that gives all this, and these settings."""
        words = ["kit", verb, self.recipe, *([self.dest] if self.dest else [])]
        flags = {"device": self.device, "profile": self.profile, **self.cluster}
        given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in flags.items() if value is not None]
        words += [word for pair in given if pair[1] for word in pair]
        words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return shlex.join(words)


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
    the recipe has nothing to configure, and where its check refuses; then nothing is written. What was answered is
    printed as a command before anything ends the questions."""
    found = recipes.load(recipe_name)
    if not found.option:
        raise KitError(f"recipe {found.name} has no options", f"kit prepare {found.called} --device {found.devices[0]}")
    given = prepare.given(settings)
    known = {option.name: option for option in found.option}
    given = {name: _from_here(value, known[name]) if name in known else value for name, value in given.items()}
    said = Answers(recipe_name, dest, device, profile, dict(given), cluster)
    before = replace(said, settings=given)
    try:
        if sys.stdin.isatty() and not yes:
            _ask_all(found, said, force, offline)
        status = prepare.run(
            recipe_name,
            said.device,
            dest,
            without=(),
            extras=(),
            settings=tuple(f"{name}={value}" for name, value in said.settings.items()),
            profile=said.profile,
            dry_run=False,
            offline=offline,
            force=force,
            as_json=as_json,
            check=True,
            **cluster,
        )
    except (Exception, KeyboardInterrupt):
        if said.settings != given:
            command = said.command("configure", said.settings)
            output.note(f"your answers are kept in this command, which goes on from here:\n  {command}")
        raise
    if said != before:
        output.note(f"the same once more, without questions:\n  {_repeat(found, said)}")
    return status


def _repeat(found: Recipe, said: Answers) -> str:
    """The command that prepares the same workspace: what is as it would be anyway is left out."""
    assert said.device
    anyway = found.options(said.device, said.profile)
    values = found.options(said.device, said.profile, said.settings)
    return said.command("prepare", {name: shown(value) for name, value in values.items() if value != anyway[name]})


# ---- The questions ----


def _ask_all(found: Recipe, said: Answers, force: bool, offline: bool) -> None:
    """Ask what was not given, into ``said``. Raises KitError before the first question for what no answer can mend."""
    said.device = said.device or _ask("device", found.devices, _likely(found), str)
    target = found.device(said.device)
    profiles = {each.name: each.meaning for each in reversed(found.profile) if each.meaning}
    if profiles and not said.profile:
        for name, meaning in reversed(profiles.items()):
            output.note(f"  {name}: {meaning}")
        said.profile = _ask("profile", tuple(reversed(profiles)), next(reversed(profiles)), str)
    destination = said.destination(found)
    workspace.free(destination, force)
    cluster = planning.cluster_of(found, target, **said.cluster)

    def planned(settings: Mapping[str, str]) -> planning.Plan:
        values = found.options(target.name, said.profile, settings)
        return planning.plan(found, target, cluster, (), offline, values)

    with workspace.checking(planned(said.settings), destination) as check:
        while questions := _open(found, said, said.settings):
            option = questions[0]

            def read(text: str, option: Option = option) -> str:
                answer = _answer(text, option)
                settings = {**said.settings, option.name: answer}
                waiting = _open(found, said, settings)
                if not any(each.needed and each.path for each in waiting):
                    none = {each.name: "" for each in waiting if each.path == "folder"}
                    _without_hint(check, planned({**none, **settings}))
                return answer

            default = "" if option.needed else shown(option.on(target.name))
            said.settings[option.name] = _ask(option.ask, option.choices_on(target.name), default, read)


def _open(found: Recipe, said: Answers, settings: Mapping[str, str]) -> list[Option]:
    """The questions without an answer in ``settings``, in the order they are asked: folders that are needed first, so
    that the recipe's check can say something of the others' answers. Raises KitError where the settings don't fit."""
    assert said.device
    known = {option.name: option for option in found.option}
    values = found.options(said.device, said.profile, settings)
    asked = [each for each in found.option if each.ask and each.name not in settings]
    there = [each for each in asked if not options.disabled(each.name, known, values)]
    return sorted(there, key=lambda option: not (option.needed and option.path))


def _without_hint(check: Callable[[planning.Plan], None], plan: planning.Plan) -> None:
    """What the check says to one who is asked: not how to give a setting on a command line."""
    try:
        check(plan)
    except KitError as error:
        raise KitError(error.message) from None


def _answer(text: str, option: Option) -> str:
    """What was typed, as a value of the option. Raises KitError where there is nothing, or no such folder."""
    value = _from_here(text, option)
    if option.needed and not value:
        raise KitError("this needs an answer")
    if option.path and value and Path(value).is_absolute() and not Path(value).is_dir():
        is_file = Path(value).exists()
        raise KitError(f"{value} is a file: give the folder it is in" if is_file else f"no folder {value}")
    return value


def _from_here(value: str, option: Option) -> str:
    """A path as it counts from here; what may be a hub name (org/name) only where it is there."""
    if not option.path or not value:
        return value
    path = Path(value).expanduser().absolute()
    hub = option.path == "hub" and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value)
    return value if hub and not path.exists() else str(path)


def _likely(found: Recipe) -> str:
    """The first device of the recipe that this machine has; the CPU, or the last one, where it has none."""
    there = [name for name in found.devices if environment.has_device(found.device(name))]
    return there[0] if there else "cpu" if "cpu" in found.devices else found.devices[-1]


def _ask(question: str, choices: tuple[str, ...], default: str, read: Callable[[str], str]) -> str:
    """Ask until ``read`` takes the answer, and that is one of ``choices`` if there are any; what it makes of it.
    Nothing typed: ``default``; "-": nothing. Raises KitError where the input ends."""
    refused: dict[str, str] = {}
    while True:
        among = f" ({' / '.join(choices)})" if choices else ""
        offered = f" [{default}]" if default else ""
        print(f"{question}{among}{offered}: ", end="", file=sys.stderr, flush=True)
        try:
            typed = input().strip()
        except (EOFError, KeyboardInterrupt) as end:
            output.note("")
            if isinstance(end, KeyboardInterrupt):
                raise
            raise KitError("the input ended before the questions did") from None
        answer = "" if typed == "-" else typed or default or ""
        try:
            if choices and answer not in choices:
                raise KitError(f"no {answer!r}", f"one of: {', '.join(choices)}")
            return read(answer)
        except KitError as error:
            alike = refused.setdefault(error.message, answer) != answer
            hint = "the same as before: another setting may be wrong; Ctrl-C ends this and keeps your answers"
            output.error(error.message, hint if alike else error.hint)
