"""What a training's output says of it: seconds a step, images a second, loss, and what the figure contains.

    images a second = batch x processes x accumulation / mean seconds of a step

The mean is over the steps after the first 100, or, of a run of up to 100 steps, over its second half: the first steps
compile and warm up. Steps that a checkpoint or a validation was made in are apart, as far as the output says so.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field

BAR = re.compile(r"(?<!\d)(\d{1,9})/(\d{1,9})(?: \[([^\]]*)\]|(?= loss=| *$))")
LOSS = re.compile(r" (?:step_)?loss=([^],\s]*)")
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
RATE = re.compile(rf"({NUMBER})(s/it|it/s)")
VALIDATION_LOSS = re.compile(rf"(?:val(?:idation)?|eval)[_ ]loss[=: ]+([+-]?{NUMBER})", re.IGNORECASE)
# What the training scripts say as they do it (accelerate's checkpointing.py, upstream's log_validation, sd-scripts).
APART = {
    "checkpoint": re.compile(
        r"Saving current state to|Saved state to|saving checkpoint|save(?:d)? state|Saving checkpoint", re.I
    ),
    "validation": re.compile(r"Running validation|generating sample images|validation images", re.I),
}


@dataclass
class Steps:
    """The steps of a run, from its output: feed it line by line (a bar that is drawn anew is a line).

    tqdm's figure (s/it or it/s) is smoothed: after k steps it is z(k) / (1 - 0.7^k) with z(k) = 0.3 x(k) + 0.7 z(k-1)
    (tqdm/std.py, class EMA). Undone here, so that a slow first step does not weigh on the ones that count. A bar with
    smoothing=0 shows the mean since its start instead: with ``mean`` a step is what the whole time has grown by. A bar
    that starts at a later step, in a run that goes on, is first drawn there, without a figure."""

    mean: bool = False
    seconds: list[tuple[int, float]] = field(default_factory=list)  # step, what it took
    losses: dict[int, str] = field(default_factory=dict)
    validation_losses: dict[int, float] = field(default_factory=dict)
    apart: dict[int, str] = field(default_factory=dict)  # step: what else was done in it
    last: int = -1
    total: int = 0
    _first: int = 0
    _fade: float = 1.0
    _smooth: float = 0.0
    _whole: float = 0.0
    _clock: float = 0.0

    def feed(self, line: str) -> None:
        before, bar = self._split(line)
        for kind, pattern in APART.items():
            if pattern.search(before):
                self.apart[max(self.last, 0) + 1] = kind
        said = VALIDATION_LOSS.search(line)
        if said and math.isfinite(float(said[1])):
            self.validation_losses[max(self.last, 0)] = float(said[1])
        found = BAR.search(bar)
        if found:
            bare = found[3] is None
            self._step(int(found[1]), int(found[2]), bar[found.start() :] if bare else found[3], bare)

    @staticmethod
    def _split(line: str) -> tuple[str, str]:
        """A line before its progress bar, and that bar, which scripts call Steps or steps; "" where there is none."""
        at = line.lower().rfind("steps:")
        return (line, "") if at < 0 else (line[:at], line[at + 6 :])

    def _step(self, step: int, total: int, shown: str, bare: bool) -> None:
        if step > total:
            return
        self.total = total
        rate = RATE.search(shown)
        figure = float(rate[1]) if rate else 0.0
        taken = figure if rate and rate[2] == "s/it" else 1 / figure if figure else 0.0
        if bare:  # it has no figure: by the clock
            now = time.monotonic()
            taken, self._clock = (now - self._clock) / max(step - max(self.last, 0), 1) if self._clock else 0.0, now
        if step < self.last:  # a second bar: the run started anew
            self.last, self.seconds, self.losses, self.apart = -1, [], {}, {}
        if self.last < 0:
            self.last, self._first = (step - 1, 0) if taken > 0 else (step, step)
            self._fade, self._smooth, self._whole = 1.0, 0.0, 0.0
        loss = LOSS.search(f" {shown}")
        if loss:
            self.losses[step] = loss[1]
        if step == self.last or taken <= 0:
            return
        count = step - self.last
        if self.mean:
            whole = taken * (step - self._first)
            taken, self._whole = (whole - self._whole) / count, whole
        else:
            self._fade *= 0.7
            before, self._smooth = self._smooth, taken * (1 - self._fade)
            one = (self._smooth - 0.7 * before) / 0.3
            taken = one if count == 1 and one > 0 and not bare else taken  # steps that went by undrawn: as it is shown
        self.seconds += [(self.last + number, taken) for number in range(1, count + 1)]
        self.last = step

    @property
    def steady(self) -> list[tuple[int, float]]:
        """The steps that the figure is taken from."""
        skip = 100 if len(self.seconds) > 100 else len(self.seconds) // 2
        counted = self.seconds[skip:]
        return [each for each in counted if each[0] not in self.apart] or counted

    @property
    def loss(self) -> str:
        """The last one, as it was printed."""
        return self.losses[max(self.losses)] if self.losses else ""


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class Shape:
    """What a step is made of, and how, for the figure and the line of settings."""

    batch: int
    processes: int
    accumulation: int
    words: tuple[str, ...] = ()  # the settings, in the words of published figures
    cached: bool | None = None  # whether latents were cached; None: there is no such setting

    @property
    def images(self) -> int:
        return self.batch * self.processes * self.accumulation


def lines(steps: Steps, shape: Shape, waits: list[float], seconds: int) -> list[str]:
    """The report: what was measured, images a second, the loss, with which settings, how long. ``waits`` are the
    seconds that process 0 waited for each batch, none where that was not watched; ``seconds`` is the whole duration."""
    unknown = "unknown (no training step in the log)"
    taken = computing(steps, shape, waits)
    figure = f"{shape.images / taken:.4g}" if taken > 0 else unknown
    told = [f"Measured : {', '.join(contains(steps, shape, waits))}"] if taken > 0 else []
    cards = f"{shape.processes} card{'s' * (shape.processes != 1)}"
    return [
        *told,
        f"Final Performance images/sec : {figure}",
        f"Final Train Loss : {steps.loss or unknown}",
        f"Settings : {', '.join((cards, f'batch {shape.batch}', *shape.words))}",
        f"E2E Training Duration sec : {seconds}",
    ]


def waiting(steps: Steps, shape: Shape, waits: list[float]) -> float:
    """Seconds of a step, among those the figure is taken from, that process 0 waited for data."""
    return mean(waits[-len(steps.steady) * shape.accumulation :]) * shape.accumulation if waits else 0.0


def computing(steps: Steps, shape: Shape, waits: list[float]) -> float:
    """Seconds of a step without data loading, checkpoints and validations; 0 where there was no step."""
    taken = mean([each for _, each in steps.steady])
    return max(taken - waiting(steps, shape, waits), taken / 100)


def contains(steps: Steps, shape: Shape, waits: list[float]) -> list[str]:
    """What the figure is the mean of, and what is not in it, in a few words each."""
    counted, all_of = steps.steady, [each for _, each in steps.seconds]
    taken = mean([each for _, each in counted])
    among = f"{len(counted)} step{'s' * (len(counted) > 1)} from step {counted[0][0]} on"
    told = [f"{among}, {computing(steps, shape, waits):.3g} s each"]
    told.append(f"not in it {waiting(steps, shape, waits):.2g} s a step for data" if waits else "data loading in it")
    for kind in APART:
        inside = [each for step, each in steps.seconds if steps.apart.get(step) == kind]
        if inside:
            more = sum(inside) - taken * len(inside)
            told.append(f"not in it {len(inside)} {kind}{'s' * (len(inside) > 1)} ({max(more, 0):.3g} s)")
    if shape.cached is not None:
        told.append("latents cached" if shape.cached else "latents not cached")
    if all_of and mean(all_of) > 0:
        told.append(f"with all of it {shape.images / mean(all_of):.4g} images/sec")
    return told


def numbers(steps: Steps, shape: Shape, waits: list[float], seconds: int) -> dict[str, object]:
    """The same as data, for the file beside the log."""
    taken = computing(steps, shape, waits)
    return {
        "images_per_second": shape.images / taken if taken > 0 else None,
        "images_a_step": shape.images,
        "settings": list(shape.words),
        "latents_cached": shape.cached,
        "seconds": seconds,
        "steps": [[step, round(each, 4), steps.losses.get(step)] for step, each in steps.seconds],
        "apart": {str(step): kind for step, kind in steps.apart.items()},
        "validation_losses": {str(step): loss for step, loss in steps.validation_losses.items()},
        "waited_for_data": [round(each, 5) for each in waits],
    }
