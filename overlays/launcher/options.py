"""The settings of a launch script: from its first lines, over the command line, to values that are known to be good.

programs.json says, for each launch script, which settings there are. A setting has a `name` (of the option --name and
of the shell variable), a `kind`, a `meaning`, and `flags`, those of the training script that it fills. Kinds:

    text       anything                        whole      an integer above 0      count   an integer from 0
    number     a number from 0                 switch     true or false: gives the bare flag
    precision  one of the program's            choice     one of `choices`, which defaults by choice follow
    output     a folder that is written        device     the device to train on, as torch names it
    model      a folder with model_index.json, or a hub name (`file`: or a .safetensors or .ckpt file)
    encoder    a folder with config.json, or a hub name          part     a folder, a file or a hub name
    dataset    a folder of images with metadata.jsonl, or a hub name
    images     a folder of images alone        captioned  a folder of images with captions beside them
    column     a data set's column of images
    resume     latest or a checkpoint in the output folder       state    latest, or a folder that is there
    configs    the folder of the accelerate config               folder   a folder
    profile    settings that go together under a name
An empty value leaves the flags out. What else an option may say: class Option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.mistake import Mistake, nearest

PATHS = ("model", "encoder", "part", "dataset", "images", "captioned", "output", "resume", "state", "configs", "folder")
KINDS = {
    "whole": (r"([1-9][0-9]*)?", "a whole number from 1"),
    "count": (r"[0-9]*", "a whole number from 0"),
    "number": (r"([0-9]+\.?[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?)?", "a number from 0"),
    "switch": (r"true|false", "true or false"),
}
OWN = ("check",)  # switches of every launch script that are no settings


@dataclass(frozen=True)
class Option:
    """One setting, as programs.json has it."""

    name: str
    kind: str
    meaning: str
    flags: tuple[str, ...] = ()
    default: dict[str, str] = field(default_factory=dict)  # by choice, where it is left empty
    choices: tuple[str, ...] = ()
    needed: bool = False  # it may not be empty
    pattern: str = ""  # what the whole value must match
    what: str = ""  # that in words; none: the alternatives of the pattern
    multiple: int = 0  # of what a number of pixels must be one
    most: int = 0  # the largest value, 0: any
    between: tuple[str, ...] = ()  # the settings that bound it where a third one is on: lowest, highest, switch
    instead: str = ""  # the setting that is left empty where this one is given
    wants: str = ""  # the setting that may not be empty where this one is given
    inside: tuple[str, ...] = ()  # a setting and a folder in it, taken where this one is empty and that is there
    below: tuple[str, ...] = ()  # a setting and a folder in it, taken where this one is empty
    variable: str = ""  # the environment variable it is
    key: str = ""  # its name in the accelerate config
    prompt: str = ""  # of a dataset and of images: the instance prompt where none is given
    apart: tuple[str, ...] = ()  # of a model: parts that may be missing, since other settings bring them
    pipelines: tuple[str, ...] = ()  # of a model: what the script trains, as model_index.json names it
    file: bool = False  # of a model: whether it may be a file
    states: str = ""  # of a state: how the folders are called that the training saves


@dataclass(frozen=True)
class Program:
    """One launch script: what it starts, with which settings."""

    title: str
    starts: str  # accelerate, torchrun, python or simpletuner
    script: str  # the training script, from the launch script's folder
    requirements: str
    options: tuple[Option, ...]
    roles: dict[str, str]  # batch, accumulation, precision, output, captions, …: the setting that means it
    device: dict[str, Any]  # the device's profile
    precisions: tuple[str, ...] = ()
    config: str = ""  # the accelerate config's name
    several: tuple[str, ...] = ()  # what accelerate, or its config, is told where that is one of a single process
    deepspeed: bool = False  # whether the config may name a file of DeepSpeed's own settings
    open_files: int = 0
    processes: int = 1  # of a program whose settings do not say it, on all machines together
    machines: int = 1
    saves: tuple[str, ...] = ()  # arguments of the training script: how often it saves, switches for a whole state
    whole_batches: bool = False  # whether the training script drops a batch that is not whole
    imports: tuple[str, ...] = ()  # packages that must be there
    modules: tuple[str, ...] = ()  # folders for PYTHONPATH, from the launch script's
    absolute: bool = False  # whether the training script wants paths from the root
    profiles: dict[str, dict[str, str]] = field(default_factory=dict)
    variables: dict[str, dict[str, str]] = field(default_factory=dict)  # by profile: of the environment

    def named(self, kind: str) -> list[Option]:
        return [option for option in self.options if option.kind == kind]


def program(table: dict[str, Any]) -> Program:
    """A program of programs.json, with its options."""
    options = tuple(Option(**{key: _frozen(value) for key, value in each.items()}) for each in table["options"])
    return Program(**{**{key: _frozen(value) for key, value in table.items()}, "options": options})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if TYPE_CHECKING:
    _Table = dict[str, str]
else:  # Python 3.8
    _Table = dict


class Settings(_Table):
    """The value of each setting, by name; ``given`` are those of the command line, ``more`` the training script's own
    flags, ``own`` the launcher's switches."""

    def __init__(self, values: dict[str, str]):
        super().__init__(values)
        self.profile = ""
        self.given: list[str] = []
        self.more: list[str] = []
        self.own: list[str] = []


