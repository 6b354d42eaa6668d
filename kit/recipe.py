"""What a recipe is: which upstreams at which pins, which fixes in which order, which overlays go where, which devices
it supports, its reference environment, and the published figures it is compared with.

One TOML file each. `kit/recipes.py` reads them, `kit/recipecheck.py` checks what types alone cannot say.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit import beside, fixes, options
from kit import devices as profiles
from kit.errors import KitError
from kit.options import Option, Preset, Scalar
from kit.paths import TreePath
from kit.proof import Smoke
from kit.schema import fill, nearest

ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
NO_PATH = TreePath("")
NOWHERE = ("nowhere",)  # no device has this name: the devices of a step that is left out and keeps its number


@dataclass(frozen=True)
class Upstream:
    """A repository at a pin. ``name`` is its folder in the workspace."""

    name: str
    url: str  # https, or a folder beside the recipe whose files are the whole upstream
    pin: str  # 40 hex digits; where there is no repository, the commit that kit makes of the files
    sha256: str = ""  # of a released source package: `url` is then the address of that archive
    alternates: tuple[str, ...] = ()  # other addresses of the same repository, tried in order
    sparse: tuple[TreePath, ...] = ()  # folders checked out, besides the files at the top; none: all
    version: str = ""  # what the pin is called, for people
    package: str = ""  # the package of PyPI it is, of that version; `kit patch-env` may patch it where it is installed

    @property
    def carried(self) -> bool:
        """Whether its files come with the recipe, not from a repository."""
        return not self.url.startswith(("https://", "/"))


@dataclass(frozen=True)
class FixStep:
    """One step of the series: a fix applied to files of one upstream."""

    id: str
    files: tuple[TreePath, ...]
    upstream: str = ""  # may be left out where there is one
    use: str = ""  # the module in kit/fixes; default: the id. "patch": hand-written, see `why`
    derive_from: TreePath = NO_PATH  # the one file of `files` is new: made as a copy of this one, then fixed
    count: int = 1  # places that must match, in each file; 0, which no recipe says: as many as there are
    options: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()  # only for these; none: for all
    per_device: bool = False  # the text differs by device: one patch a variant, NN-<id>@<device>.patch
    optional: bool = False  # the source document calls it optional; `--without` leaves it out either way
    extra: bool = False  # only with `--with`
    why: str = ""  # beside the fix's own reason, what it means here
    brought: Path | None = field(default=None, metadata={"key": False})  # its file, where it stands beside the recipe
    runs: bool = field(default=True, metadata={"key": False})  # whether that file's code may run

    @property
    def module(self) -> fixes.Fix | None:
        """The fix it applies; None for a hand-written patch."""
        return None if self.use == "patch" else fixes.load(self.use or self.id, self.brought, self.runs)

    @property
    def changes(self) -> str:
        """What it means to change in what one process trains; nothing where a run is equal to the last bit."""
        return str(getattr(self.module, "CHANGES", ""))

    @property
    def within(self) -> float:
        """By how much, relative, losses may differ for it in float32; 0 where what it changes is not arithmetic."""
        return float(getattr(self.module, "WITHIN", 0.0))

    @property
    def elsewhere(self) -> FixStep:
        """The step at other commits than the pin: a fix for any script is right at as many places as there are."""
        general = self.module and getattr(self.module, "GENERAL", False)
        return dataclasses.replace(self, count=0) if general else self

    def options_for(self, device: profiles.Device) -> dict[str, str]:
        """The fix's options with the facts of a device filled in."""
        return {key: fill(value, device=device) for key, value in self.options.items()}


@dataclass(frozen=True)
class Overlay:
    """A folder of files copied into an upstream; `*.j2` are rendered."""

    source: TreePath  # under overlays/, beside the recipe or in kit
    into: TreePath  # "." for the top of the upstream
    upstream: str = ""
    replace: tuple[TreePath, ...] = ()  # files of the upstream it may overwrite, relative to the upstream
    devices: tuple[str, ...] = ()
    extra: str = ""  # only with this extra fix


@dataclass(frozen=True)
class Other:
    """What another torch than the default one needs otherwise; what is empty stays as it is."""

    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)  # these versions instead, or besides
    device_packages: dict[str, dict[str, str]] = field(default_factory=dict)
    wheels: str = ""


