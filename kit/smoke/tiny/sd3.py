"""A tiny Stable Diffusion 3 in the layout of the published checkpoints, in seconds: python sd3.py DIR

DIR/model is the pipeline (as stabilityai/stable-diffusion-3-medium-diffusers, and stable-diffusion-3.5-large, whose
layout is the same), DIR/pokemon images and captions in parquet (as lambdalabs/pokemon-blip-captions), DIR/dog images
alone (as diffusers/dog-example), DIR/clip the model a CLIP score is computed with (as openai/clip-vit-large-patch14).
Runs in the reference environment of the recipe sd3.
"""

from __future__ import annotations

import sys
from pathlib import Path

import parts
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel


def build(folder: Path, seed: int = 0) -> None:
    """Write the four folders under ``folder``. Raises FileExistsError where one is there already."""
    model = folder / "model"
    parts.text_encoders(model, positions=77, width=64, seed=seed)
    parts.vae(model / "vae", channels=4)
    SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,  # the T5's width, and the two CLIPs' together
        caption_projection_dim=32,  # heads x their width
        pooled_projection_dim=64,  # the two CLIP projections together
        pos_embed_max_size=96,
    ).save_pretrained(model / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(model / "scheduler")
    parts.model_index(
        model,
        "StableDiffusion3Pipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": ("transformers", "T5EncoderModel"),
            "tokenizer": ("transformers", "CLIPTokenizer"),
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "tokenizer_3": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "SD3Transformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )
    parts.parquet_folder(folder / "pokemon", caption="text")
    parts.images_alone(folder / "dog")
    parts.clip(folder / "clip")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
