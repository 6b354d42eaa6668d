"""SDXL beyond its smoke run: two machines, which are network namespaces here, and fused attention against plain."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import environment, recipes
from kit.smoke import models
from kit.smoke import run as smoke

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def place(prepared: Callable[[str, str], Path]) -> Path:
    return prepared("sdxl", "cpu")


@pytest.fixture(scope="module")
def python(place: Path) -> Path:
    found = recipes.load("sdxl")
    return environment.ensure(found, found.device("cpu"), place).python


def losses(python: Path, folder: Path) -> dict[str, float]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import look; print(look.losses(sys.argv[2]))"
    arguments = [str(python), "-c", code, str(smoke.HERE), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment.variables())
    found: dict[str, float] = eval(done.stdout.splitlines()[-1])
    return found


def test_two_machines_train_as_two_processes(
    place: Path, python: Path, machines: list[list[str]], tmp_path: Path
) -> None:
    """The same losses, to the bit: it is the same sum of two gradients. The machines are told as Kubeflow tells pods,
    and find the network card themselves."""
    tiny = tmp_path / "tiny"
    models.build("sdxl", python, tiny)
    found = recipes.load("sdxl").smoke
    assert found
    words = [word for name in ("model", "small") for word in found.words[name]]
    common = [word.replace("{tiny}", str(tiny)) for word in words]
    common += ["--train_batch_size=2", f"--dataset_name={tiny}/data", "--mixed_precision=no", "--max_train_epoch=2"]
    variables = {
        **environment.variables(),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tiny / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def start(prefix: list[str], script: str, out: str, *more: str, **pod: str) -> subprocess.Popen[Any]:
        command = [*prefix, "bash", f"test/{script}", *common, f"--output_dir={tmp_path / out}", *more]
        log = (tmp_path / f"{out}.log").open("wb")
        return subprocess.Popen(command, cwd=place / "sd-scripts", env={**variables, **pod}, stdout=log, stderr=log)

    pod = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "10.99.0.1", "PET_MASTER_PORT": "23456"}
    pod.update(WORLD_SIZE="2", MASTER_ADDR="10.99.0.1", MASTER_PORT="23456")
    runs = [
        start(prefix, "pretrain_full_nm_np_sdxl.sh", f"machine-{rank}", **pod, PET_NODE_RANK=f"{rank}", RANK=f"{rank}")
        for rank, prefix in enumerate(machines)
    ]
    try:
        assert [run.wait(timeout=400) for run in runs] == [0, 0], (tmp_path / "machine-0.log").read_text()[-2000:]
    finally:
        for run in runs:
            run.kill()
    one = start([], "pretrain_full_1m_8p_sdxl.sh", "one", "--nproc_per_node=2")
    assert one.wait(timeout=400) == 0, (tmp_path / "one.log").read_text()[-2000:]
    found_losses = losses(python, tmp_path / "machine-0")
    assert len(found_losses) == 4
    assert found_losses == losses(python, tmp_path / "one")


def test_token_lengths(place: Path, python: Path, tmp_path: Path) -> None:
    """77 is CLIP's one window, as without the option; of 512 tokens none is lost."""
    models.build("sdxl", python, tmp_path / "tiny")
    command = [str(python), str(HERE / "token_lengths.py"), str(place / "sd-scripts"), str(tmp_path / "tiny")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment.variables())
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("length ")] == [
        "length none: 75 tokens, 1 windows, 77 hidden states",
        "length 77: 75 tokens, 1 windows, 77 hidden states",
        "length 150: 150 tokens, 2 windows, 152 hidden states",
        "length 225: 225 tokens, 3 windows, 227 hidden states",
        "length 512: 525 tokens, 7 windows, 527 hidden states",
    ]


def test_the_table_of_other_scripts(place: Path, python: Path) -> None:
    """A script that the recipe's page gives fused attention or tokenizer paths has the option, the others have not."""
    text = (HERE.parents[1] / "recipes" / "sdxl.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| (`\w+\.py`[^|]*) \| (yes|no)[^|]* \| (yes|no) \|", text)
    claims = {script: row[1:] for row in rows for script in re.findall(r"\w+\.py", row[0])}
    assert len(claims) == 13
    variables = {**environment.variables(), "COLUMNS": "200"}
    for script, claim in claims.items():
        command = [str(python), script, "--help"]
        done = subprocess.run(command, cwd=place / "sd-scripts", capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        options = ("--enable_npu_flash_attention", "--tokenizer1_path")
        assert tuple("yes" if option in done.stdout else "no" for option in options) == claim, script


def test_fused_attention_is_plain_attention(place: Path, python: Path) -> None:
    """In the reference environment, where PyTorch may have no fused attention, and in that of the stand-in."""
    script = HERE / "compare_attention.py"
    command = [str(python), str(script), str(place / "sd-scripts"), "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment.variables())
    assert done.returncode == 0, done.stdout + done.stderr
    query = "import torch; print(hasattr(torch.nn.functional, 'scaled_dot_product_attention'))"
    has = subprocess.run([str(python), "-c", query], capture_output=True, text=True, check=True).stdout.strip()
    means = "scaled_dot_product_attention" if has == "True" else "plain_attention"
    assert f"attention of 1 of 1 layers: {means} (2304 to 2304 tokens)" in done.stdout


def test_fused_attention_on_the_stand_in(prepared: Callable[[str, str], Path]) -> None:
    found = recipes.load("sdxl")
    device, place = found.device("npu"), prepared("sdxl", "npu")
    made = environment.ensure(found, device, place)
    from kit.smoke import standin

    extra = {} if environment.has_device(device) else standin.variables(device, made.python)
    command = [str(made.python), str(HERE / "compare_attention.py"), str(place / "sd-scripts"), "npu"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment.variables(), **extra}, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("attention of 1 of 1 layers: npu_fusion_attention") == 6


def test_sharded_gradients_are_adamws(place: Path, python: Path) -> None:
    """In buckets and alone, with and without accumulation."""
    start = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*start, str(HERE / "buckets.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment.variables(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"\d passes: equal, \d+ operations a step for 14 gradients", done.stdout)
    assert len(said) == 2, done.stdout


def test_an_overflow_on_one_process_is_skipped_on_all(prepared: Callable[[str, str], Path], tmp_path: Path) -> None:
    """And the scheduler does not advance by it, which is why it needs no fix; the loss scale starts at 2^7."""
    from kit.smoke import standin

    found = recipes.load("sdxl")
    device, place = found.device("npu"), prepared("sdxl", "npu")
    made = environment.ensure(found, device, place)
    extra = {} if environment.has_device(device) else standin.variables(device, made.python)
    start = [str(made.python), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*start, str(HERE / "overflow.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment.variables(), **extra}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"(rank \d): (\[.*?\] \[.*?\])", done.stdout))  # the processes share one line at times
    assert said.keys() == {"rank 0", "rank 1"}, done.stdout
    assert said["rank 0"] == said["rank 1"]
    skipped = "[(False, 0.0025, 128.0), (True, 0.0025, 64.0), (False, 0.000625, 64.0)]"  # two scheduler steps a step
    assert said["rank 0"].startswith(skipped)
