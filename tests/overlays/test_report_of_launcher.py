"""overlays/launcher/report.py on progress bars as tqdm draws them: the figure, what it contains, the loss drawn."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from launcher import picture, report


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def bar(step: int, total: int, elapsed: float, rate: str, loss: str = "") -> str:
    left = "?" if rate == "?it/s" else "00:09"
    after = f", loss={loss}, lr=0.0002" if loss else ""
    return f"Steps: {100 * step // total:3}%|████      | {step}/{total} [{clock(elapsed)}<{left}, {rate}{after}]"


def draw(took: list[float], initial: int = 0, loss: str = "0.5") -> str:
    """What tqdm draws of steps that took these seconds: smoothed by 0.3, once before and once after the loss is set."""
    total, elapsed, smooth = initial + len(took), 0.0, 0.0
    text = "\r" + bar(initial, total, 0, "?it/s")
    for count, seconds in enumerate(took, 1):
        elapsed += seconds
        smooth = 0.3 * seconds + 0.7 * smooth
        shown = smooth / (1 - 0.7**count)
        rate = f"{shown:5.2f}s/it" if shown > 1 else f"{1 / shown:5.2f}it/s"
        for value in ("9.9" if count > 1 else "", loss):
            text += "\r" + bar(initial + count, total, elapsed, rate, value)
    mean = sum(took) / len(took)  # closing the bar draws the mean of it all
    return text + "\r" + bar(total, total, elapsed, f"{mean:5.2f}s/it", loss) + "\n"


def steps_of(text: str, mean: bool = False) -> report.Steps:
    """The steps of an output, fed as the launcher does: a bar that is drawn anew is a line."""
    steps = report.Steps(mean=mean)
    for line in text.replace("\r", "\n").split("\n"):
        steps.feed(line)
    return steps


def figures(
    text: str,
    batch: int = 8,
    processes: int = 8,
    accumulation: int = 1,
    waits: tuple[float, ...] = (),
    mean: bool = False,
) -> dict[str, str]:
    shape = report.Shape(batch, processes, accumulation)
    lines = report.lines(steps_of(text, mean), shape, list(waits), 1)
    return dict(line.split(" : ", 1) for line in lines)


CASES = {
    "steady": ([1.5] * 40, 1.5),
    "one step": ([3.2], 3.2),
    "two steps: the second": ([30.0, 2.0], 2.0),
    "five steps: the last three": ([9.0, 9.0, 2.0, 3.0, 4.0], 3.0),
    "a slow first step does not weigh": ([60.0] + [1.0] * 9, 1.0),
    "faster than one a second": ([0.2] * 10, 0.2),
    "from fast to slow": ([0.5] * 4 + [2.0] * 4, 2.0),
    "100 steps: the second half": ([5.0] * 50 + [2.0] * 50, 2.0),
    "150 steps: after the first 100": ([5.0] * 100 + [2.0] * 50, 2.0),
    "a checkpoint counts": ([2.0] * 10 + [2.0, 12.0] + [2.0] * 8, 3.0),
    "hours": ([30.0] * 200, 30.0),
}


@pytest.mark.parametrize("name", CASES)
def test_images_a_second(name):
    took, mean = CASES[name]
    assert float(figures(draw(took))["Final Performance images/sec"]) == pytest.approx(64 / mean, rel=0.02)


def two(*arguments, **options):
    """The two lines that any launch script for Ascend reports."""
    found = figures(*arguments, **options)
    return {name: found[name] for name in ("Final Performance images/sec", "Final Train Loss")}


def test_other_lines():
    fps, loss = "Final Performance images/sec", "Final Train Loss"
    assert two(draw([2.0] * 4), 2, 3, 4) == {fps: "12", loss: "0.5"}
    assert two(draw([2.0] * 4, initial=100)) == {fps: "32", loss: "0.5"}  # resumed at step 100
    assert two(draw([2.0] * 4, loss="nan"))[loss] == "nan"
    assert two(draw([2.0] * 4, loss="1.2e-05"))[loss] == "1.2e-05"
    for other in ("step_loss=0.5", "avr_loss=9.9, loss=0.5", "loss=0.5, avr_loss=9.9"):  # sd-lora's bar, and sdxl's
        assert two(draw([2.0] * 4).replace("loss=0.5", other))[loss] == "0.5"
    noise = "Caching latents: 100%|███| 4/4 [00:06<00:00,  9.00s/it]\n[rank1] 3/4 [x]\nSteps:\n"
    assert two(noise + draw([2.0] * 4)) == {fps: "32", loss: "0.5"}
    glued = draw([2.0] * 4).replace("Steps:", "INFO - saved Steps:")
    assert two(glued) == {fps: "32", loss: "0.5"}
    assert two(draw([9.0] * 8) + draw([2.0] * 4)) == {fps: "32", loss: "0.5"}  # started anew
    assert two("nothing\n")[fps].startswith("unknown")
    assert two(bar(0, 5, 0, "?it/s"))[fps].startswith("unknown")


def test_recorded():
    """A run of upstream's script: two processes on a CPU, a checkpoint at step 2, 1.2 s + 6.4 s by its clock."""
    text = (
        "Steps:   0%|          | 0/3 [00:00<?, ?it/s]\rSteps:  33%|███▎      | 1/3 [00:01<00:02,  1.19s/it]\r"
        "Steps:  33%|███▎      | 1/3 [00:01<00:02,  1.19s/it, loss=2.33, lr=2e-6]\r"
        "Steps:  67%|██████▋   | 2/3 [00:02<00:00,  1.01it/s, loss=2.33, lr=2e-6]11/21/2026 08:19:52 - INFO - Saving\n"
        "\rSteps:  67%|██████▋   | 2/3 [00:06<00:00,  1.01it/s, loss=2.49, lr=4e-6]\n"
        "\rSteps: 100%|██████████| 3/3 [00:07<00:00,  3.06s/it, loss=2.49, lr=4e-6]\r"
        "Steps: 100%|██████████| 3/3 [00:07<00:00,  3.06s/it, loss=2.46, lr=6e-6]Model weights saved\n"
        "\rSteps: 100%|██████████| 3/3 [00:07<00:00,  2.52s/it, loss=2.46, lr=6e-6]\n"
    )
    found = figures(text, batch=2, processes=1)
    assert found["Final Train Loss"] == "2.46"
    assert float(found["Final Performance images/sec"]) == pytest.approx(2 / (6.37 / 2), rel=0.01)


