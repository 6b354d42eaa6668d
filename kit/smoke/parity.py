"""The level parity: the port trains what upstream trains, several processes what one does, resumed what uninterrupted.

Each case of the recipe is trained several times on the tiny model, watched from outside (`instrument/`). Compared are:

- upstream: the tree without fixes (but for `upstream_with`, those it needs to run at all) and the port, in one process.
  Fixes that mean to change something (`CHANGES` in their module) are left out of the port for it; what is left must be
  equal to the last bit. With all fixes in, the difference is shown, and held to what those fixes allow (`WITHIN`).
- processes: every image once an epoch over all of them, each with its own caption, no noise drawn twice; and, with
  noise and order that depend on the image alone, the weights of one process with the larger batch, and of one that
  accumulates.
- resumed: from a checkpoint in mid-epoch and from one at an epoch's end, the losses and weights of the run that was
  not interrupted, in one process and in several.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit.paths import TreePath
from kit.proof import COMPARISONS, ParityCase
from kit.smoke import run as smoke
from kit.smoke import scratch, watched
from kit.smoke.ground import Run
from kit.smoke.watched import Rank

Files = Mapping[str, Mapping[TreePath, bytes]]


@dataclass(frozen=True)
class Row:
    """One line of the table: what two runs (or one) of a case showed. ``ok`` None: not compared, and why."""

    case: str
    comparison: str
    what: str
    ok: bool | None
    seen: str


@dataclass(frozen=True)
class Trained:
    """A run of a case that ended: what was seen of each rank, the file of what it trained, its output folder."""

    ranks: tuple[Rank, ...]
    trained: Path
    out: Path

    @property
    def losses(self) -> tuple[tuple[str, ...], ...]:
        return tuple(rank.losses for rank in self.ranks)


@dataclass(frozen=True)
class Shape:
    """How a case is trained: images a process takes at once (``batch``), batches before a step (``accumulation``),
    steps in all, steps between checkpoints (``every``)."""

    processes: int
    batch: int
    accumulation: int
    steps: int
    every: int

    @staticmethod
    def of(case: ParityCase, processes: int = 1, accumulation: int = 1, epochs: int = 2, every: int = 1000) -> Shape:
        """Whatever the shape, a step takes as many images: what all processes together take."""
        share = processes * accumulation
        return Shape(processes, case.batch * case.processes // share, accumulation, epochs * _epoch(case), every)


def _epoch(case: ParityCase) -> int:
    """The steps of an epoch."""
    return -(-case.images // (case.batch * case.processes))


class Failed(Exception):
    """A run of a case did not end well; the message says how."""


def parity(run: Run, files: Files, cases: tuple[str, ...] = (), kinds: tuple[str, ...] = ()) -> Iterator[Row]:
    """Compare the runs of each case (those named, or all), in the comparisons named, or all. ``files``: for each
    upstream, the fixed files as they are at the pin."""
    compare: dict[str, Callable[[Run, ParityCase, Files], Iterator[Row]]]
    compare = {"upstream": _upstream, "processes": _processes, "resumed": _resumed}
    plan = run.recipe.smoke.parity if run.recipe.smoke else ()
    for case in plan:
        if (cases and case.name not in cases) or not case.on(run.device.name, run.recipe.extras):
            continue
        for kind, rows in compare.items():
            if kinds and kind not in kinds:
                continue
            if reason := case.without.get(kind):
                yield Row(case.name, kind, COMPARISONS[kind], None, reason)
                continue
            try:
                yield from rows(run, case, files)
            except Failed as failure:
                yield Row(case.name, kind, COMPARISONS[kind], False, str(failure))


# ---- The three comparisons ----


def _upstream(run: Run, case: ParityCase, files: Files) -> Iterator[Row]:
    shape = Shape.of(case)
    chosen = [step for step in run.recipe.fix if run.recipe.chosen(step, run.device.name)]
    meant = [step for step in chosen if step.changes and step.id not in case.upstream_with]
    bounded = {step.id: step.within for step in meant if step.within}
    theirs_are = "upstream" + _named("with", case.upstream_with)
    with scratch.without(run, [step.id for step in run.recipe.fix if step.id not in case.upstream_with], files) as bare:
        theirs = _train(bare, case, "upstream", shape, words=case.upstream)
        less = [step.id for step in meant]
        ours = _less(run, case, files, less)
        yield _same(
            case, "upstream", f"the port{_named('without', less)} trains what {theirs_are} trains", theirs, ours, run
        )
        if bounded:
            less = [step.id for step in meant if step.id not in bounded]
            ours = _less(run, case, files, less)
            far, allowed = _loss_distance(theirs, ours), sum(bounded.values())
            good = far <= allowed and watched.order(theirs.ranks) == watched.order(ours.ranks)
            seen = f"losses differ by {far:.1e} (within {allowed:.0e}: {', '.join(bounded)})"
            what = f"the port{_named('without', less)} trains what {theirs_are} trains, but for rounding"
            yield Row(case.name, "upstream", what, good, seen)
    for step in meant:
        yield Row(case.name, "upstream", f"{step.id} is left out above", None, step.changes)


def _less(run: Run, case: ParityCase, files: Files, fixes: Sequence[str]) -> Trained:
    """Train the port less some of its fixes."""
    if not fixes:
        return _train(run, case, "port", Shape.of(case))
    with scratch.without(run, fixes, files) as copy:
        return _train(replace(copy, out=run.out), case, f"less-{len(fixes)}", Shape.of(case))  # the copy goes


def _named(word: str, fixes: Sequence[str]) -> str:
    """The word and these fixes, to be put behind what they are fixes of; nothing where there are none."""
    return f" {word} {', '.join(fixes)}" if fixes else ""


def _processes(run: Run, case: ParityCase, files: Files) -> Iterator[Row]:
    def row(what: str, found: tuple[bool, str]) -> Row:
        return Row(case.name, "processes", f"{case.processes} processes {what}", *found)

    if case.processes == 1:
        yield Row(case.name, "processes", COMPARISONS["processes"], None, "the case is of one process")
        return
    natural = _train(run, case, "natural", Shape.of(case, case.processes))
    counted = watched.in_epochs(natural.ranks, _epoch(case)) if case.restarts else natural.ranks
    yield row("take each image once an epoch", watched.coverage(counted, case.images))
    yield row("give each image its own caption", watched.captions(natural.ranks))
    yield row("draw noise of their own", watched.noise(natural.ranks))
    if case.engine:
        yield row(f"train with {case.engine}", watched.engine(natural.ranks, case.engine))
    if not case.one:
        return
    several = _train(run, case, "several", Shape.of(case, case.processes), by_image=True)
    ones = {
        "batch": (f"one with {case.processes} times the batch", Shape.of(case)),
        "accumulation": (f"one that accumulates {case.processes} batches", Shape.of(case, accumulation=case.processes)),
    }
    for name in case.one:
        what, shape = ones[name]
        one = _train(run, case, name, shape, by_image=True)
        yield _near(case, f"{case.processes} processes train what {what} trains", several, one, run)


def _resumed(run: Run, case: ParityCase, files: Files) -> Iterator[Row]:
    if not case.checkpoint:
        yield Row(case.name, "resumed", COMPARISONS["resumed"], None, "the recipe names no checkpoint")
        return
    epoch = _epoch(case)
    for processes in dict.fromkeys((1, case.processes)):
        shape = Shape.of(case, processes, epochs=3, every=1)
        whole = _train(run, case, f"whole-{processes}", shape)
        # Not the first epoch's end: there a script may validate, whatever it is told, and draw random numbers for that.
        for at, where in ((2 * epoch, "an epoch's end"), (epoch + 1, "mid-epoch")):
            name = f"resumed-{processes}-{at}"
            given = _folder(run, case, name)
            shutil.rmtree(given, ignore_errors=True)
            checkpoint, *resume = (word.replace("{step}", str(at)) for word in (case.checkpoint, *case.resume))
            shutil.copytree(_fill(run, checkpoint, whole.out), _fill(run, checkpoint, given))
            end = case.run.index("--") if "--" in case.run else len(case.run)  # below it are the training script's own
            words = (*case.run[:end], *resume, *case.run[end:])
            again = _train(run, case, name, shape, words=words, fresh=False)
            cut = replace(whole, ranks=tuple(_from(rank, len(rank.losses) * at // shape.steps) for rank in whole.ranks))
            who = f"{processes} processes go" if processes > 1 else "1 process goes"
            what = f"{who} on from {where} (step {at} of {shape.steps})"
            if case.resumed_on and run.device.name not in case.resumed_on:
                good = watched.order(cut.ranks) == watched.order(again.ranks)
                seen = "the same images in order; its random state is in no checkpoint, so noise and losses are others"
                yield Row(case.name, "resumed", what, good, seen if good else "other images, or in another order")
            else:
                yield _same(case, "resumed", what, cut, again, run)


def _from(rank: Rank, number: int) -> Rank:
    return replace(rank, losses=rank.losses[number:], forwards=rank.forwards[number:])


# ---- Running a case ----


def _train(
    run: Run,
    case: ParityCase,
    name: str,
    shape: Shape,
    *,
    words: tuple[str, ...] = (),
    by_image: bool = False,
    fresh: bool = True,
) -> Trained:
    """Train a case, watched; ``words`` instead of those of the case. Raises Failed."""
    out = _folder(run, case, name)
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    counts = dataclasses.asdict(shape)
    command = [_fill(run, word, out, counts) for word in run.smoke.command(words or case.run, run.device.name)]
    events = run.out / "watched" / out.name
    log = run.out / "logs" / f"{out.name}.log"
    variables = {**case.environment, **smoke.instrument(events, "image" if by_image else "")}
    done = smoke.start(run, command, variables, log, case.limit)
    if done.status is None:
        raise Failed(f"{name}: it hung, and was ended after {case.limit} s (log: {log})")
    if done.status:
        raise Failed(f"{name}: exit {done.status}: {done.last_error()} (log: {log})")
    ranks = watched.read(events)
    if len(ranks) != shape.processes:
        raise Failed(f"{name}: {len(ranks)} processes trained, not {shape.processes} (log: {log})")
    if not all(rank.losses for rank in ranks):
        raise Failed(f"{name}: no loss was sent backward (log: {log})")
    return Trained(ranks, Path(_fill(run, case.trained, out)), out)


def _folder(run: Run, case: ParityCase, name: str) -> Path:
    """Where a run of a case writes."""
    return run.out / re.sub(r"[^\w.-]+", "-", f"{case.name}-{name}")


def _fill(run: Run, text: str, out: Path, counts: Mapping[str, int] | None = None) -> str:
    for key, value in (counts or {}).items():
        text = text.replace(f"{{{key}}}", str(value))
    return run.fill(text.replace("{out}", str(out)))


# ---- Comparing ----


def _same(case: ParityCase, comparison: str, what: str, wanted: Trained, found: Trained, run: Run) -> Row:
    """Equal to the last bit: losses, images in order, trained tensors."""
    wrong = []
    for rank, (theirs, ours) in enumerate(zip(wanted.losses, found.losses, strict=True)):
        if theirs != ours:
            at = next((at for at, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), -1)
            pair = f"loss {at + 1} is {float.fromhex(ours[at]):.6g}, not {float.fromhex(theirs[at]):.6g}"
            wrong.append(f"rank {rank}: {pair if at >= 0 else f'{len(ours)} losses, not {len(theirs)}'}")
    theirs_order, ours_order = watched.order(wanted.ranks), watched.order(found.ranks)
    if theirs_order != ours_order:
        wrong.append("other images, or in another order")
    apart = _apart(run, wanted, found)
    if apart["equal"] != apart["tensors"]:
        wrong.append(
            f"{apart['tensors'] - apart['equal']} of {apart['tensors']} tensors differ, by up to {apart['far']:.1e}"
        )
    images = sum(len(step) for step in ours_order)
    seen = f"{sum(map(len, found.losses))} losses, {images} images, {apart['tensors']} tensors: equal to the last bit"
    return Row(case.name, comparison, what, not wrong, "; ".join(wrong) or seen)


def _near(case: ParityCase, what: str, wanted: Trained, found: Trained, run: Run) -> Row:
    """The same weights, but for sums taken in another order."""
    apart = _apart(run, wanted, found)
    seen = f"{apart['tensors']} tensors, relative distance {apart['far']:.1e} (within {case.within:.0e})"
    return Row(case.name, "processes", what, apart["far"] <= case.within, seen)


def _loss_distance(wanted: Trained, found: Trained) -> float:
    """The largest relative distance of two losses."""
    pairs = zip(wanted.ranks[0].losses, found.ranks[0].losses, strict=False)
    values = [(float.fromhex(one), float.fromhex(two)) for one, two in pairs]
    return max((abs(one - two) / (max(abs(one), abs(two)) or 1.0) for one, two in values), default=0.0)


def _apart(run: Run, wanted: Trained, found: Trained) -> dict[str, Any]:
    for each in (wanted, found):
        if not each.trained.is_file():
            raise Failed(f"nothing was trained: there is no {each.trained}")
    apart: dict[str, Any] = smoke.look(run, {"apart": [str(wanted.trained), str(found.trained)]})["apart"]
    return apart
