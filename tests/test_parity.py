"""The comparisons of parity, over a training that needs no torch: it writes what the instrument would see of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support

from kit import devices, recipes
from kit.environment import Environment
from kit.paths import TreePath
from kit.proof import ParityCase, Red, Smoke
from kit.recipe import FixStep
from kit.smoke import parity, red
from kit.smoke import run as smoke
from kit.smoke.ground import Run

# Eight images, in an order of each epoch's own; the loss of an image is its number, the weights the sum of what was
# trained. A checkpoint holds the weights and how far the run is.
TRAINING = """
import json, os, sys
from pathlib import Path
words = dict(word.split("=") for word in sys.argv[1:])
names = ("processes", "batch", "accumulation", "steps", "every")
processes, batch, accumulation, steps, every = (int(words[name]) for name in names)
out, fault = Path(words["out"]), words.get("fault", "")
out.mkdir(parents=True, exist_ok=True)
weights, done = 0.0, 0
if "resume" in words:
    weights, done = json.loads((out / f"checkpoint-{words['resume']}" / "state").read_text())
    done -= done % 2 if "replay" in fault else 0
a_step = processes * batch * accumulation
engine = {"event": "engine", "type": "DEEPSPEED", "models": ["DeepSpeedEngine"], "optimizers": []}
ranks = [[engine] for _ in range(processes)]
for step in range(done, steps):
    epoch, first = divmod(step * a_step, 8)
    taken = [(image * 3 + epoch) % 8 for image in range(first, first + a_step)]
    for rank, events in enumerate(ranks):
        mine = taken if processes == 1 else taken[rank::processes] if "shard" not in fault else taken[:batch]
        for image in mine:
            caption = image if "caption" not in fault else 7 - image
            noise = f"{image}-{epoch}" if "noise" not in fault else "same"
            row = {"images": [str(image)], "captions": [str(caption)], "noise": [noise]}
            events += [
                {"event": "item", "images": [str(image)], "captions": [str(image)]},
                {"event": "forward", "loader": 1, "epoch": epoch + 1, "rows": [row]},
                {"event": "loss", "value": float(image).hex()},
            ]
    weights += sum(taken) * (1.5 if "weights" in fault and processes > 1 else 1)
    if (step + 1) % every == 0:
        (out / f"checkpoint-{step + 1}").mkdir(exist_ok=True)
        (out / f"checkpoint-{step + 1}" / "state").write_text(json.dumps([weights, step + 1]))
(out / "trained.json").write_text(json.dumps([weights]))
for rank, events in enumerate(ranks):
    Path(os.environ["KIT_WATCH"] + f".{rank}").write_text("".join(json.dumps(each) + "\\n" for each in events))
