"""overlays/launcher/model.py and checkpoints.py: models and checkpoints that are whole, and what is said of others."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from launcher import checkpoints, model
from launcher.mistake import Mistake
from launcher.options import Option

OPTION = Option("model_name", "model", "", pipelines=("StableDiffusion3Pipeline",), apart=("text_encoder_4",))
INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.30.0",
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder_4": ["transformers", "LlamaForCausalLM"],
    "image_encoder": [None, None],
}


def tensors(part: float = 1.0) -> bytes:
    """A .safetensors file of one tensor of 16 bytes, or its first part."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + b"\0" * 16
    return whole[: int(len(whole) * part)]


def pickled(part: float = 1.0) -> bytes:
    """What torch.save writes, as far as its container goes."""
    with zipfile.ZipFile(content := io.BytesIO(), "w") as file:
        file.writestr("archive/data.pkl", b"x" * 100)
    return content.getvalue()[: int(len(content.getvalue()) * part)]


def whole(folder: Path) -> Path:
    files: dict[str, bytes] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "transformer/config.json": b"{}",
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(
            {
                "weight_map": {
                    "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
                    "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
                }
            }
        ).encode(),
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": tensors(),
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": tensors(),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": tensors(),
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": tensors(),
        "text_encoder/model.fp16.safetensors": tensors(),
        "tokenizer/vocab.json": b"{}",
        "scheduler/scheduler_config.json": b"{}",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_whole_model(tmp_path: Path) -> None:
    model.check(OPTION, str(whole(tmp_path / "m")))
    model.check(OPTION, "org/name")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_index.json": None}, "no model_index.json in .*m: give the folder of the whole model"),
        ({"model_index.json": b"{"}, "model_index.json: Expecting"),
        ({"model_index.json": b"[]"}, "model_index.json: not a JSON object"),
        (
            {"model_index.json": b'{"_class_name": "FluxPipeline"}'},
            "is a FluxPipeline: this script trains StableDiffusion3",
        ),
        ({"vae": None}, "no vae/ in .*m, which model_index.json lists: download the whole model"),
        ({"tokenizer": None}, "no tokenizer/ in"),
        ({"tokenizer/vocab.json": None}, "tokenizer is empty: download the whole model"),
        ({"vae/diffusion_pytorch_model.safetensors": None}, "no weights in .*vae: download"),
        (
            {"vae/diffusion_pytorch_model.safetensors": tensors(0.9)},
            "model.safetensors is cut short: download it again",
        ),
        ({"vae/diffusion_pytorch_model.safetensors": b""}, "is cut short"),
        (
            {"vae/diffusion_pytorch_model.safetensors": b"version https://git-lfs.github.com"},
            "a Git LFS pointer: .*git lfs",
        ),
        (
            {"transformer/diffusion_pytorch_model-00002-of-00002.safetensors": None},
            "no diffusion_pytorch_model-00002-of-00002.safetensors in .*transformer, which .*index.json lists",
        ),
        ({"text_encoder/model.safetensors": None}, "only fp16 weights in .*text_encoder: give -- --variant=fp16"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = whole(tmp_path / "m")
    for name, content in change.items():
        place = folder / name
        if content is not None:
            place.write_bytes(content)
        elif place.is_dir():
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
        else:
            place.unlink()
    with pytest.raises(Mistake, match=said) as raised:
        model.check(OPTION, str(folder))
    assert str(raised.value).startswith("--model_name: ") and "\n" not in str(raised.value)


def test_a_variant_that_is_asked_for(tmp_path: Path) -> None:
    folder = whole(tmp_path / "m")
    (folder / "text_encoder/model.safetensors").unlink()
    model.check(OPTION, str(folder), ["--variant=fp16"])


# ---- checkpoints


def saved(output: Path, step: int, **change: bytes | None) -> Path:
    folder = output / f"checkpoint-{step}"
    files: dict[str, bytes | None] = {
        "pytorch_lora_weights.safetensors": tensors(),
        "optimizer.bin": pickled(),
        "random_states_0.pkl": pickled(),
        **{name.replace("__", "."): content for name, content in change.items()},
    }
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


CUT = {
    "no random states: a kill": {"random_states_0__pkl": None},
    "weights cut short: a full disk": {"pytorch_lora_weights__safetensors": tensors(0.8)},
    "an optimizer cut short": {"optimizer__bin": pickled(0.7)},
    "an empty file": {"scheduler__bin": b""},
}


@pytest.mark.parametrize("name", CUT)
def test_latest_skips_a_checkpoint_that_is_cut(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 2)
    saved(tmp_path, 10, **CUT[name])
    value, said = checkpoints.chosen("resume", "latest", tmp_path)
    assert value == "checkpoint-2"
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}/checkpoint-10 is skipped: ")
    with pytest.raises(Mistake, match=r"--resume: .*checkpoint-10: .*: give latest, or another checkpoint"):
        checkpoints.chosen("resume", "checkpoint-10", tmp_path)


def test_deepspeeds_mark_is_its_last_file(tmp_path: Path) -> None:
    folder = saved(tmp_path, 2)
    (folder / "pytorch_model").mkdir()
    (folder / "pytorch_model/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(pickled())
    assert "no latest, which DeepSpeed writes last" in checkpoints.complaint(folder)
    (folder / "latest").write_text("pytorch_model")
    assert checkpoints.complaint(folder) == ""


def test_latest_is_left_to_the_script_where_the_newest_is_whole(tmp_path: Path) -> None:
    for step in (2, 10):
        saved(tmp_path, step)
    assert checkpoints.chosen("resume", "latest", tmp_path) == ("latest", [])
    assert checkpoints.chosen("resume", "latest", tmp_path / "none") == ("latest", [])
    assert checkpoints.chosen("resume", "out/checkpoint-2/", tmp_path) == ("out/checkpoint-2", [])


def test_with_none_whole_a_run_starts_anew(tmp_path: Path) -> None:
    saved(tmp_path, 2, random_states_0__pkl=None)
    value, said = checkpoints.chosen("resume", "latest", tmp_path)
    assert (value, len(said)) == ("", 1)
