"""One self-contained HTML page of a report: no network, no script, light and dark, narrow and wide."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from kit import output
from kit.proof import COMPARISONS

FRAME = {"left": 50.0, "right": 348.0, "top": 14.0, "bottom": 150.0}  # where a curve is drawn, of 360 x 190


def html(report: Mapping[str, Any], template: str = "report.html.j2") -> str:
    """The page of one ``report``, of the shape that `kit verify --json` prints (a list of them); with another template,
    of what that one takes.

    The verdict comes first, with what qualifies it: a green through a stand-in, or one where nothing was run, never
    looks like a green on the device. Everything in the report is text to this page, never markup; terminal escapes
    and control characters are dropped, and what UTF-8 cannot say becomes a question mark. Raises
    jinja2.UndefinedError where the report lacks a key.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(code=_code, curve=curve, day=output.day, diff=_diff, short=_short)
    page = templates.get_template(template).render(report, comparisons=COMPARISONS)
    page = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", page.replace("\r\n", "\n").replace("\r", "\n"))
    page = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", page)
    return page.encode("utf-8", "replace").decode("utf-8")


def _code(text: str) -> Markup:
    """Escaped (unless it is markup), with what is `between backticks`, and --flags, as code; tags are left alone."""

    def each(found: re.Match[str]) -> str:
        if found["flag"]:
            return f'<code class="flag">{found["flag"]}</code>'
        return f"<code>{found['quoted']}</code>" if found["quoted"] else found[0]

    return Markup(re.sub(r"<[^>]*>|`(?P<quoted>[^`<>]+)`|(?<![\w-])(?P<flag>--[a-z][\w-]*)", each, str(escape(text))))


def _short(links: Markup) -> Markup:
    """Issues and pull requests by the names that GitHub has for them: diffusers/issues/2606 as diffusers#2606."""
    return Markup(re.sub(r">https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)<", r">\1#\2<", str(links)))


def _diff(text: str) -> Iterator[tuple[str, str]]:
    """Each line of a unified diff after its kind: meta (up to the first hunk), hunk, add, del or same.

    The lines of a hunk are counted, so that a removed `-- comment` is not taken for a header.
    """
    left = [0, 0]  # lines the hunk still has, of the old file and of the new one
    for line in text.rstrip("\n").split("\n"):
        if left == [0, 0]:
            hunk = re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line)
            left = [int(count or 1) for count in hunk.groups()] if hunk else left
            yield "hunk" if hunk else "meta", line
        else:
            kind = {"+": "add", "-": "del", "\\": "meta"}.get(line[:1], "same")
            left = [left[0] - (kind in ("del", "same")), left[1] - (kind in ("add", "same"))]
            yield kind, line


def curve(losses: Mapping[str, float | None]) -> dict[str, Any]:
    """Where to draw ``losses`` (by training step; at least one), in SVG user units within FRAME.

    ``points`` are the finite losses; ``lines`` join those that follow each other (as `points` of a polyline);
    ``wrong`` are the steps whose loss is not finite (None, as strict JSON has it, is nan); ``x`` and ``y`` are the
    ticks. Each point and tick has its text.
    """
    values = sorted((int(step), math.nan if loss is None else float(loss)) for step, loss in losses.items())
    finite = [loss for _, loss in values if math.isfinite(loss)]
    x_low, x_high = values[0][0], values[-1][0]
    y_low, y_high = _spread(min(finite, default=0.0), max(finite, default=1.0))
    y_ticks = _ticks(y_low, y_high) if finite else []

    def place(value: float, low: float, high: float, start: float, end: float) -> float:
        return round(start + (end - start) * ((value - low) / (high - low) if high > low else 0.5), 1)

    def x(step: float) -> float:
        return place(step, x_low, x_high, FRAME["left"] + 12, FRAME["right"] - 12)

    def y(loss: float) -> float:
        return place(loss, y_low, y_high, FRAME["bottom"] - 6, FRAME["top"] + 6)

    lines = []
    for good, group in itertools.groupby(values, lambda value: math.isfinite(value[1])):
        joined = [f"{x(step)},{y(loss)}" for step, loss in group] if good else []
        if len(joined) > 1:
            lines.append(" ".join(joined))
    return {
        "frame": FRAME,
        "points": [
            {"x": x(step), "y": y(loss), "text": f"step {step}: {loss:.5g}"}
            for step, loss in values
            if math.isfinite(loss)
        ],
        "lines": lines,
        "wrong": [{"x": x(step), "text": f"step {step}: {loss}"} for step, loss in values if not math.isfinite(loss)],
        "x": [{"at": x(step), "text": str(int(step))} for step in _ticks(x_low, x_high, least=1)],
        "y": [{"at": y(loss), "text": _digits(loss, y_ticks)} for loss in y_ticks],
    }


def _spread(low: float, high: float) -> tuple[float, float]:
    """A range that is not so thin that its ticks could not be told apart."""
    thin = 1e-3 * max(abs(low), abs(high)) or 1.0
    return (low - thin / 2, high + thin / 2) if high - low < thin else (low, high)


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """The multiples of a round number (1, 2 or 5 times a power of ten, at least ``least``) from low to high: 2 to 7."""
    rough = max((high - low) / 6, least)
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [number * unit for number in range(math.ceil(low / unit), math.floor(high / unit) + 1)]


def _digits(value: float, ticks: list[float]) -> str:
    """``value`` with the digits that tell ``ticks`` apart."""
    largest = max(abs(tick) for tick in ticks)
    digits = math.ceil(math.log10(largest / (ticks[1] - ticks[0]))) + 1
    return f"{value:.{max(digits, 5)}g}"
