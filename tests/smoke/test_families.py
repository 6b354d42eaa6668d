"""`kit fix` on five families of diffusers' training scripts that no recipe is about, and the real scripts after it.

Each trains a few steps of a tiny model on the CPU and saves a checkpoint. As upstream has it, each shows the defect of
one of the fixes; mended, it does not.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import kit_process

from kit import environment, recipes, store
from kit.paths import TreePath
from kit.recipe import Upstream
from kit.smoke import models, process

Shown = Callable[[process.Done, Path], bool]


@dataclass(frozen=True)
class Family:
    """A script, its arguments, run after run ({tiny}, {out}: folders), the fix it needs, and how that shows without."""

    script: str
    runs: tuple[str, ...]
    fix: str
    shown: Shown
    writes: str  # the last checkpoint
    deepspeed: bool = False


def error(words: str) -> Shown:
    return lambda done, out: done.status != 0 and words in done.last_error()


def says(words: str) -> Shown:
    return lambda done, out: done.status == 0 and words in done.text()


def writes(name: str) -> Shown:
    return lambda done, out: (out / name).exists()


def unprinted(done: process.Done, out: Path) -> bool:
    """Whether a run went well, and its bar never ended its line before its end."""
    return done.status == 0 and not re.search(r"Steps: .*\| 1/2 \[[^\r\n]*\] ?\n", done.text())


SD = "--pretrained_model_name_or_path={tiny}/sd/model --train_batch_size=4 --seed=1 --output_dir={out} "
TEXTUAL = (
    "--train_data_dir={tiny}/images --placeholder_token=<dog> --initializer_token=a --learnable_property=object"
    " --resolution=64 --repeats=1 --checkpointing_steps=1 "
)
FAMILIES = {
    "Stable Diffusion, full": Family(
        "text_to_image/train_text_to_image.py",
        (f"{SD} --train_data_dir={{tiny}}/sd/images --resolution=64 --max_train_steps=2 --checkpointing_steps=2",),
        "progress-print",
        unprinted,
        "checkpoint-2",
    ),
    "ControlNet": Family(
        "controlnet/train_controlnet.py",
        (
            f"{SD} --train_data_dir={{tiny}}/pairs --resolution=64 --max_train_steps=2 --checkpointing_steps=2"
            " --validation_steps=1 --num_validation_images=1"
            " --validation_image={tiny}/images/00.jpeg --validation_prompt=dog",
        ),
        "device-placement",
        says("device_type of 'cuda', but CUDA is not available. Disabling"),
        "checkpoint-2",
    ),
    "textual inversion": Family(
        "textual_inversion/textual_inversion.py",
        (
            f"{SD} {TEXTUAL} --max_train_steps=1",
            f"{SD} {TEXTUAL} --max_train_steps=3 --resume_from_checkpoint=latest",
        ),
        "stop-at-max-steps",
        writes("checkpoint-4"),
        "checkpoint-3",
    ),
    "unconditional, DeepSpeed": Family(
        "unconditional_image_generation/train_unconditional.py",
        (
            "--model_config_name_or_path={tiny}/ddpm.json --train_data_dir={tiny}/images --output_dir={out}"
            " --resolution=16 --train_batch_size=4 --num_epochs=1 --checkpointing_steps=2 --ddpm_num_steps=4"
            " --ddpm_num_inference_steps=2 --eval_batch_size=1",
        ),
        "weights-pop",
        error("pop from empty list"),
        "checkpoint-2",
        deepspeed=True,
    ),
    "Flux, DreamBooth LoRA": Family(
        "dreambooth/train_dreambooth_lora_flux.py",
        (
            "--pretrained_model_name_or_path={tiny}/model --instance_data_dir={tiny}/images --instance_prompt=dog"
            " --output_dir={out} --resolution=32 --train_batch_size=2 --max_train_steps=2 --checkpointing_steps=2"
            " --rank=2 --max_sequence_length=64 --seed=1",
        ),
        "offline-lora",
        error("you must specify a `weight_name`"),
        "checkpoint-2",
    ),
}


@pytest.fixture(scope="module")
def scripts(reach: Callable[[str], None]) -> Callable[[str], bytes]:
    """A file of diffusers' examples, at the commit that the reference environment has."""
    upstream = recipes.load("hidream").upstream[0]
    reach(upstream.url)
    entry = store.ensure(Upstream("diffusers", upstream.url, upstream.pin, sparse=(TreePath("examples"),)), Path())

    def read(path: str) -> bytes:
        id = entry.tree[TreePath(f"examples/{path}")][1]
        return entry.blobs([id])[id]

    return read


@pytest.fixture(scope="module")
def tiny(hidream_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("families") / "tiny"
    models.build("families", hidream_env, place, roots=[Path(__file__).parent])
    models.build("sd", hidream_env, place / "sd")
    return place


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_needs_its_fix(
    name: str,
    scripts: Callable[[str], bytes],
    tiny: Path,
    hidream_env: Path,
    hidream_workspace: Path,
    tmp_path: Path,
) -> None:
    family = FAMILIES[name]
    found = recipes.load("hidream")
    made = environment.ensure(found, found.device("cpu"), hidream_workspace)
    script = tmp_path / Path(family.script).name
    script.write_bytes(scripts(family.script))
    start = [str(hidream_env)]
    if family.deepspeed:
        start += ["-m", "accelerate.commands.launch", "--use_deepspeed", "--zero_stage=2", "--num_processes=1"]
    variables = {
        **environment.variables(),
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "huggingface"),
        "LOCAL_SIZE": "1",  # DeepSpeed's count of CPU devices
        "OMP_NUM_THREADS": "1",
        "PATH": f"{made.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "TORCH_EXTENSIONS_DIR": str(made.extensions),
    }

    def train(out: Path) -> process.Done:
        for number, arguments in enumerate(family.runs):
            words = [word.format(tiny=tiny, out=out) for word in arguments.split()]
            done = process.run(
                [*start, str(script), *words], tmp_path, variables, tmp_path / f"{out.name}-{number}.log", 600
            )
        return done

    before = tmp_path / "before"
    assert family.shown(train(before), before), before

    done = kit_process("fix", str(script))
    assert done.status == 1 and f"applied: {family.fix}" in done.out and "conflict" not in done.out
    assert kit_process("fix", str(script)).status == 0

    after = tmp_path / "after"
    trained = train(after)
    assert trained.status == 0, trained.tail()
    assert not family.shown(trained, after)
    assert (after / family.writes).is_dir()
    losses = [float(loss) for loss in re.findall(r"\bloss=([\d.e+-]+|nan|inf)", trained.text().replace("step_", ""))]
    assert losses and all(map(math.isfinite, losses))
