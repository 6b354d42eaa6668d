"""on_device.sh where it cannot run, and the page that it prints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import on_device
import pytest

SCRIPT = Path(__file__).with_name("on_device.sh")


def test_a_folder_that_was_not_packed_is_refused_in_one_line() -> None:
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("on_device: error: this folder was not packed: bash tests/bench/on_device.sh --pack DIR")


def test_packing_leaves_a_folder_alone(tmp_path: Path) -> None:
    done = subprocess.run(["bash", SCRIPT, "--pack", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"on_device.sh: error: {tmp_path} is there already: give a new folder\n"


def test_a_wheel_for_another_python_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "no_such_package-1-cp27-cp27mu-linux_x86_64.whl").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_device, "HERE", tmp_path)
        (tmp_path / "pinned.txt").touch()
        with pytest.raises(SystemExit) as stopped:
            on_device.unpack(wheels, tmp_path / "site")
    assert stopped.value.code == 2
    assert "has no no-such-package; pack for it: on_device.sh --pack DIR" in capsys.readouterr().err


def test_the_page_has_the_median_step_and_the_losses_of_both() -> None:
    slow, fast = ([(1 / step, step * seconds) for step in range(1, 5)] for seconds in (0.2, 0.1))
    text = on_device.page(
        "card", on_device.TINY, slow, "| bench |", {"upstream": [slow, slow], "patched": [fast, fast]}
    )
    assert "| a step, median of 4 | 200 ms | 100 ms | 2.00× |" in text
    assert "| loss of step 4 | 0.250000 | 0.250000 | |" in text
    assert "Losses differ by at most 0.0e+00" in text