"""

COUNTS = ("processes", "batch", "accumulation", "steps", "every")
CASE = ParityCase(
    name="it",
    run=("python", "train.py", *(f"{name}={{{name}}}" for name in COUNTS), "out={out}"),
    trained="{out}/trained.json",
    engine="deepspeed",
    checkpoint="{out}/checkpoint-{step}",
    resume=("resume={step}",),
)


def look(run: Run, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """In the place of look.py, whose `apart` reads safetensors."""
    one, two = (json.loads(Path(file).read_text()) for file in wanted["apart"])
    far = max(abs(a - b) / max(abs(a), abs(b), 1) for a, b in zip(one, two, strict=True))
    return {"apart": {"tensors": 1, "equal": int(one == two), "far": far}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(smoke, "look", look)
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    support.write(tmp_path, {"up/train.py": TRAINING})
    (tmp_path / "out").mkdir()
    made = Environment(tmp_path / "env", "demo", "cpu", str(tmp_path))
    found = replace(recipes.load("demo"), fix=(FixStep("weights-pop", (TreePath("train.py"),), "up"),))
    plan = Smoke("none", "up", (), parity=(CASE,))
    found = replace(found, smoke=plan)
    return Run(found, plan, devices.load("cpu"), made, tmp_path / "up", tmp_path / "out", tmp_path, {})


def with_case(given: Run, **values: Any) -> Run:
    plan = replace(given.smoke, parity=(replace(CASE, **values),))
    return replace(given, smoke=plan, recipe=replace(given.recipe, smoke=plan))


def wrong(run: Run, *kinds: str) -> dict[str, str]:
    return {row.what: row.seen for row in parity.parity(run, {}, kinds=kinds) if row.ok is False}


def test_a_training_that_is_right(here: Run) -> None:
    rows = list(parity.parity(here, {}))
    assert [(row.comparison, row.what) for row in rows] == [
        ("upstream", "the port trains what upstream trains"),
        ("processes", "2 processes take each image once an epoch"),
        ("processes", "2 processes give each image its own caption"),
        ("processes", "2 processes draw noise of their own"),
        ("processes", "2 processes train with deepspeed"),
        ("processes", "2 processes train what one with 2 times the batch trains"),
        ("processes", "2 processes train what one that accumulates 2 batches trains"),
        ("resumed", "1 process goes on from an epoch's end (step 4 of 6)"),
        ("resumed", "1 process goes on from mid-epoch (step 3 of 6)"),
        ("resumed", "2 processes go on from an epoch's end (step 4 of 6)"),
        ("resumed", "2 processes go on from mid-epoch (step 3 of 6)"),
    ]
    assert all(row.ok for row in rows), rows
    assert rows[0].seen == "16 losses, 16 images, 1 tensors: equal to the last bit"
    assert rows[1].seen == "8 of 8 images once in each of 2 epochs"


@pytest.mark.parametrize(
    ("fault", "kind", "what", "seen"),
    [
        ("shard", "processes", "2 processes take each image once an epoch", "epoch 1: 4 of 8 images used"),
        (
            "caption",
            "processes",
            "2 processes give each image its own caption",
            "16 of 16 rows have the caption of another image",
        ),
        ("noise", "processes", "2 processes draw noise of their own", "1 of 1 draws on two ranks"),
        (
            "weights",
            "processes",
            "2 processes train what one with 2 times the batch trains",
            "relative distance 3.3e-01",
        ),
        ("replay", "resumed", "1 process goes on from mid-epoch (step 3 of 6)", "other images, or in another order"),
    ],
)
def test_a_fault_is_found(here: Run, fault: str, kind: str, what: str, seen: str) -> None:
    found = wrong(with_case(here, run=(*CASE.run, f"fault={fault}")), kind)
    assert seen in found[what], found


def test_what_upstream_trains_otherwise(here: Run) -> None:
    found = wrong(with_case(here, upstream=(*CASE.run, "fault=caption")), "upstream")
    assert not found  # the captions are no part of the comparison, the loss is
    command = (*CASE.run[:2], *CASE.run[3:], "processes=1", "batch=2")
    found = wrong(with_case(here, upstream=command), "upstream")
    assert (
        "rank 0: 8 losses, not" in found["the port trains what upstream trains"]
        or "16 losses, not 8" in found["the port trains what upstream trains"]
    ), found


def test_fixes_that_mean_to_change_something(here: Run) -> None:
    """They are left out of the port; those that only round are held to their bound, the others are named."""
    steps = tuple(FixStep(name, (TreePath("train.py"),), "up") for name in ("transformer-patches", "sample-caches"))
    given = replace(here, recipe=replace(here.recipe, fix=steps))
    rows = list(parity.parity(given, {}, kinds=("upstream",)))
    assert [(row.ok, row.what) for row in rows] == [
        (True, "the port without transformer-patches, sample-caches trains what upstream trains"),
        (True, "the port without sample-caches trains what upstream trains, but for rounding"),
        (None, "transformer-patches is left out above"),
        (None, "sample-caches is left out above"),
    ]
    assert rows[1].seen == "losses differ by 0.0e+00 (within 1e-06: transformer-patches)"
    assert "new each epoch" in rows[3].seen


def test_fixes_that_upstream_needs_to_run(here: Run) -> None:
    """They stay in on both sides, also where they mean to change something."""
    steps = tuple(FixStep(name, (TreePath("train.py"),), "up") for name in ("weights-pop", "sample-caches"))
    given = replace(here, recipe=replace(here.recipe, fix=steps))
    given = with_case(given, upstream_with=("sample-caches",))
    rows = list(parity.parity(given, {}, kinds=("upstream",)))
    assert [(row.ok, row.what) for row in rows] == [(True, "the port trains what upstream with sample-caches trains")]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": ("python", "-c", "import sys; sys.exit('no model')")}, "exit 1: no model"),
        ({"run": ("python", "-c", "import time; time.sleep(60)"), "limit": 1}, "it hung, and was ended after 1 s"),
        ({"run": ("python", "-c", "pass")}, "0 processes trained, not 1"),
        ({"trained": "{out}/none"}, "nothing was trained: there is no "),
    ],
)
def test_a_run_that_fails_is_a_comparison_that_fails(here: Run, values: dict[str, Any], said: str) -> None:
    (seen,) = wrong(with_case(here, **values), "upstream").values()
    assert said in seen


def test_what_cannot_be_compared_says_why(here: Run) -> None:
    rows = list(
        parity.parity(
            with_case(here, without={"upstream": "it dies"}, checkpoint=""), {}, kinds=("upstream", "resumed")
        )
    )
    assert [(row.ok, row.seen) for row in rows] == [(None, "it dies"), (None, "the recipe names no checkpoint")]
    assert not list(parity.parity(with_case(here, devices=("npu",)), {}))
    assert not list(parity.parity(with_case(here, extra="lycoris"), {}))


def test_where_a_checkpoint_has_no_random_state_the_images_are_compared(here: Run) -> None:
    """The loss of an image is its number here: equal ones would pass the whole comparison, too."""
    rows = list(parity.parity(with_case(here, resumed_on=("cuda",)), {}, kinds=("resumed",)))
    assert all(row.ok and row.seen.startswith("the same images in order") for row in rows)
    replayed = with_case(here, resumed_on=("cuda",), run=(*CASE.run, "fault=replay"))
    assert (
        wrong(replayed, "resumed")["1 process goes on from mid-epoch (step 3 of 6)"]
        == "other images, or in another order"
    )


def test_a_red_by_parity(here: Run) -> None:
    plan = Red("weights-pop", "of 8 images used", parity=("it",))
    assert red._red(here, plan, {}).shown is False
    report = red._red(with_case(here, run=(*CASE.run, "fault=shard")), plan, {})
    assert (
        report.shown
        and "in parity case it this failed: 2 processes take each image once an epoch (" in report.seen
        and "epoch 1: 4 of 8" in report.seen
    )