def test_the_mean_of_a_bar_that_is_not_smoothed():
    bars = "".join(
        f"\rsteps: {step}/4 [00:01<00:01, {mean:.2f}s/it]" for step, mean in enumerate([9, 5.5, 4.0, 3.25], 1)
    )
    assert figures(bars, mean=True, batch=2, processes=1)["Final Performance images/sec"] == "2"


def with_lines(took: list[float], said: dict[int, str]) -> str:
    """The bars of steps that took these seconds, each line before the step that it belongs to."""
    drawn = draw(took).split("\r")
    at = {number: next(i for i, bar in enumerate(drawn) if f"| {number}/" in bar) for number in said}
    for number, line in sorted(said.items(), reverse=True):
        drawn.insert(at[number], f"\n{line}\n")
    return "\r".join(drawn)


def test_checkpoints_and_validation_are_apart():
    took = [2.0] * 10 + [12.0] + [2.0] * 4 + [32.0] + [2.0] * 4
    text = with_lines(took, {11: "INFO - Saving current state to out", 16: "INFO - Running validation... "})
    found = figures(text)
    assert float(found["Final Performance images/sec"]) == pytest.approx(32, rel=0.01)
    for said in ("not in it 1 checkpoint (10 s)", "not in it 1 validation (30 s)", "8 steps from step 12 on"):
        assert said in found["Measured"]
    assert float(found["Measured"].rpartition("with all of it ")[2].split()[0]) == pytest.approx(
        64 * 20 / sum(took), rel=0.01
    )


def test_waiting_for_data_is_not_in_the_figure():
    """The published figures of SDXL are without it."""
    found = figures(draw([2.0] * 8), accumulation=2, waits=(9.0,) * 8 + (0.25,) * 8)
    assert float(found["Final Performance images/sec"]) == pytest.approx(128 / 1.5, rel=0.01)
    assert "4 steps from step 5 on, 1.5 s each, not in it 0.5 s a step for data" in found["Measured"]


@pytest.mark.parametrize(("cached", "said"), [(None, ""), (True, "latents cached"), (False, "latents not cached")])
def test_whether_latents_were_cached_is_said(cached, said):
    told = report.contains(steps_of(draw([2.0] * 4)), report.Shape(1, 1, 1, cached=cached), [])
    assert [each for each in told if "latents" in each] == ([said] if said else [])


def test_numbers_for_a_machine():
    steps = steps_of(draw([2.0] * 4, loss="0.25") + "\neval_loss=0.75\n")
    found = report.numbers(steps, report.Shape(2, 3, 1, ("bf16",)), [0.5], 9)
    assert [(step, loss) for step, _, loss in found["steps"]] == [(step, "0.25") for step in range(1, 5)]
    assert (found["images_a_step"], found["validation_losses"]) == (6, {"4": 0.75})
    assert found["images_per_second"] == pytest.approx(6 / 1.5, rel=0.01)


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Width, height and colours of a PNG of ours."""
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    raw = zlib.decompress(content[content.index(b"IDAT") + 4 : -16])
    rows = [raw[start + 1 : start + 1 + 3 * width] for start in range(0, len(raw), 3 * width + 1)]
    return width, height, {row[at : at + 3] for row in rows for at in range(0, len(row), 3)}


def test_a_picture_of_the_loss(tmp_path):
    steps = report.Steps(losses={step: str(1 / step) for step in range(1, 60)}, validation_losses={10: 0.5, 50: 0.2})
    picture.draw(tmp_path / "loss.png", steps)
    width, height, colours = pixels(tmp_path / "loss.png")
    assert (width, height) == (picture.WIDTH, picture.HEIGHT)
    assert {
        bytes(each) for each in (picture.WHITE, picture.GREY, picture.PALE, picture.BLUE, picture.ORANGE)
    } == colours
    picture.draw(tmp_path / "none.png", report.Steps(losses={1: "0.5", 2: "nan"}))
    assert not (tmp_path / "none.png").exists()