@dataclass(frozen=True)
class Environment:
    """The reference environment: what the recipe is known to work with."""

    python: str
    packages: dict[str, str] = field(default_factory=dict)
    newest: str = ""  # the day (YYYY-MM-DD) by which a package must have been published to be chosen
    device_packages: dict[str, dict[str, str]] = field(default_factory=dict)  # by device, instead of its profile's
    wheels: str = ""  # where wheels are that no registry has: the first lines of the requirements say so
    other: dict[str, Other] = field(default_factory=dict)  # by the value of the recipe's option `torch`
    torch: str = field(default="", metadata={"key": False})  # which of those this is; "": the default one

    def at(self, torch: str) -> Environment:
        """The environment with another torch; with the default one, or one it does not know, as it is."""
        if torch not in self.other:
            return self
        other = self.other[torch]
        return dataclasses.replace(
            self,
            torch=torch,
            python=other.python or self.python,
            packages={**self.packages, "torch": torch, **other.packages},
            device_packages={**self.device_packages, **other.device_packages},
            wheels=other.wheels,
        )


TORCH = "torch"  # the option that chooses among environments


@dataclass(frozen=True)
class Cluster:
    """How many machines and processes a run is meant for, unless `kit prepare` is told otherwise."""

    machines: int = 1
    machine_rank: int = 0
    main_ip: str = "localhost"
    main_port: int = 6000
    processes: int = 0  # in all machines together; 0: the device's usual number a machine


