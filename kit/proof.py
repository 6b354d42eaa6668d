"""How a recipe is proven by running it: the steps of its smoke run, the trainings parity compares, and its reds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from kit.schema import Source, nearest

COMPARISONS = {
    "upstream": "the port against upstream, one process",
    "processes": "several processes against one",
    "resumed": "resumed against uninterrupted",
}
ENGINES = ("deepspeed", "fsdp", "oss")  # what shards a training over processes


@dataclass(frozen=True)
class SmokeStep:
    """A command of the smoke run and what it must show. In its strings `{tiny}` is the folder of the tiny model and
    data, `{out}` an empty folder of this smoke run, `{device}` the torch device."""

    name: str
    run: tuple[str, ...]  # a word `@name` stands for those of the smoke run's `words`
    environment: dict[str, str] = field(default_factory=dict)  # variables of this command
    copy: dict[str, str] = field(default_factory=dict)  # from, to: before the command
    losses: int = 0  # steps whose loss is logged, each finite
    like: str = ""  # an earlier step: the losses of the same steps are equal
    like_within: float = 0.0  # relative: by so much they may differ, where sums are taken in another order
    like_on: tuple[str, ...] = ()  # the devices where they can be; none: on all
    unlike: str = ""  # an earlier step: some loss of the same steps differs
    engine: str = ""  # what trains, as the run itself says: one of ENGINES
    events: str = ""  # the folder whose tensorboard logs hold them
    moved: str = ""  # a LoRA file: all its tensors that start at zero have moved
    moved_from: str = ""  # not a LoRA: the file `moved` was trained from, whose tensors have all moved
    idle: str = ""  # a regular expression: tensors of these names get no gradient, or are none of a model's weights
    images: str = ""  # a folder: it holds images, none of one colour
    files: tuple[str, ...] = ()  # are there afterwards
    absent: tuple[str, ...] = ()  # are not
    prints: dict[str, str] = field(default_factory=dict)  # what is found in the output, in words that follow "prints",
    # such as "the last loss": the regular expression that finds it
    requests: tuple[str, ...] = ()  # regular expressions of the hub requests that are allowed
    calls: tuple[str, ...] = ()  # functions of the device package that are called, where there is one
    limit: int = 240  # seconds
    devices: tuple[str, ...] = ()  # only on these; none: on all
    extra: str = ""  # only in a workspace with this extra fix


@dataclass(frozen=True)
class Undo:
    """Text that takes out what upstream has already, to show the failure it prevents."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Red:
    """Without ``fix`` these smoke steps, or comparisons of these parity cases, fail, and ``shows`` (a regular
    expression) is found in the failure."""

    fix: str
    shows: str
    steps: tuple[str, ...] = ()
    parity: tuple[str, ...] = ()
    compare: tuple[str, ...] = ("processes",)  # with `parity`: which of COMPARISONS
    devices: tuple[str, ...] = ()  # where the failure can be shown; none: everywhere
    undo: tuple[Undo, ...] = ()
    attempts: int = 1  # for a race
    limit: int = 0  # seconds for each step, where less will do than in the smoke run
    online: bool = False  # what fails asks the hub: not under HF_HUB_OFFLINE=1, and so in processes of its own


@dataclass(frozen=True)
class ParityCase:
    """A training that is run several times and compared (kit/smoke/parity.py). In its strings, beside those of a smoke
    step, `{processes}`, `{batch}` (images a process takes at once), `{accumulation}`, `{steps}`, `{every}` (steps
    between checkpoints) and `{step}` (of a checkpoint) are filled in; `{out}` is the folder of the run."""

    name: str
    run: tuple[str, ...]
    trained: str  # the safetensors file that holds what was trained
    upstream: tuple[str, ...] = ()  # the command in the tree without fixes, where it is another
    upstream_with: tuple[str, ...] = ()  # fixes that tree needs to run at all: it keeps them
    images: int = 8  # of its data set
    processes: int = 2  # how many are compared with one
    batch: int = 2  # images each of them takes at once
    one: tuple[str, ...] = ("batch", "accumulation")  # what one process takes more of, to equal several
    restarts: bool = False  # whether it starts its loader anew for each batch, so that epochs are counted by images
    within: float = 1e-4  # relative: how far weights may be that were summed in another order
    engine: str = ""  # what several processes train with: one of ENGINES
    checkpoint: str = ""  # the folder of the checkpoint of `{step}`
    resume: tuple[str, ...] = ()  # words that go on from it
    resumed_on: tuple[
        str, ...
    ] = ()  # devices whose random states a checkpoint holds; elsewhere images alone are compared
    without: dict[str, str] = field(default_factory=dict)  # comparisons that cannot be made: why
    environment: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()  # only on these; none: on all
    extra: str = ""  # only in a workspace with this extra fix
    limit: int = 240  # seconds a run

    def on(self, device: str, extras: tuple[str, ...]) -> bool:
        return (not self.devices or device in self.devices) and (not self.extra or self.extra in extras)


