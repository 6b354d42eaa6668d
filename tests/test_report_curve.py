"""The curve of a training's losses."""

from __future__ import annotations

import math

import pytest
from test_report import Page, everything, made, step

from kit import report
from kit.report import curve


def test_curve_goes_through_every_loss() -> None:
    made = curve({"1": 2.0, "2": 4.0, "10": 3.0})
    points = [(point["x"], point["y"]) for point in made["points"]]
    assert [point["text"] for point in made["points"]] == ["step 1: 2", "step 2: 4", "step 10: 3"]
    assert made["lines"] == [" ".join(f"{x},{y}" for x, y in points)]
    xs, ys = zip(*points, strict=True)
    assert xs[1] - xs[0] == pytest.approx((xs[2] - xs[0]) / 9, abs=0.2)
    assert ys[1] < ys[2] < ys[0]  # 4 above 3 above 2
    assert [tick["text"] for tick in made["y"]] == ["2", "2.5", "3", "3.5", "4"]
    assert [tick["text"] for tick in made["x"]] == ["2", "4", "6", "8", "10"]
    assert made["wrong"] == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_loss_that_is_no_number_is_said_and_breaks_the_line(value: float | None) -> None:
    made = curve({"1": 2.0, "2": 2.5, "3": value, "4": 2.25})
    assert len(made["points"]) == 3
    assert len(made["lines"]) == 1  # the lone point after the gap has no line
    assert [each["text"] for each in made["wrong"]] == [f"step 3: {'nan' if value is None else value}"]


@pytest.mark.parametrize(
    "losses",
    [
        {"7": 2.5},
        {"7": math.nan},
        {"1": math.inf, "2": -math.inf},
        {"1": 0.0, "2": 0.0},
        {"1": 2.0, "2": 2.0000000000000004},
        {"1": 3.4e38, "2": -3.4e38},
        {"1": 1e-9, "2": 2e-9},
        {"1000000": 123456.5, "1000001": 123456.75},
        {str(number): 1 / (1 + number) for number in range(500)},
    ],
    ids=["one", "nan", "infinite", "zero", "flat", "huge", "tiny", "late", "long"],
)
def test_every_curve_stays_in_its_frame(losses: dict[str, float]) -> None:
    made = curve(losses)
    frame = made["frame"]
    assert len(made["points"]) + len(made["wrong"]) == len(losses)
    for each in (*made["points"], *made["wrong"]):
        assert frame["left"] <= each["x"] <= frame["right"]
    for point in made["points"]:
        assert frame["top"] <= point["y"] <= frame["bottom"]
    texts = [tick["text"] for tick in made["y"]]
    assert len(set(texts)) == len(texts) <= 8
    assert 1 <= len(made["x"]) <= 8
    assert bool(texts) == bool(made["points"])
    Page(report.html({**everything(), "runs": [step(losses=losses)]}))


def test_no_losses_no_curve() -> None:
    page = Page(report.html(made(runs=[step(losses={})])))
    assert page.all("svg") == []
