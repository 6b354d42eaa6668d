"""What a step of the smoke run had to show, in words for people, and whether it did."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.proof import SmokeStep
from kit.smoke import process
from kit.smoke.ground import Run


@dataclass(frozen=True)
class Finding:
    """One thing a step had to show, in words of which it is the subject ("ends with exit status 0"): whether it did,
    what was seen, and where it did not, exactly what was looked for."""

    what: str
    ok: bool
    seen: str = ""
    looked_for: str = ""

    @property
    def told(self) -> str:
        """In one line what was wrong."""
        more = "; ".join(filter(None, [self.seen, f"looked for {self.looked_for}" if self.looked_for else ""]))
        return f"{self.what} ({more})" if more else self.what


def findings(
    run: Run,
    step: SmokeStep,
    done: process.Done,
    looked: Mapping[str, Any],
    requests: list[str],
    before: Mapping[str, Mapping[str, float]],
) -> Iterator[Finding]:
    """What ``step`` had to show, now that it is ``done``: ``looked`` is what `look.py` read of it, ``requests``
    what was asked of the hub, ``before`` the losses of earlier steps, by step and number."""
    if done.status is None:
        yield Finding(f"ends within {step.limit} s", False, "it hung, and was ended")
    else:
        seen = "" if done.status == 0 else f"exit {done.status}: {done.last_error()}"
        yield Finding("ends with exit status 0", done.status == 0, seen)
    for what, expression in step.prints.items():
        found = bool(re.search(expression, done.text()))
        yield Finding(f"prints {what}", found, looked_for="" if found else expression)
    losses: Mapping[str, float] = looked.get("losses", {})
    if step.losses:
        finite = [value for value in losses.values() if math.isfinite(value)]
        shown = ", ".join(f"{number}: {value:.4g}" for number, value in losses.items())
        good = len(finite) == len(losses) == step.losses
        yield Finding(f"logs {step.losses} finite loss{'es' * (step.losses > 1)}", good, shown or "no loss was logged")
    if step.like and step.like_on and run.device.name not in step.like_on:
        yield Finding(
            f"goes on where step {step.like} was",
            min(losses, default="") > "1",
            f"from step {min(losses, default='none')}",
        )
    elif step.like:
        common = {number: before.get(step.like, {}).get(number) for number in losses}
        wrong = [number for number, value in common.items() if not _near(value, losses[number], step.like_within)]
        seen = f"steps {', '.join(wrong)} differ" if wrong else f"{len(common)} equal"
        yield Finding(f"has the losses of step {step.like}", bool(common) and not wrong, seen)
    if step.unlike:
        common = {number: before.get(step.unlike, {}).get(number) for number in losses}
        differ = [number for number, value in common.items() if value is not None and value != losses[number]]
        seen = f"{len(differ)} of {len(common)} losses differ"
        yield Finding(f"has other losses than step {step.unlike}", bool(differ), seen)
    if step.moved:
        found = looked.get("weights", {"tensors": 0, "moved": 0, "largest": 0.0})
        seen = f"{found['moved']} of {found['tensors']} moved, by up to {found['largest']:.2g}"
        yield Finding("moves the weights it trains", 0 < found["tensors"] == found["moved"], seen)
    if step.images:
        pictures = looked.get("images", [])
        seen = ", ".join(f"{picture['name']} spread {picture['spread']}" for picture in pictures) or "no image"
        good = bool(pictures) and all(picture["spread"] > 0 for picture in pictures)
        yield Finding("draws images, none of one colour", good, seen)
    for wanted, names in ((True, step.files), (False, step.absent)):
        for name in names:
            good = Path(run.fill(name)).exists() == wanted
            what = f"{_below(name)} is {'' if wanted else 'not '}there"
            yield Finding(what, good, looked_for="" if good else run.fill(name))
    asked = [request for request in requests if not any(re.search(allowed, request) for allowed in step.requests)]
    yield Finding(
        "asks nothing of the network", not asked, f"asked for {', '.join(dict.fromkeys(asked))}" if asked else ""
    )
    if step.calls and run.standin:
        counted = _calls(run)
        missing = [name for name in step.calls if not counted.get(name)]
        seen = ", ".join(f"{name} {count} times" for name, count in counted.items() if name in step.calls)
        yield Finding(f"calls {', '.join(step.calls)}", not missing, seen or "none was called")


def _below(name: str) -> str:
    """The place of a file in its step's folder, such as checkpoint-2 for `{out}/train/checkpoint-2`."""
    placed, _, rest = name.rpartition("}/")
    return (rest.partition("/")[2] or rest) if placed else name.strip("{}")


def _near(expected: float | None, value: float, within: float) -> bool:
    return expected is not None and math.isclose(expected, value, rel_tol=within)


def _calls(run: Run) -> dict[str, int]:
    """How often each function of the stand-in was called in this step, over all its processes."""
    counted: dict[str, int] = {}
    for line in run.calls.read_text("utf-8").splitlines() if run.calls.exists() else ():
        for name, count in json.loads(line)["calls"].items():
            counted[name] = counted.get(name, 0) + count
    return counted
