"""A recipe's options: settings of its overlay's templates, and the profiles that set several of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kit.errors import KitError
from kit.schema import Source, nearest

Scalar = str | int | float | bool
PATHS = ("", "folder", "hub")


@dataclass(frozen=True)
class Option:
    """A setting of the overlay's templates (`options.<name>`), which `kit prepare --set name=value` changes."""

    name: str
    default: Scalar  # its type is the option's
    meaning: str  # in one line
    group: str = ""  # what it is shown under
    choices: tuple[str, ...] = ()
    default_on: dict[str, Scalar] = field(default_factory=dict)  # by device, instead of `default`
    only_on: dict[str, tuple[str, ...]] = field(default_factory=dict)  # choices that not every device has: devices
    only_with: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)  # options above it, and the values of theirs
    # that it does something with; under others it may not be given
    ask: str = ""  # the question `kit configure` asks; none: it does not ask
    needed: bool = False  # the question has no default, and wants an answer; folders that are needed are asked first
    path: str = ""  # a `folder`, or `hub`: a folder or a hub name; it counts from where `kit configure` is called

    def on(self, device: str) -> Scalar:
        """Its default on a device."""
        return self.default_on.get(device, self.default)

    def read(self, text: str) -> Scalar:
        """``text`` as a value of this option. Raises KitError."""
        kind = type(self.default)
        what = {bool: "true or false", int: "a whole number", float: "a number", str: ""}[kind]
        try:
            if kind is bool:
                return {"true": True, "false": False}[text.lower()]
            value: Scalar = kind(text)
        except (KeyError, ValueError):
            raise KitError(
                f"option {self.name} is {what}, not {text!r}", f"--set {self.name}={shown(self.default)}"
            ) from None
        if self.choices and value not in self.choices:
            known = f"one of: {', '.join(self.choices)}"
            raise KitError(f"option {self.name}: no {text!r}{nearest(text, self.choices)}", known)
        return value

    def choices_on(self, device: str) -> tuple[str, ...]:
        """Those of its choices that a device has."""
        return tuple(choice for choice in self.choices if device in self.only_on.get(choice, (device,)))


@dataclass(frozen=True)
class Preset:
    """Values of several options under one name, which `kit prepare --profile NAME` takes."""

    name: str
    set: dict[str, Scalar]
    meaning: str = ""  # in one line; where a name has several tables (for some devices), in the first
    devices: tuple[str, ...] = ()  # only for these; none: for all


def shown(value: Scalar) -> str:
    """A value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def disabled(name: str, known: Mapping[str, Option], values: Mapping[str, Scalar]) -> tuple[str, str] | None:
    """Where an option does nothing beside the ``values`` of the others: with what, and with what it would, such as
    `model_type=full` and `model_type=lora`."""
    for other, wanted in known[name].only_with.items():
        if why := disabled(other, known, values):
            return why
        if values[other] not in wanted:
            return f"{other}={shown(values[other])}", f"{other}={' or '.join(map(shown, wanted))}"
    return None


def check(options: Iterable[Option], profiles: Iterable[Preset], devices: tuple[str, ...], source: Source) -> None:
    """Options have names of their own, defaults, choices and conditions that fit; profiles set options that there are,
    to values of their kind. Raises KitError with the line."""
    known: dict[str, Option] = {}
    for index, option in enumerate(options):
        at = ("option", index)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", option.name) or option.name in known:
            what = f"bad option name {option.name!r}, or twice"
            raise source.complain((*at, "name"), what, "use a-z, 0-9 and '_', once")
        if not _fits(option.default, option):
            what = f"option {option.name}: the default {option.default!r} is not among its choices"
            raise source.complain((*at, "default"), what, f"choices: {', '.join(option.choices)}")
        for device, value in option.default_on.items():
            if device not in devices or not _fits(value, option):
                what = f"option {option.name}: default_on {device!r} is no device of the recipe, or {value!r} no choice"
                raise source.complain((*at, "default_on"), what)
        for choice, only in option.only_on.items():
            if choice not in option.choices or not set(only) <= set(devices):
                what = f"option {option.name}: only_on {choice!r} is not a choice for devices of the recipe"
                raise source.complain((*at, "only_on"), what)
        for other, wanted in option.only_with.items():
            if other not in known:
                what = f"option {option.name}: only_with names no option above it: {other!r}{nearest(other, known)}"
                raise source.complain((*at, "only_with"), what, f"above it: {', '.join(known) or 'none'}")
            for value in wanted:
                if not _fits(value, known[other]):
                    what = f"option {option.name}: only_with {other} = {value!r}, which {other} cannot be"
                    raise source.complain((*at, "only_with"), what, _values(known[other]))
        if option.path not in PATHS:
            what = f"option {option.name}: no path {option.path!r}{nearest(option.path, PATHS)}"
            raise source.complain((*at, "path"), what, "`folder`, or `hub` for a folder or a hub name")
        if option.needed and not option.ask:
            what = f"option {option.name} is needed, and nothing asks for it"
            raise source.complain((*at, "needed"), what, "add `ask = …`, the question")
        known[option.name] = option
    for index, preset in enumerate(profiles):
        for name, value in preset.set.items():
            if name not in known:
                what = f"profile {preset.name}: no option {name!r}{nearest(name, known)}"
                raise source.complain(("profile", index, "set"), what, f"options: {', '.join(known)}")
            if not _fits(value, known[name]):
                what = f"profile {preset.name}: {name} cannot be {value!r}"
                raise source.complain(("profile", index, "set"), what, f"its default is {known[name].default!r}")


def _fits(value: Scalar, option: Option) -> bool:
    return type(value) is type(option.default) and (not option.choices or value in option.choices)


def _values(option: Option) -> str:
    return f"choices: {', '.join(option.choices)}" if option.choices else f"its default is {option.default!r}"