@dataclass(frozen=True)
class Figure:
    """A published measurement this recipe is compared with."""

    task: str
    metric: str  # FPS (images a second, all cards), it/s, …
    value: float
    chip: str
    cards: int
    source: str
    precision: str = ""
    batch_size: int = 0  # a card
    resolution: int = 0  # pixels
    torch: str = ""
    deepspeed: bool | None = None
    gradient_checkpointing: bool | None = None
    details: str = ""  # what it was measured with besides, and how

    @property
    def setting(self) -> str:
        """What it was measured with, in the words a launch script's `Settings :` line uses."""
        words = [f"{self.cards} card{'s' * (self.cards != 1)}"]
        words += [f"batch {self.batch_size}"] * bool(self.batch_size) + [self.precision]
        words += [f"{self.resolution} px"] * bool(self.resolution) + [f"torch {self.torch}"] * bool(self.torch)
        for word, value in (("deepspeed", self.deepspeed), ("gradient checkpointing", self.gradient_checkpointing)):
            words.append("" if value is None else word if value else f"no {word}")
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked. ``path`` is the TOML file; ``roots`` are where what it brings is looked for before kit."""

    name: str
    title: str
    summary: str
    devices: tuple[str, ...]
    environment: Environment
    upstream: tuple[Upstream, ...]
    fix: tuple[FixStep, ...] = ()
    overlay: tuple[Overlay, ...] = ()
    option: tuple[Option, ...] = ()
    profile: tuple[Preset, ...] = ()
    cluster: Cluster = Cluster()
    figure: tuple[Figure, ...] = ()
    smoke: Smoke | None = None
    check: tuple[str, ...] = ()  # for `kit configure`: a Python script of the workspace that refuses bad settings, its
    # arguments; {device}, {processes} and options are filled in. Standard library, exit status 2, one line on stderr.
    next: tuple[str, ...] = ()  # what to type in the prepared workspace; `--help` at an end goes when all is set
    extends: str = ""  # a recipe's name or path (from this file): all that is not said here is taken over from it
    without: tuple[str, ...] = ()  # with `extends`: fixes that are not
    path: Path = field(default=Path(), metadata={"key": False})
    base: Recipe | None = field(default=None, metadata={"key": False})  # the recipe it extends
    extras: tuple[str, ...] = field(default=(), metadata={"key": False})  # the extra fixes that were asked for

    @property
    def root(self) -> Path:
        """The folder that holds its patches/, overlays/ and whatever else it brings."""
        return beside.root_of(self.path)

    @property
    def roots(self) -> tuple[Path, ...]:
        return (self.root, *(self.base.roots if self.base else ()))

    @property
    def sha256(self) -> str:
        """The digest of its file; of one that extends another, of both."""
        below = self.base.sha256.encode() if self.base else b""
        return hashlib.sha256(self.path.read_bytes() + below).hexdigest()

    @property
    def called(self) -> str:
        """The word to type for it on a command line from here."""
        return beside.called(self.path)

    @property
    def looked_at(self) -> Recipe:
        """The recipe for a command that was not given it, but a workspace made from it: no code of its own runs."""
        return dataclasses.replace(self, fix=tuple(dataclasses.replace(step, runs=False) for step in self.fix))

    def having(self, extras: Sequence[str]) -> Recipe:
        """The recipe with these of its extra fixes. Raises KitError for one that it does not have."""
        known = [step.id for step in self.fix if step.extra]
        for name in extras:
            if name not in known:
                what = f"recipe {self.name} has no extra fix {name!r}{nearest(name, known)}"
                raise KitError(what, f"its extra fixes: {', '.join(known) or 'none'}")
        return dataclasses.replace(self, extras=tuple(sorted(extras)))

    def at(self, device: str, options: Mapping[str, Scalar] | None = None) -> Recipe:
        """The recipe with the environment that its option `torch` asks for: as it is in ``options``, else its default
        on the device."""
        option = next((each for each in self.option if each.name == TORCH), None)
        if not option:
            return self
        torch = (options or {}).get(TORCH, option.on(device))
        return dataclasses.replace(self, environment=self.environment.at(str(torch)))

    def with_brought(self, step: FixStep) -> FixStep:
        """A step of the series that knows the file of its fix, where that stands beside the recipe."""
        name = f"{(step.use or step.id).replace('-', '_')}.py"
        found = beside.find("fixes", name, self.roots)
        in_kit = found is None or found.parent in beside.folders("fixes")
        return dataclasses.replace(step, brought=None if in_kit else found)

    @property
    def whole(self) -> Recipe:
        """The recipe with all its extra fixes."""
        return self.having([step.id for step in self.fix if step.extra])

    def chosen(self, step: FixStep, device: str) -> bool:
        """Whether a fix is part of the series for a device."""
        return (not step.devices or device in step.devices) and (not step.extra or step.id in self.extras)

    def series(self, upstream: str, device: str) -> list[tuple[int, FixStep]]:
        """The fixes of one upstream for one device, each with its number in the recipe's series (from 1)."""
        return [
            (number, step)
            for number, step in enumerate(self.fix, 1)
            if step.upstream == upstream and self.chosen(step, device)
        ]

    def sources(self, upstream: str, device: str) -> set[TreePath]:
        """The files of one upstream that its series reads: those it changes, and those that others are derived from."""
        steps = [step for _, step in self.series(upstream, device)]
        derived = {path for step in steps if step.derive_from for path in step.files}
        return {path for step in steps for path in (*step.files, step.derive_from) if path} - derived

    def overlays(self, upstream: str, device: str) -> list[Overlay]:
        return [
            overlay
            for overlay in self.overlay
            if overlay.upstream == upstream
            and (not overlay.devices or device in overlay.devices)
            and (not overlay.extra or overlay.extra in self.extras)
        ]

    def options(self, device: str, profile: str = "", given: Mapping[str, str] | None = None) -> dict[str, Scalar]:
        """The value of every option: what is ``given`` (as text), else what ``profile`` says, else its default.

        Raises KitError for an unknown name or profile, a value that is not of the option's kind, one that the device
        does not have, and one ``given`` for an option that another's value disables.
        """
        known = {option.name: option for option in self.option}
        values = {name: option.on(device) for name, option in known.items()}
        presets = [preset for preset in self.profile if preset.name == profile]
        if profile and not presets:
            names = list(dict.fromkeys(preset.name for preset in self.profile))
            what = f"recipe {self.name} has no profile {profile!r}{nearest(profile, names)}"
            raise KitError(what, f"its profiles: {', '.join(names) or 'none'}")
        for preset in presets:
            values |= preset.set if not preset.devices or device in preset.devices else {}
        for name, text in (given or {}).items():
            if name not in known:
                what = f"recipe {self.name} has no option {name!r}{nearest(name, known)}"
                raise KitError(what, f"its options: kit show {self.called}" if known else "it has none")
            values[name] = known[name].read(text)
        for name in given or {}:
            if why := options.disabled(name, known, values):
                by = f" (profile {profile})" if profile else ""
                raise KitError(f"option {name} does nothing with {why[0]}{by}", f"leave it out; it is for {why[1]}")
        for name, value in values.items():
            there = known[name].choices_on(device)
            if known[name].choices and value not in there:
                devices = ", ".join(known[name].only_on[str(value)])
                what = f"option {name}: {value} is for {devices} only, and this is {device}"
                raise KitError(what, f"--set {name}=…, one of: {', '.join(there)}")
        return values

    def then(self, device: str, values: Mapping[str, Scalar]) -> tuple[str, ...]:
        """What to type in a workspace with these values of its options: no `--help` where all that are needed were
        set."""
        needed = [option for option in self.option if option.needed]
        ready = needed and all(values[option.name] != option.on(device) for option in needed)
        return tuple(command.removesuffix(" --help") if ready else command for command in self.next)

    def device(self, name: str) -> profiles.Device:
        """The profile of a device this recipe supports, with the packages it needs here. Raises KitError."""
        if name not in self.devices:
            hint = f"supported: {', '.join(self.devices)}"
            raise KitError(f"recipe {self.name} does not support device {name!r}{nearest(name, self.devices)}", hint)
        profile = profiles.load(name, self.roots)
        packages = self.environment.device_packages.get(name, profile.packages)
        return dataclasses.replace(profile, packages=packages)
