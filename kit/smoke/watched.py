"""What the instrument (`instrument/kit_watch.py`) saw: its events as values, and what they say of a run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Images = frozenset[str]  # the digests of what one row was made from: an image, and one it is conditioned on


@dataclass(frozen=True)
class Row:
    """One row of what the trained model was given: the digests of its images and noise, and its captions."""

    images: Images
    captions: frozenset[str]
    noise: frozenset[str]


@dataclass(frozen=True)
class Forward:
    """A call of the trained model; ``epoch`` counts from 1 how often the loader was started."""

    epoch: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Rank:
    """One process: what the loader handed out together, what was trained on, the losses bit by bit (`float.hex`)."""

    handed_out: dict[Images, frozenset[str]]
    forwards: tuple[Forward, ...]
    losses: tuple[str, ...]
    engines: tuple[dict[str, object], ...] = ()


def read(prefix: Path) -> tuple[Rank, ...]:
    """The ranks of a run whose instrument wrote to ``prefix``.<rank>, in order."""
    files = sorted(prefix.parent.glob(f"{prefix.name}.*"), key=lambda path: int(path.suffix[1:]))
    return tuple(_rank(file) for file in files)


def _rank(file: Path) -> Rank:
    handed_out: dict[Images, frozenset[str]] = {}
    forwards: list[Forward] = []
    losses: list[str] = []
    engines: list[dict[str, object]] = []
    for line in file.read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "item":
            images = frozenset(event["images"])
            handed_out[images] = handed_out.get(images, frozenset()) | frozenset(event["captions"])
        elif event["event"] == "forward":
            rows = (Row(*(frozenset(row[key]) for key in ("images", "captions", "noise"))) for row in event["rows"])
            forwards.append(Forward(event["epoch"], tuple(rows)))
        elif event["event"] == "loss":
            losses.append(event["value"])
        elif event["event"] == "engine":
            engines.append(event)
    return Rank(handed_out, tuple(forwards), tuple(losses), tuple(engines))


def order(ranks: Sequence[Rank]) -> list[list[Images]]:
    """The images of each call of the trained model, in order; all ranks of a step together."""
    steps = zip(*(rank.forwards for rank in ranks), strict=False)
    return [[row.images for forward in step for row in forward.rows] for step in steps]


def epochs(ranks: Sequence[Rank]) -> dict[int, Counter[Images]]:
    """How often all ranks together used each image, by epoch."""
    found: dict[int, Counter[Images]] = {}
    for rank in ranks:
        for forward in rank.forwards:
            found.setdefault(forward.epoch, Counter()).update(row.images for row in forward.rows)
    return found


def in_epochs(ranks: Sequence[Rank], steps: int) -> tuple[Rank, ...]:
    """The ranks of a run that starts its loader anew for each batch, with epochs of as many calls of the model."""
    return tuple(
        replace(rank, forwards=tuple(replace(each, epoch=1 + at // steps) for at, each in enumerate(rank.forwards)))
        for rank in ranks
    )


def coverage(ranks: Sequence[Rank], images: int) -> tuple[bool, str]:
    """Whether in each whole epoch each of ``images`` was used once, and in a begun one at most once; in words."""
    counted = epochs(ranks)
    if not counted or any(not key for counter in counted.values() for key in counter):
        return (
            False,
            "no image reached the trained model" if not counted else "some rows come from no known image",
        )
    known = {key for rank in ranks for key in rank.handed_out}
    said, good = [], len(known) == images
    if not good:
        said.append(f"{len(known)} images were handed out, not {images}")
    for epoch, counter in counted.items():
        used, rows = len(counter), sum(counter.values())
        padding = max(0, rows - images)
        surplus = rows - used
        whole = epoch < max(counted) or rows >= images
        if surplus > padding or (whole and used < images):
            good = False
            said.append(f"epoch {epoch}: {used} of {images} images used, {surplus} times one again")
        elif padding:
            said.append(f"epoch {epoch}: padded with {padding}")
    each = f"{images} of {images} images once in each of {len(counted)} epochs"
    return good, "; ".join(said) if not good else "; ".join([each, *said])


def captions(ranks: Sequence[Rank]) -> tuple[bool, str]:
    """Whether each row has the captions that were handed out with its images; in words. What is tokenized may have a
    chat template around the caption."""
    given: dict[Images, frozenset[str]] = {}
    for rank in ranks:
        given.update(rank.handed_out)
    known = sorted(frozenset[str]().union(*given.values()), key=len, reverse=True)
    rows = [_captioned(row, known) for rank in ranks for forward in rank.forwards for row in forward.rows]
    if not rows or not all(row.captions for row in rows):
        blind = sum(not row.captions for row in rows)
        return False, f"{blind} of {len(rows)} rows have no caption that is known"
    wrong = [row for row in rows if given.get(row.images) != row.captions]
    if wrong:
        row = wrong[0]
        shown = f"{' '.join(sorted(row.captions))!r} where {' '.join(sorted(given.get(row.images, ())))!r} belongs"
        return False, f"{len(wrong)} of {len(rows)} rows have the caption of another image: {shown}"
    return True, f"{len(rows)} rows, each with its own caption"


def _captioned(row: Row, known: Sequence[str]) -> Row:
    """A row with the captions that its texts contain: the first of ``known``, longest first; else the text itself."""
    texts = row.captions
    return replace(row, captions=frozenset(next((each for each in known if each in text), text) for text in texts))


def noise(ranks: Sequence[Rank]) -> tuple[bool, str]:
    """Whether no two ranks drew the same noise in a step; in words."""
    drawn = [[{each for row in forward.rows for each in row.noise} for forward in rank.forwards] for rank in ranks]
    if not all(step for rank in drawn for step in rank):
        return False, "some step's noise is not known"
    shared = sum(len(one & other) for one, other in _pairs(drawn))
    total = len(set().union(*(step for rank in drawn for step in rank)))
    return not shared, f"{shared} of {total} draws on two ranks" if shared else f"{total} draws, no two ranks' the same"


def _pairs(drawn: Sequence[Sequence[set[str]]]) -> Iterator[tuple[set[str], set[str]]]:
    whole = [set().union(*steps) for steps in drawn]
    for number, one in enumerate(whole):
        for other in whole[number + 1 :]:
            yield one, other


_ENGINES = {"deepspeed": "DeepSpeedEngine", "fsdp": "FullyShardedDataParallel|FSDP", "oss": "ShardedDataParallel"}


def engine(ranks: Sequence[Rank], name: str) -> tuple[bool, str]:
    """Whether accelerate prepared every rank's model, or optimizer, for the engine ``name``; in words."""
    made = [
        {str(each["type"]), *map(str, each["models"]), *map(str, each["optimizers"])}  # type: ignore[call-overload]
        for rank in ranks
        for each in rank.engines
    ]
    seen = ", ".join(sorted(set().union(*made))) or "nothing was prepared"
    good = [any(re.match(_ENGINES[name], word) for word in words) for words in made]
    return bool(good) and sum(good) >= len(ranks), seen
