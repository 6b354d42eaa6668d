"""overlays/shared/throughput.awk on progress bars as tqdm draws them, with every awk there is."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from launching import OVERLAYS

AWKS = [
    command
    for command in (["mawk"], ["gawk"], ["gawk", "--posix"], ["original-awk"], ["busybox", "awk"], ["awk"])
    if shutil.which(command[0])
]


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


def report(text: str, awk: list[str], batch: int = 8, processes: int = 8, accumulation: int = 1) -> dict[str, str]:
    numbers = {"batch": batch, "processes": processes, "accumulation": accumulation}
    values = [word for name, value in numbers.items() for word in ("-v", f"{name}={value}")]
    program = (OVERLAYS / "shared/throughput.awk").read_text()
    done = subprocess.run(
        [*awk, *values, program], input=text.replace("\r", "\n"), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return dict(line.split(" : ", 1) for line in done.stdout.splitlines())


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


@pytest.mark.parametrize("awk", AWKS, ids=" ".join)
@pytest.mark.parametrize("name", CASES)
def test_images_a_second(name, awk):
    took, mean = CASES[name]
    assert float(report(draw(took), awk)["Final Performance images/sec"]) == pytest.approx(64 / mean, rel=0.02)


@pytest.mark.parametrize("awk", AWKS, ids=" ".join)
def test_other_lines(awk):
    fps, loss = "Final Performance images/sec", "Final Train Loss"
    assert report(draw([2.0] * 4), awk, 2, 3, 4) == {fps: "12", loss: "0.5"}
    assert report(draw([2.0] * 4, initial=100), awk) == {fps: "32", loss: "0.5"}  # resumed at step 100
    assert report(draw([2.0] * 4, loss="nan"), awk)[loss] == "nan"
    assert report(draw([2.0] * 4, loss="1.2e-05"), awk)[loss] == "1.2e-05"
    for other in ("step_loss=0.5", "avr_loss=9.9, loss=0.5", "loss=0.5, avr_loss=9.9"):  # sd-lora's bar, and sdxl's
        assert report(draw([2.0] * 4).replace("loss=0.5", other), awk)[loss] == "0.5"
    noise = "Caching latents: 100%|███| 4/4 [00:06<00:00,  9.00s/it]\n[rank1] 3/4 [x]\nSteps:\n"
    assert report(noise + draw([2.0] * 4), awk) == {fps: "32", loss: "0.5"}
    glued = draw([2.0] * 4).replace("Steps:", "INFO - saved Steps:")
    assert report(glued, awk) == {fps: "32", loss: "0.5"}
    assert report(draw([9.0] * 8) + draw([2.0] * 4), awk) == {fps: "32", loss: "0.5"}  # started anew
    assert report("nothing\n", awk)[fps].startswith("unknown")
    assert report(bar(0, 5, 0, "?it/s"), awk)[fps].startswith("unknown")


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
    figures = report(text, AWKS[0], batch=2, processes=1)
    assert figures["Final Train Loss"] == "2.46"
    assert float(figures["Final Performance images/sec"]) == pytest.approx(2 / (6.37 / 2), rel=0.01)
