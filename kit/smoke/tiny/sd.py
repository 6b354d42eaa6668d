"""A tiny Stable Diffusion 1.4 in the layout of the published checkpoint, in seconds: python sd.py DIR

DIR/model is the pipeline (as CompVis/stable-diffusion-v1-4), with its 32 attention processors; DIR/pokemon images and
captions in parquet (as lambdalabs/pokemon-blip-captions), DIR/images the same as files with a metadata.jsonl. Runs in
the reference environment of the recipe sd-lora.
"""

from __future__ import annotations

import sys
from pathlib import Path

import parts
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel


def build(folder: Path, seed: int = 0) -> None:
    """Write the three folders under ``folder``. Raises FileExistsError where one is there already."""
    torch.manual_seed(seed)
    model = folder / "model"
    parts.clip_tokenizer(model / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    CLIPTextModel(CLIPTextConfig(**layers, **tokens, max_position_embeddings=77)).save_pretrained(
        model / "text_encoder"
    )
    UNet2DConditionModel(
        sample_size=8,  # latents a side: pictures of 64 x 64 pixels
        block_out_channels=(16, 32, 32, 32),  # 32 groups of the real one's normalisation are 8 here
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=32,  # the text encoder's width
    ).save_pretrained(model / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=64,
    ).save_pretrained(model / "vae")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(model / "scheduler")
    vision = {**layers, "image_size": 30, "patch_size": 6}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=32))
    for thresholds in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        torch.nn.init.constant_(thresholds, 2.0)  # above any cosine: it lets every picture through
    checker.save_pretrained(model / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}).save_pretrained(
        model / "feature_extractor"
    )
    parts.model_index(
        model,
        "StableDiffusionPipeline",
        {
            "feature_extractor": ("transformers", "CLIPImageProcessor"),
            "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker"),
            "scheduler": ("diffusers", "PNDMScheduler"),
            "text_encoder": ("transformers", "CLIPTextModel"),
            "tokenizer": ("transformers", "CLIPTokenizer"),
            "unet": ("diffusers", "UNet2DConditionModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )
    parts.parquet_folder(folder / "pokemon", caption="text")
    parts.image_folder(folder / "images", caption="text")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
