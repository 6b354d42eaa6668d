"""Tiny models and data of families outside the recipes: python family_models.py DIR, with kit/smoke/tiny importable.

DIR/flux is a pipeline as black-forest-labs/FLUX.1-dev; DIR/ddpm.json the configuration of a UNet for
train_unconditional.py; DIR/pairs images, conditioning images and captions in parquet, as train_controlnet.py takes
them; DIR/images images alone. Runs in the reference environment of the recipe hidream.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import parts
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel


def flux(model: Path) -> None:
    torch.manual_seed(0)
    parts.clip_tokenizer(model / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    CLIPTextModel(CLIPTextConfig(**layers, **tokens, max_position_embeddings=77)).save_pretrained(
        model / "text_encoder"
    )
    parts.t5_tokenizer(model / "tokenizer_2")
    parts.t5_encoder(model / "text_encoder_2", width=32)
    FluxTransformer2DModel(
        in_channels=16,  # 2 x 2 pixels of the VAE's 4 channels
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),  # their sum is the width of a head
    ).save_pretrained(model / "transformer")
    parts.vae(model / "vae", channels=4)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(model / "scheduler")
    parts.model_index(
        model,
        "FluxPipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "CLIPTextModel"),
            "text_encoder_2": ("transformers", "T5EncoderModel"),
            "tokenizer": ("transformers", "CLIPTokenizer"),
            "tokenizer_2": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "FluxTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )


def ddpm(file: Path) -> None:
    config = {"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3}
    config |= {"layers_per_block": 1, "block_out_channels": [8, 16], "norm_num_groups": 4}
    config |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    file.write_text(json.dumps(config))


def pairs(folder: Path) -> None:
    rows = [{"image": picture, "conditioning_image": picture, "text": text} for _, picture, text in parts.samples()]
    features = Features({"image": Image(), "conditioning_image": Image(), "text": Value("string")})
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True)
    flux(place / "flux")
    ddpm(place / "ddpm.json")
    pairs(place / "pairs")
    parts.images_alone(place / "images")