@dataclass(frozen=True)
class Smoke:
    """How the port is proven by running it: a tiny model family (kit/smoke/tiny) and the steps, in order."""

    tiny: str
    folder: str  # where the commands run, in the workspace
    step: tuple[SmokeStep, ...]
    red: tuple[Red, ...] = ()
    parity: tuple[ParityCase, ...] = ()
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what several commands have in common
    words_on: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # by device, instead of those
    modules: str = ""  # a folder of Python modules all commands see, as on PYTHONPATH
    imports: tuple[str, ...] = ()  # what the steps import, modules or names in them: once for all; none: each anew

    def command(self, run: tuple[str, ...], device: str) -> list[str]:
        """The command ``run``, with the words its `@name` stands for on ``device``, theirs included."""
        words = {**self.words, **self.words_on.get(device, {})}
        parts = [self.command(words[word[1:]], device) if word.startswith("@") else [word] for word in run]
        return [word for part in parts for word in part]

    def steps(self, device: str, extras: tuple[str, ...] = ()) -> tuple[SmokeStep, ...]:
        """The steps for one device, and a workspace with these extra fixes."""
        return tuple(
            step
            for step in self.step
            if (not step.devices or device in step.devices) and (not step.extra or step.extra in extras)
        )


def check(smoke: Smoke, devices: tuple[str, ...], fixes: list[str], source: Source) -> None:
    """What the steps, parity cases and reds name is there: words, steps before them, cases, fixes, devices, engines,
    comparisons. Raises KitError with the line."""

    def need(name: str, known: Iterable[str], what: str, hint: str, *at: str | int) -> None:
        """``name`` is one of ``known``; ``what`` says that it is not, after the name in quotes."""
        if name not in known:
            said = what.format(f"{name!r}") + nearest(name, known)
            raise source.complain(("smoke", *at), said, f"{hint}: {', '.join(known) or 'none before it'}")

    def need_words(run: tuple[str, ...], known: Iterable[str], who: str, *at: str | int) -> None:
        for word in run:
            if word.startswith("@"):
                need(word[1:], known, f"{who}: no words {{}}", "there are", *at)

    steps = [step.name for step in smoke.step]
    cases = [case.name for case in smoke.parity]
    names = list(smoke.words)
    for name in smoke.imports:
        if not all(part.isidentifier() for part in name.split(".")):
            what = f"imports: {name!r} is no module's name"
            raise source.complain(("smoke", "imports"), what, 'write `imports = ["torch", "diffusers.UNet2DModel"]`')
    for number, (name, words) in enumerate(smoke.words.items()):
        need_words(words, names[:number], f"words {name}, above them", "words", name)
    for device, tables in smoke.words_on.items():
        need(device, devices, "device {} is not one of the recipe's", "supported", "words_on", device)
        for name, words in tables.items():
            need(name, names, "no words {} on other devices", "there are", "words_on", device, name)
            need_words(words, names[: names.index(name)], f"words {name}, above them", "words_on", device, name)

    def need_expression(expression: str, who: str, *at: str | int) -> None:
        try:
            re.compile(expression)
        except re.error as error:
            what = f"{who}: {expression!r} is no regular expression: {error}"
            raise source.complain(("smoke", *at), what, "a backslash before what is meant literally") from None

    for index, step in enumerate(smoke.step):
        for key, expressions in (("idle", [step.idle]), ("prints", step.prints.values()), ("requests", step.requests)):
            for expression in expressions:
                need_expression(expression, f"step {step.name}: {key}", "step", index, key)
        need_words(step.run, names, f"step {step.name}", "step", index, "run")
        for key in ("like", "unlike"):
            if before := getattr(step, key):
                need(
                    before, steps[:index], f"step {step.name}: no step {{}} before it", "its steps", "step", index, key
                )
    for index, case in enumerate(smoke.parity):
        for key in ("run", "upstream", "resume"):
            need_words(getattr(case, key), names, f"parity {case.name}", "parity", index, key)
        for name in case.upstream_with:
            need(name, fixes, f"parity {case.name}: no fix {{}}", "its fixes", "parity", index, "upstream_with")
        for name in case.without:
            need(name, COMPARISONS, f"parity {case.name}: no comparison {{}}", "there are", "parity", index, "without")
    for index, case in enumerate(smoke.parity):
        for device in case.resumed_on:
            need(device, devices, "device {} is not one of the recipe's", "supported", "parity", index, "resumed_on")
    for kind in ("step", "parity"):
        for index, entry in enumerate(getattr(smoke, kind)):
            if entry.engine:
                need(entry.engine, ENGINES, f"{kind} {entry.name}: no engine {{}}", "there are", kind, index, "engine")
    for index, red in enumerate(smoke.red):
        need(red.fix, fixes, "red for {}, which is no fix of the recipe", "its fixes", "red", index, "fix")
        for key, known, word in (
            ("steps", steps, "step"),
            ("parity", cases, "parity case"),
            ("compare", COMPARISONS, "comparison"),
        ):
            for name in getattr(red, key):
                hint = "there are" if key == "compare" else f"its {word}s"
                need(name, known, f"red for {red.fix}: no {word} {{}}", hint, "red", index, key)
        need_expression(red.shows, f"red for {red.fix}: shows", "red", index, "shows")
        if not red.steps and not red.parity:
            raise source.complain(("smoke", "red", index), f"red for {red.fix} runs nothing", "add `steps` or `parity`")
    for kind in ("step", "parity", "red"):
        for index, entry in enumerate(getattr(smoke, kind)):
            for device in entry.devices:
                need(device, devices, "device {} is not one of the recipe's", "supported", kind, index, "devices")