def read(program: Program, first: dict[str, str], words: Sequence[str]) -> Settings:
    """The settings: those of the launch script's first lines, then what is given. Nothing is checked but the names.

    Raises Mistake for a word that is no setting, with the one that it may mean."""
    names = {option.name for option in program.options}
    switches = {option.name for option in program.named("switch")} | set(OWN)
    fills = {flag: option.name for option in program.options for flag in option.flags}
    script = os.path.basename(program.script)
    settings = Settings({name: first.get(name, "") for name in names})
    values: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            settings.more = left
            break
        if not word.startswith("--") or len(word) < 3:
            raise Mistake(
                f"unexpected argument {word}: settings are given as --name=value, flags for {script} after --"
            )
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in names and name not in OWN:
            if name in fills:
                raise Mistake(f"unknown option --{name}: here it is --{fills[name]}")
            like = nearest(f"--{name}", sorted(f"--{each}" for each in (*names, *OWN)))
            raise Mistake(f"unknown option --{name}{like or '; --help lists them'}; flags for {script} go after --")
        if not equals:
            if name in switches and (not left or left[0] not in ("true", "false")):
                value = "true"
            elif left and not left[0].startswith("--"):
                value = left.pop(0)
            else:
                raise Mistake(f"--{name} needs a value: --{name}=value")
        if name in OWN:
            if value not in ("true", "false"):
                raise Mistake(f"--{name} is {KINDS['switch'][1]}, not '{value}'")
            settings.own += [name] * (value == "true")
        else:
            values[name] = value
    settings.given = list(values)
    for option in program.named("profile"):
        settings.profile = values.get(option.name, settings[option.name])
        if settings.profile and settings.profile not in program.profiles:
            raise Mistake(f"--{option.name} is one of {', '.join(program.profiles)}, not '{settings.profile}'")
    settings.update({**program.profiles.get(settings.profile, {}), **values})
    for flag in settings.more:
        name = flag.split("=")[0]
        if name.startswith("--") and name[2:].replace("-", "_") in {*fills, *names}:
            raise Mistake(f"{name} after --: give it before, as --{fills.get(name[2:].replace('-', '_'), name[2:])}")
    return settings


