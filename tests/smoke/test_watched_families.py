"""What the instrument sees of FLUX.2's and Z-Image's training scripts, which no recipe is about: each fault of theirs,
and after `kit fix` none.

The real scripts of diffusers train a few steps of a tiny model on the CPU, in environments with what those commits of
diffusers ask for.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import REPOSITORY, kit_process

from kit import environment, recipes, store
from kit.paths import TreePath
from kit.recipe import Upstream
from kit.smoke import models, process, watched
from kit.smoke import run as smoke
from kit.smoke.forkserver import Server, serve

IMAGES = 8
DREAMBOOTH = "examples/dreambooth"


@dataclass(frozen=True)
class Family:
    """Scripts at one commit of diffusers; its pipeline, which is imported once, and what it runs with."""

    name: str
    commit: str
    pipeline: str
    packages: tuple[str, ...]


COMMON = ("torch==2.7.1", "torchvision==0.22.1", "httpx==0.28.1", "requests", "tensorboard")
FLUX2 = Family(
    "flux2",
    "29a930a142bba88ce30eba8e93e512a3e9bdc49c",
    "Flux2Pipeline",
    (*COMMON, "transformers==4.55.0", "accelerate==1.10.0", "peft==0.17.0", "datasets==3.6.0"),
)
ZIMAGE = Family(
    "zimage",
    "58eb52c0803ea9af3abec60841c2a093bdf1f951",
    "ZImagePipeline",
    (*COMMON, "transformers==5.20.2", "accelerate==1.15.0", "peft==0.21.2", "datasets==5.2.0"),
)


@dataclass(frozen=True)
class Case:
    """A training of two epochs: of whose script, on how many processes, with what arguments ({tiny}: the family's
    models and data); what is found wrong as upstream has it, in the words of each finding, or how it dies."""

    family: Family
    script: str
    processes: int
    arguments: str
    wrong: dict[str, str]
    dies: str = ""


ARGUMENTS = (
    "--pretrained_model_name_or_path={tiny}/model --resolution=32 --rank=4 --max_sequence_length=64 --max_train_steps=8"
    " --lr_warmup_steps=0 --skip_final_inference --checkpointing_steps=8"
)
CAPTIONED = "--dataset_name={tiny}/captioned --caption_column=prompt --instance_prompt=x"
PAIRS = "--dataset_name={tiny}/pairs --image_column=output --cond_image_column=file_name --caption_column=instruction"
ONE_PROMPT = "--instance_data_dir={tiny}/alone --instance_prompt=dog --train_batch_size=2"
CACHED = "--train_batch_size=1 --cache_latents --seed=1"
HALF = {"coverage": f"4 of {IMAGES} images used", "noise": "draws on two ranks"}
CASES = {
    "FLUX.2, captions": Case(
        FLUX2,
        "train_dreambooth_lora_flux2.py",
        1,
        f"{CAPTIONED} --train_batch_size=2 --seed=1",
        {"captions": "have the caption of another image"},
    ),
    "FLUX.2, two processes": Case(FLUX2, "train_dreambooth_lora_flux2.py", 2, f"{CAPTIONED} {CACHED}", HALF),
    "FLUX.2, one prompt": Case(
        FLUX2,
        "train_dreambooth_lora_flux2.py",
        1,
        ONE_PROMPT,
        {"coverage": "4 images were handed out"},
        "size of tensor a (2) must match the size of tensor b (4)",
    ),
    "FLUX.2, image to image": Case(FLUX2, "train_dreambooth_lora_flux2_img2img.py", 2, f"{PAIRS} {CACHED}", HALF),
    "Z-Image, two processes": Case(ZIMAGE, "train_dreambooth_lora_z_image.py", 2, f"{CAPTIONED} {CACHED}", HALF),
    "Z-Image, one prompt": Case(
        ZIMAGE,
        "train_dreambooth_lora_z_image.py",
        1,
        ONE_PROMPT,
        {"coverage": "some rows come from no known image", "captions": "caption of another image"},
    ),
}


@dataclass(frozen=True)
class Setting:
    """Where a family's scripts run: the diffusers of their commit, the tiny models, the server, the variables."""

    tree: Path
    tiny: Path
    server: Server
    variables: dict[str, str]


@pytest.fixture(scope="module")
def settings(
    reach: Callable[[str], None], installed: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Family], Setting]]:
    """``settings(family)``: made on first use."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def make(family: Family) -> Setting:
            url = recipes.load("hidream").upstream[0].url
            reach(url)
            folder = tmp_path_factory.mktemp(family.name)
            _write(Upstream("diffusers", url, family.commit, sparse=(TreePath("src"), TreePath(DREAMBOOTH))), folder)
            python = installed(f"watched-{family.name}", "3.10", family.packages)
            libraries = [REPOSITORY / "kit" / "smoke" / "tiny", folder / "src"]
            given = {"PYTHONPATH": os.pathsep.join(map(str, libraries)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            given |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder / "huggingface")}
            variables = {**environment.variables(), **given}
            imports = ("torch.distributed.run", "accelerate", "datasets", "peft", f"diffusers.{family.pipeline}")
            server = stack.enter_context(serve(python.parent, imports, variables, folder / "server"))
            models.build(family.name, python, folder / "tiny", variables, [Path(__file__).parent])
            return Setting(folder, folder / "tiny", server, variables)

        yield make


def _write(upstream: Upstream, folder: Path) -> None:
    """Write an upstream's library and scripts as they are in it."""
    entry = store.ensure(upstream, Path())
    ids = {path: id for path, (_, id) in entry.tree.items() if path.startswith(("src/", f"{DREAMBOOTH}/train_"))}
    contents = entry.blobs(ids.values())
    for path, id in ids.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents[id])


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_until_it_is_mended(name: str, settings: Callable[[Family], Setting], tmp_path: Path) -> None:
    case = CASES[name]
    setting = settings(case.family)
    script = tmp_path / case.script
    script.write_bytes((setting.tree / DREAMBOOTH / case.script).read_bytes())

    def train(out: Path) -> tuple[process.Done, dict[str, tuple[bool, str]]]:
        words = f"{ARGUMENTS} {case.arguments}".format(tiny=setting.tiny).split()
        command = ["torchrun", f"--nproc_per_node={case.processes}", str(script), *words, f"--output_dir={out}"]
        given = {**setting.variables, **smoke.instrument(tmp_path / "watched" / out.name), "PATH": os.environ["PATH"]}
        done = setting.server.run(command, tmp_path, given, out.with_suffix(".log"), 240)
        ranks = watched.read(tmp_path / "watched" / out.name)
        found = {"coverage": watched.coverage(ranks, IMAGES), "captions": watched.captions(ranks)}
        return done, {**found, "noise": watched.noise(ranks)}

    done, found = train(tmp_path / "before")
    assert case.dies in done.last_error() if case.dies else done.status == 0, done.tail()
    assert {key: words for key, (good, words) in found.items() if not good}.keys() == case.wrong.keys(), found
    assert all(words in found[key][1] for key, words in case.wrong.items()), found

    fixed = kit_process("fix", str(script))
    assert fixed.status == 1 and "conflict" not in fixed.out, fixed.out

    done, found = train(tmp_path / "after")
    assert done.status == 0, done.tail()
    assert all(good for good, _ in found.values()), f"{found}\n{fixed.out}"
