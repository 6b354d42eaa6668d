"""Recipes: one TOML file each, validated key by key and frozen.

A recipe says which upstreams at which pins, which fixes in which order, which overlays go where, which devices it
supports, its reference environment, and the published figures it is compared with.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit import devices as profiles
from kit import fixes, lock, options, proof
from kit.errors import KitError
from kit.options import Option, Preset, Scalar
from kit.paths import ID, NAME, TreePath, tree_path
from kit.proof import Smoke
from kit.schema import Source, fill, load_toml, nearest, read

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
    optional: bool = False  # the seed calls it optional; `--without` leaves it out either way
    extra: bool = False  # only with `--with`
    why: str = ""  # beside the fix's own reason, what it means here

    @property
    def module(self) -> fixes.Fix | None:
        """The fix it applies; None for a hand-written patch."""
        return None if self.use == "patch" else fixes.load(self.use or self.id)

    @property
    def changes(self) -> str:
        """What it means to change in what one process trains; nothing where a run is equal to the last bit."""
        return fixes.changes(self.use or self.id) if self.module else ""

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

    source: TreePath  # under overlays/
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
    """A recipe, checked. ``root`` holds recipes/, patches/ and overlays/; ``path`` is the TOML file."""

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
    path: Path = field(default=Path(), metadata={"key": False})
    extras: tuple[str, ...] = field(default=(), metadata={"key": False})  # the extra fixes that were asked for

    @property
    def root(self) -> Path:
        return self.path.parent.parent

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
                raise KitError(what, f"its options: kit show {self.name}" if known else "it has none")
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
        profile = profiles.load(name)
        packages = self.environment.device_packages.get(name, profile.packages)
        return dataclasses.replace(profile, packages=packages)


def shipped_root() -> Path:
    """The folder with recipes/, patches/ and overlays/: inside an installed kit, or the checkout it runs from."""
    here = Path(__file__).parent
    return here / "_data" if (here / "_data").is_dir() else here.parent


def names() -> list[str]:
    """The recipes that come with kit."""
    return sorted(path.stem for path in (shipped_root() / "recipes").glob("*.toml"))


def load(name: str) -> Recipe:
    """Load a recipe by its name, or from a path ending in `.toml`. Raises KitError with file and line."""
    return parse(locate(name))


def locate(name: str) -> Path:
    """The file of a recipe, by its name or by a path ending in `.toml`. Raises KitError for an unknown name."""
    if name.endswith(".toml"):
        return Path(name).absolute()
    if name not in names():
        known = f"known recipes: {', '.join(names())}; or give the path of a .toml"
        raise KitError(f"unknown recipe {name!r}{nearest(name, names())}", known)
    return shipped_root() / "recipes" / f"{name}.toml"


def parse(path: Path) -> Recipe:
    """Read and check one recipe file. Raises KitError with file and line."""
    source, table = load_toml(path)
    if not table:
        raise KitError(f"{path}:1: the recipe is empty", "see CONTRIBUTING.md for a worked example")
    only = table.get("upstream")
    if isinstance(only, list) and len(only) == 1 and isinstance(only[0], dict):
        for kind in ("fix", "overlay"):
            for step in table.get(kind, []) if isinstance(table.get(kind), list) else []:
                if isinstance(step, dict):
                    step.setdefault("upstream", only[0].get("name", ""))
    recipe = dataclasses.replace(read(Recipe, table, source), path=path)
    _check(recipe, source)
    return recipe


def _check(recipe: Recipe, source: Source) -> None:
    """What types alone cannot say. Raises KitError at the first fault."""

    def need(good: object, keys: tuple[str | int, ...], what: str, hint: str = "") -> None:
        if not good:
            raise source.complain(keys, what, hint)

    need(NAME.fullmatch(recipe.name), ("name",), f"bad name {recipe.name!r}", "use a-z, 0-9, '.', '_' and '-'")
    need(
        recipe.name == recipe.path.stem,
        ("name",),
        f"the recipe is named {recipe.name!r}, its file {recipe.path.name!r}",
        f"rename the file to {recipe.name}.toml",
    )
    need(recipe.devices, ("devices",), "no device is supported", f"known devices: {', '.join(profiles.names())}")
    for device in recipe.devices:
        known = profiles.names()
        need(
            device in known,
            ("devices",),
            f"unknown device {device!r}{nearest(device, known)}",
            f"known devices: {', '.join(known)}",
        )
    need(recipe.upstream, ("upstream",), "there is no upstream", "add an [[upstream]] table")
    folders = [upstream.name for upstream in recipe.upstream]
    for index, upstream in enumerate(recipe.upstream):
        _check_upstream(upstream, ("upstream", index), folders, source)
    seen: set[str] = set()
    for index, step in enumerate(recipe.fix):
        at = ("fix", index)
        need(NAME.fullmatch(step.id), (*at, "id"), f"bad fix id {step.id!r}", "use a-z, 0-9, '.', '_' and '-'")
        need(step.id not in seen, (*at, "id"), f"two fixes are called {step.id!r}", "give each its own id")
        seen.add(step.id)
        known = ["patch", *fixes.names()]
        use = step.use or step.id
        what = f"there is no fix {use!r} in kit/fixes{nearest(use, known)}"
        need(use in known, at, what, f"known fixes: {', '.join(known)}")
        need(use != "patch" or step.why, at, f"fix {step.id} is hand-written and does not say why", "add `why = …`")
        need(step.files, (*at, "files"), f"fix {step.id} names no file", 'add `files = ["path/in/upstream.py"]`')
        need(len(set(step.files)) == len(step.files), (*at, "files"), f"fix {step.id} names a file twice", "")
        one = not step.derive_from or (len(step.files) == 1 and step.derive_from not in step.files)
        what = f"fix {step.id} derives {', '.join(step.files)} from {step.derive_from}"
        need(one, (*at, "derive_from"), what, "name one file that is not there yet, and one to copy it from")
        _check_options(step, at, source)
        need(step.count > 0, (*at, "count"), f"fix {step.id}: count must be at least 1", "")
        paths = (*step.files, *([step.derive_from] if step.derive_from else []))
        _check_use(step.upstream, step.devices, paths, at, folders, recipe, source)
    for index, overlay in enumerate(recipe.overlay):
        at = ("overlay", index)
        paths = (overlay.source, *(path for path in (overlay.into,) if path != "."), *overlay.replace)
        _check_use(overlay.upstream, overlay.devices, paths, at, folders, recipe, source)
        folder = recipe.root / "overlays" / overlay.source
        extras = [step.id for step in recipe.fix if step.extra]
        what = f"extra {overlay.extra!r} is no extra fix of the recipe{nearest(overlay.extra, extras)}"
        need(overlay.extra in ("", *extras), (*at, "extra"), what, f"extra fixes: {', '.join(extras) or 'none'}")
        need(folder.is_dir(), (*at, "source"), f"there is no folder overlays/{overlay.source}", f"create {folder}")
    python = recipe.environment.python
    need(
        re.fullmatch(r"3\.\d+", python), ("environment", "python"), f"bad Python {python!r}", 'write `python = "3.10"`'
    )
    _check_environments(recipe, source)
    options.check(recipe.option, recipe.profile, recipe.devices, source)
    _check_words(recipe, source)
    if recipe.smoke:
        proof.check(recipe.smoke, recipe.devices, [step.id for step in recipe.fix], source)
    cluster = recipe.cluster
    need(cluster.machines >= 1, ("cluster", "machines"), "machines must be at least 1", "")
    rank = ("cluster", "machine_rank")
    need(0 <= cluster.machine_rank < cluster.machines, rank, "machine_rank must be below machines", "")


def _check_environments(recipe: Recipe, source: Source) -> None:
    """Packages are for devices of the recipe; another torch is a choice of the option `torch`, whose default is the
    environment's own."""
    environment = recipe.environment
    tables: dict[tuple[str, ...], dict[str, dict[str, str]]] = {(): environment.device_packages}
    tables |= {("other", torch): each.device_packages for torch, each in environment.other.items()}
    for keys, table in tables.items():
        for device in table:
            if device not in recipe.devices:
                what, hint = f"device {device!r} is not one of the recipe's", f"supported: {', '.join(recipe.devices)}"
                raise source.complain(("environment", *keys, "device_packages", device), what, hint)
    option = next((each for each in recipe.option if each.name == TORCH), None)
    choices = {environment.packages.get("torch", ""), *environment.other}
    if environment.other and (not option or set(option.choices) != choices or option.default in environment.other):
        what = f"environment.other: there is no option `torch` that offers {', '.join(sorted(choices))}"
        hint = f"add an [[option]] `torch` with these choices and the default {environment.packages.get('torch', '')!r}"
        raise source.complain(("environment", "other"), what, hint)


