"""FLUX.1-Kontext's launch script: what sets it apart from HiDream's, which test_launch.py runs through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launching import Machine, Run, render

SCRIPT = "examples/dreambooth/finetune_kontext_dreambooth_lora_deepspeed_bf16.sh"
INFOS = '{"default": {"features": {"output": {}, "file_name": {}, "instruction": {}}}}'


@pytest.fixture
def kontext(machine: Machine, tmp_path: Path) -> Callable[..., Run]:
    """Call the script, by default with a model and a data set of two images a row."""
    work = machine.root / "work"
    (work / "relighting/data").mkdir(parents=True)
    (work / "relighting/data/train-001.parquet").write_text("PAR1")
    (work / "relighting/dataset_infos.json").write_text(INFOS)
    (work / "dog").mkdir()
    for number in (1, 2):
        (work / f"dog/alvan-nee-{number}.jpeg").write_text("an image")
    (work / "model/model_index.json").write_text('{"_class_name": "FluxKontextPipeline"}')
    machine.good = ("--model_name=model", "--dataset_name=relighting")

    def call(*arguments: str, **more: Any) -> Run:
        return machine.launch(render("cpu", tmp_path / "tree", name="flux-kontext") / SCRIPT, *arguments, **more)

    return call


@pytest.mark.parametrize(
    ("arguments", "condition", "captions", "images"),
    [
        ([], "file_name", "instruction", None),
        (["--cond_image_column="], None, "instruction", None),
        (["--cond_image_column=", "--caption_column=", "--instance_prompt=a dog"], None, None, None),
        (["--dataset_name=", "--instance_data_dir=dog", "--instance_prompt=a dog"], None, None, "dog"),
        (["--dataset_name=dog", "--instance_prompt=a dog"], None, None, "dog"),
    ],
)
def test_image_to_image_and_text_to_image(
    arguments: list[str], condition: str | None, captions: str | None, images: str | None, kontext: Callable[..., Run]
) -> None:
    run = kontext(*arguments)
    assert run.status == 0, run.stderr
    given = [run.value(f"--{name}") for name in ("cond_image_column", "caption_column", "instance_data_dir")]
    assert given == [condition, captions, images]
    assert run.value("--dataset_name") == (None if images else "relighting")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--caption_column="], "--cond_image_column is file_name, without --caption_column: give that too, or --cond"),
        (["--aspect_ratio_buckets=1024"], "--aspect_ratio_buckets is height,width pairs such as 1024,1024;832,1248"),
        (["--aspect_ratio_buckets=1024,1024;1000,512"], "1000,512, not a multiple of 16: 1024,1024;1008,512"),
        (["--seed=4294967296"], "--seed is 4294967296, above 4294967295: give that or less"),
        (["--max_sequence_length=513"], "--max_sequence_length is 513, above 512: give that or less"),
        (["--dataset_name=dog"], "no captions and no prompt: give --instance_prompt="),
        (["--cond_image_column=", "--caption_column="], "no captions and no prompt: give --instance_prompt="),
        (
            ["--dataset_name=dog", "--instance_prompt=a dog", "--batch_size=64"],
            "--batch_size is 64, and dog has 2 images: no whole batch: give at most 2, or more images",
        ),
        (
            ["--dataset_name=dog", "--instance_prompt=a dog", "--batch_size=2", "--num_processors=2"],
            "--batch_size is 2, and dog has 2 images: no whole batch, one for each of 2 processes: give at most 1",
        ),
        (["--instance_data_dir=relighting"], "--dataset_name and --instance_data_dir are both given"),
    ],
)
def test_what_it_refuses(arguments: list[str], message: str, kontext: Callable[..., Run]) -> None:
    run = kontext(*arguments)
    assert (run.status, run.argv) == (2, [])
    assert re.search(message, run.stderr), run.stderr


def test_the_published_settings(kontext: Callable[..., Run]) -> None:
    run = kontext("--profile=published")
    assert run.status == 0, run.stderr
    wanted = {"learning_rate": "1e-5", "seed": "0", "train_batch_size": "2", "rank": "16", "resolution": "1024"}
    assert {name: run.value(f"--{name}") for name in wanted} == wanted
    assert "--cache_latents" in run.argv
    assert run.value("--checkpoints_total_limit") is None  # as published; by itself two are kept
    assert kontext().value("--checkpoints_total_limit") == "2"


@pytest.mark.parametrize("option", ["image_column", "cond_image_column", "caption_column"])
def test_a_column_that_the_tables_do_not_have(option: str, kontext: Callable[..., Run]) -> None:
    run = kontext(f"--{option}=nope", "--check")
    assert run.status == 2
    wanted = rf"no column nope .*; there is: output, file_name, instruction; choose with --{option}\b"
    assert re.search(wanted, run.stderr), run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--aspect_ratio_buckets=1024,1024;832,1248", "--seed=4294967295", "--max_sequence_length=512"],
        ["--dataset_name=dog", "--instance_prompt=a dog", "--batch_size=2"],
        ["--dataset_name=dog", "--instance_prompt=a dog", "--batch_size=8", "--", "--repeats=4"],
    ],
)
def test_what_it_takes(arguments: list[str], kontext: Callable[..., Run]) -> None:
    run = kontext(*arguments)
    assert run.status == 0, run.stderr


COLUMNS = ["--dataset_name=mine", "--check", "--batch_size=1"]
PAIR = ["--image_column=output", "--cond_image_column=cond"]


@pytest.mark.parametrize(
    ("row", "arguments", "said"),
    [
        (
            '{"file_name": "0.jpg", "output": "1.jpg", "instruction": "x"}',
            [],
            "no column output of images; there is: image; ",
        ),
        ('{"cond_file_name": "0.jpg", "output_file_name": "1.jpg", "instruction": "x"}', PAIR, ""),
        (
            '{"cond_file_name": "0.jpg", "output_file_name": "2.jpg", "instruction": "x"}',
            PAIR,
            "no image 2.jpg beside it",
        ),
        (
            '{"file_name": "0.jpg", "output_file_name": "1.jpg", "instruction": "x"}',
            [],
            "no column file_name of images; there is: image, output; choose with --cond_image_column",
        ),
        (
            '{"file_name": "0.jpg", "output_file_name": "1.jpg", "instruction": "x"}',
            ["--cond_image_column=image"],
            "",
        ),
        (
            '{"output_file_name": "1.jpg", "file_name": "0.jpg", "instruction": "x"}',
            ["--cond_image_column=image"],
            "metadata.jsonl:1: file_name comes after output_file_name",
        ),
    ],
)
def test_columns_are_named_as_datasets_names_them(
    row: str, arguments: list[str], said: str, kontext: Callable[..., Run], machine: Machine
) -> None:
    """What datasets 3.6.0 loads of such folders."""
    mine = machine.root / "work/mine"
    mine.mkdir()
    for name in ("0.jpg", "1.jpg"):
        (mine / name).write_text("an image")
    (mine / "metadata.jsonl").write_text(row + "\n")
    run = kontext(*COLUMNS, *arguments)
    assert run.status == (2 if said else 0), run.stderr
    assert said in run.stderr
