"""A tiny HiDream-I1 in the layout of the published checkpoints, in seconds: python hidream.py DIR

DIR/model is the pipeline (as HiDream-ai/HiDream-I1-Full), DIR/llama its fourth text encoder and tokenizer (as
meta-llama/Meta-Llama-3.1-8B-Instruct), DIR/data the images and captions (as linoyts/3d_icon). Runs in the reference
environment of the recipe hidream.
"""

from __future__ import annotations

import sys
from pathlib import Path

import parts
from diffusers import FlowMatchEulerDiscreteScheduler, HiDreamImageTransformer2DModel


def build(folder: Path, seed: int = 0) -> None:
    """Write the three folders under ``folder``. Raises FileExistsError where one is there already."""
    model = folder / "model"
    parts.text_encoders(model, positions=248, width=32, seed=seed)
    parts.vae(model / "vae", channels=4)
    HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],  # the T5's and the Llama's widths
        text_emb_dim=64,  # the two CLIP projections together
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=(0, 1),
    ).save_pretrained(model / "transformer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(model / "scheduler")
    parts.model_index(
        model,
        "HiDreamImagePipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": ("transformers", "T5EncoderModel"),
            "text_encoder_4": (None, None),
            "tokenizer": ("transformers", "CLIPTokenizer"),
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "tokenizer_3": ("transformers", "T5Tokenizer"),
            "tokenizer_4": (None, None),
            "transformer": ("diffusers", "HiDreamImageTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )
    parts.llama(folder / "llama")
    parts.image_folder(folder / "data", caption="prompt")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