def _check_words(recipe: Recipe, source: Source) -> None:
    """What the words of its check leave open is filled in."""
    places = {"device", "processes", *(option.name for option in recipe.option)}
    for word in recipe.check[1:]:
        try:
            fill(word, **dict.fromkeys(places, ""))
        except KeyError as error:
            name = error.args[0]
            what = f"check: {word!r}: nothing is called {name!r}{nearest(name, places)}"
            raise source.complain(("check",), what, f"there are: {', '.join(sorted(places))}") from None
        except (TypeError, ValueError) as error:
            what = f"check: {word!r}: {error}"
            raise source.complain(("check",), what, f"there are: {', '.join(sorted(places))}") from None


def _check_upstream(upstream: Upstream, at: tuple[str, int], folders: list[str], source: Source) -> None:
    if not NAME.fullmatch(upstream.name):
        hint = "it becomes a folder of the workspace: use a-z, 0-9, '.', '_' and '-'"
        raise source.complain((*at, "name"), f"bad upstream name {upstream.name!r}", hint)
    if upstream.name == lock.NAME:
        raise source.complain((*at, "name"), f"{upstream.name!r} is the workspace's own file", "rename the upstream")
    if folders.count(upstream.name) > 1:
        raise source.complain((*at, "name"), f"two upstreams share the folder {upstream.name!r}", "rename one of them")
    if not ID.fullmatch(upstream.pin):
        hint = f"pin the full 40-digit commit: git ls-remote {upstream.url} {upstream.pin}"
        if upstream.carried or upstream.sha256:
            hint = "write 40 zeros: `kit prepare` then says which commit its files make"
        raise source.complain((*at, "pin"), f"{upstream.pin!r} is not a full commit id", hint)
    for key, url in (("url", upstream.url), *(("alternates", url) for url in upstream.alternates)):
        if url.endswith(ARCHIVES) and not upstream.sha256:
            raise source.complain((*at, key), f"url {url!r} is an archive", "add `sha256 = …`, the digest of the file")
        if re.fullmatch(r"https://[!-~]+", url):
            continue
        if ":" in url or url.startswith("-") or not url:
            hint = "use https:// or a folder beside the recipe"
            raise source.complain((*at, key), f"url {url!r} is not https", hint)
        tree_path(url.removeprefix("/"), f"{source.path}:{source.line((*at, key))}: {key}")
    if upstream.sha256 and (upstream.carried or not re.fullmatch(r"[0-9a-f]{64}", upstream.sha256)):
        what = "a carried folder has no digest" if upstream.carried else f"{upstream.sha256!r} is no sha256 digest"
        raise source.complain((*at, "sha256"), what, "sha256sum ARCHIVE prints it: 64 hex digits")
    for folder in upstream.sparse:
        tree_path(folder, f"{source.path}:{source.line((*at, 'sparse'))}: sparse")


