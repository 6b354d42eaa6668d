"""What the instrument sees of a training, in a reference environment: each fault, and none where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY

from kit import environment, recipes
from kit.smoke import run as smoke
from kit.smoke import watched
from kit.smoke.forkserver import Server, serve

SCRIPT = Path(__file__).with_name("faulty_training.py")
FINE = {"coverage": True, "captions": True, "noise": True}


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    given = {"PYTHONPATH": str(REPOSITORY / "kit" / "smoke" / "tiny"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "2"}
    return {**environment.variables(), **given}


@pytest.fixture(scope="module")
def hidream_extensions(hidream_workspace: Path) -> Path:
    """Where the reference environment keeps what DeepSpeed compiles."""
    found = recipes.load("hidream")
    return environment.ensure(found, found.device("cpu"), hidream_workspace).extensions


@pytest.fixture(scope="module")
def server(hidream_env: Path, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    imports = ("torch.distributed.run", "accelerate.commands.launch", "transformers", "diffusers", "deepspeed")
    with serve(hidream_env.parent, imports, variables, tmp_path_factory.mktemp("forks") / "server") as server:
        yield server


@pytest.mark.parametrize(
    ("fault", "processes", "wrong"),
    [
        ("none", 1, {}),
        ("none", 2, {}),
        ("none", 4, {}),
        ("caches", 1, {}),
        ("caches", 2, {"coverage": "of 8 images used"}),
        ("captions", 1, {"captions": "have the caption of another image"}),
        ("files", 2, {}),
        ("swapped", 2, {"captions": "have the caption of another image"}),
        ("repeats", 1, {"coverage": "some rows come from no known image", "captions": "caption of another image"}),
        ("seed", 2, {"noise": "draws on two ranks"}),
    ],
)
@pytest.mark.parametrize("mode", ["", "image"])
def test_a_fault_is_seen(
    fault: str,
    processes: int,
    mode: str,
    wrong: dict[str, str],
    server: Server,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    if mode == "image" and fault == "seed":
        wrong = {}  # noise is then drawn for the image
    command = ["torchrun", f"--nproc_per_node={processes}", str(SCRIPT), str(tmp_path / "tokenizer"), fault]
    watching = smoke.instrument(tmp_path / "watched" / "it", mode)
    given = {**variables, **watching, "PATH": os.environ["PATH"]}
    done = server.run(command, tmp_path, given, tmp_path / "log", 120)
    assert done.status == 0, done.tail()
    ranks = watched.read(tmp_path / "watched" / "it")
    assert [len(rank.losses) for rank in ranks] == [12 // processes] * processes
    found = {
        "coverage": watched.coverage(ranks, 8),
        "captions": watched.captions(ranks),
        "noise": watched.noise(ranks),
    }
    assert {name: good for name, (good, _) in found.items()} == {**FINE, **dict.fromkeys(wrong, False)}, found
    assert all(words in found[name][1] for name, words in wrong.items()), found


def test_noise_by_image_does_not_depend_on_the_processes(
    server: Server, variables: dict[str, str], tmp_path: Path
) -> None:
    drawn = []
    for processes in (1, 2, 4):
        events = tmp_path / "watched" / str(processes)
        command = ["torchrun", f"--nproc_per_node={processes}", str(SCRIPT), str(tmp_path / "tokenizer"), "none"]
        given = {**variables, **smoke.instrument(events, "image"), "PATH": os.environ["PATH"]}
        assert server.run(command, tmp_path, given, tmp_path / "log", 120).status == 0
        rows = [row for rank in watched.read(events) for each in rank.forwards for row in each.rows]
        drawn.append({(row.images, row.noise) for row in rows})
    assert drawn[0] == drawn[1] == drawn[2] and len(drawn[0]) == 24


@pytest.mark.parametrize(("use_cpu", "is_one"), [("false", True), ("true", False)])
def test_deepspeed_that_is_none_is_seen(
    use_cpu: str, is_one: bool, server: Server, variables: dict[str, str], hidream_extensions: Path, tmp_path: Path
) -> None:
    """With ACCELERATE_USE_CPU accelerate trains by plain data parallelism instead, and says nothing."""
    events = tmp_path / "watched" / "it"
    launch = ["accelerate", "launch", "--use_deepspeed", "--zero_stage=2", "--num_processes=2", "--mixed_precision=no"]
    given = {**variables, **smoke.instrument(events, "engine"), "PATH": os.environ["PATH"]}
    given |= {"ACCELERATE_USE_CPU": use_cpu, "TORCH_EXTENSIONS_DIR": str(hidream_extensions)}
    done = server.run(
        [*launch, str(SCRIPT), str(tmp_path / "tokenizer"), "none"], tmp_path, given, tmp_path / "log", 240
    )
    assert done.status == 0, done.tail()
    found, seen = watched.engine(watched.read(events), "deepspeed")
    assert (found, "DeepSpeedEngine" in seen) == (is_one, is_one), seen