def fill(program: Program, settings: Settings) -> None:
    """Put in what follows from another setting, and the home for a `~` that the shell has left. Raises Mistake for a
    choice that there is not."""
    for option in program.named("choice"):
        value = settings[option.name]
        if value not in option.choices:
            like = nearest(value, option.choices)
            raise Mistake(f"--{option.name} is one of {', '.join(option.choices)}, not '{value}'{like}")
        for other in program.options:
            settings[other.name] = settings[other.name] or str(other.default.get(value, ""))
    for option in program.options:
        if option.kind in PATHS or option.name in ("config_file", "log_file"):
            value = settings[option.name]
            settings[option.name] = os.path.expanduser(value) if value.startswith("~/") else value
    for option in program.options:
        if option.instead and settings[option.name]:
            settings[option.instead] = ""
        if option.inside and not settings[option.name]:
            place = os.path.join(settings[option.inside[0]], option.inside[1])
            settings[option.name] = place if os.path.isdir(place) else ""
        if option.below and not settings[option.name]:
            settings[option.name] = os.path.join(settings[option.below[0]], option.below[1])


def check(program: Program, settings: Settings) -> None:
    """Each value by itself: its kind, its pattern, whether it may be empty. Raises Mistake."""
    roles = program.roles
    always = [roles.get(role) for role in ("batch", "accumulation", "output")]
    for option in program.options:
        value = settings[option.name]
        _check_one(option, value, program)
        if not value and (option.needed or option.name in always):
            raise Mistake(f"--{option.name} is empty")
        if option.wants and value and not settings[option.wants]:
            raise Mistake(f"--{option.name} is {value}, without --{option.wants}: give that too, or --{option.name}=")
    for option in program.options:
        value = settings[option.name]
        if option.between and value and settings[option.between[2]] == "true":
            low, high = (settings[name] for name in option.between[:2])
            for side in value.split(","):
                if not int(low or 0) <= int(side) <= int(high or side):
                    bounds = f"from --{option.between[0]}={low} to --{option.between[1]}={high}"
                    raise Mistake(f"--{option.name} is {value}, beyond the buckets: {bounds}")


def _check_one(option: Option, value: str, program: Program) -> None:
    pattern, what = KINDS.get(option.kind, ("", ""))
    if option.kind == "precision":
        known = program.precisions
        pattern = "|".join(map(re.escape, known))
        what = f"{'one of ' if len(known) > 1 else ''}{', '.join(known)} on {program.device['title']}"
    elif option.kind == "device":
        name = program.device["device"]
        pattern, what = (name, name) if name == "cpu" else (f"{name}(:[0-9]+)?", f"{name} or {name}:<number>")
    if pattern and not re.fullmatch(pattern, value):
        raise Mistake(f"--{option.name} is {what}, not '{value}'")
    if option.pattern and value and not re.fullmatch(option.pattern, value):
        alternatives = [
            each for each in option.pattern.replace("(?i)", "").split("|") if re.fullmatch(r"[\w.-]+", each)
        ]
        like = nearest(value, alternatives)
        raise Mistake(f"--{option.name} is {option.what or 'one of ' + ', '.join(alternatives)}, not '{value}'{like}")
    if option.most and value and int(value) > option.most:
        raise Mistake(f"--{option.name} is {value}, above {option.most}: give that or less")

    multiple = option.multiple

    def near(side: re.Match[str]) -> str:
        return str(max(multiple, (int(side[0]) + multiple // 2) // multiple * multiple))

    if multiple and any(int(side) % multiple for side in re.findall("[0-9]+", value)):
        right = re.sub("[0-9]+", near, value)
        raise Mistake(f"--{option.name} is {value}, not a multiple of {multiple}: {right}")


def usage(name: str, program: Program, settings: Settings, present: dict[str, str]) -> str:
    """What --help prints: each setting with its meaning and its present value; ``present``, of those left empty."""
    lines = [
        f"usage: bash {name} [--name=value | --name value]... [-- flags for {os.path.basename(program.script)}]",
        "",
    ]
    lines += ["settings, with their present values:"]
    for option in program.options:
        value = settings[option.name] or present.get(option.name, "")
        lines.append(f"  --{option.name:<30} {option.meaning} [{value}]")
    for profile, values in program.profiles.items():
        lines += ["", f"profile {profile}: {' '.join(f'--{key}={value}' for key, value in values.items())}"]
    lines += ["", "  --check                          check all of it, and stop there"]
    return "\n".join(lines)