def _check_options(step: FixStep, at: tuple[str, int], source: Source) -> None:
    for key, value in step.options.items():
        try:
            fill(value, device=profiles.load(profiles.names()[0]))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            hint = "a fact of the device is written {device.device}; braces are doubled: {{ }}"
            raise source.complain((*at, "options"), f"fix {step.id}: option {key}: {value!r}: {error}", hint) from None


def _check_use(
    upstream: str,
    used_on: tuple[str, ...],
    paths: tuple[TreePath, ...],
    at: tuple[str, int],
    folders: list[str],
    recipe: Recipe,
    source: Source,
) -> None:
    """What fixes and overlays have in common: a known upstream, supported devices, paths inside the tree."""
    if not upstream:
        raise source.complain(
            at, f"[[{at[0]}]] does not say which upstream", f"add `upstream = …`: {', '.join(folders)}"
        )
    if upstream not in folders:
        hint = f"upstreams here: {', '.join(folders)}"
        raise source.complain((*at, "upstream"), f"unknown upstream {upstream!r}{nearest(upstream, folders)}", hint)
    for device in used_on:
        if device not in recipe.devices:
            hint = f"supported: {', '.join(recipe.devices)}"
            raise source.complain((*at, "devices"), f"device {device!r} is not one of the recipe's", hint)
    for path in paths:
        tree_path(path, f"{source.path}:{source.line(at)}: {at[0]}")
