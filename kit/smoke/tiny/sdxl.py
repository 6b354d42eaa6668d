"""A tiny Stable Diffusion XL, in seconds: python sdxl.py DIR

DIR/model is the pipeline in diffusers' layout (as stabilityai/stable-diffusion-xl-base-1.0), DIR/tokenizers a cache of
its tokenizers under the names that sd-scripts asks for, DIR/data images with captions in a sub-folder with repeats,
DIR/flat the same without, DIR/laion-data in a tar with its parquet and its statistics, as img2dataset writes them,
DIR/prompts.txt a prompt to draw while training, DIR/modules a sitecustomize that gives sd-scripts' constants these
sizes. Runs in the reference environment of the recipe sdxl.

sd-scripts has SDXL's sizes as constants of its modules, which no option changes. The smallest it works with: heads are
64 wide and norms have 32 groups, so the U-Net is 32 channels wide at its first level; text encoder 1 is asked for
hidden state 11.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import parts
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")
WIDTH, PIXELS = 32, 64

SITECUSTOMIZE = '''"""The sizes of the tiny SDXL, for sd-scripts' modules: written by kit/smoke/tiny/sdxl.py."""

import importlib.abc
import importlib.machinery
import sys


def unet(module):
    module.MODEL_CHANNELS, module.TIME_EMBED_DIM, module.ADM_IN_CHANNELS = 32, 128, 32 + 6 * 256
    whole = module.Transformer2DModel

    class Transformer2DModel(whole):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "cross_attention_dim": 64, "num_transformer_layers": 1})

    module.Transformer2DModel = Transformer2DModel


def models(module):
    module.DIFFUSERS_SDXL_UNET_CONFIG.update(
        block_out_channels=[32, 64, 128], cross_attention_dim=64, transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=[1, 1, 2], projection_class_embeddings_input_dim=32 + 6 * 256,
    )
    whole = module.CLIPTextConfig

    def config(**given):
        layers = {768: 12, 1280: 3}[given["hidden_size"]]
        small = dict(vocab_size=514, hidden_size=32, intermediate_size=37, num_attention_heads=4,
                     num_hidden_layers=layers, projection_dim=32, bos_token_id=512, eos_token_id=513)
        return whole(**{**given, **small})

    module.CLIPTextConfig = config


def vae(module):
    module.VAE_PARAMS_CH = 32


SHRINK = {"library.sdxl_original_unet": unet, "library.sdxl_model_util": models, "library.model_util": vae}


class Shrinking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in SHRINK:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            SHRINK[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Shrinking())
'''


def build(folder: Path, seed: int = 0) -> None:
    """Write all of it under ``folder``. Raises FileExistsError where it is there already."""
    model = folder / "model"
    for number, name in enumerate(TOKENIZERS):
        parts.clip_tokenizer(folder / "tokenizers" / name)
        parts.clip_tokenizer(model / f"tokenizer{'_2' * number}")
    common = {"vocab_size": 514, "hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
    common.update({"projection_dim": 32, "bos_token_id": 512, "eos_token_id": 513, "max_position_embeddings": 77})
    torch.manual_seed(seed)
    first = CLIPTextConfig(**common, num_hidden_layers=12, hidden_act="quick_gelu")
    second = CLIPTextConfig(**common, num_hidden_layers=3, hidden_act="gelu")
    CLIPTextModel(first).save_pretrained(model / "text_encoder")
    CLIPTextModelWithProjection(second).save_pretrained(model / "text_encoder_2")
    AutoencoderKL(
        block_out_channels=(WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=0.13025,
    ).save_pretrained(model / "vae")
    UNet2DConditionModel(
        block_out_channels=(WIDTH, 2 * WIDTH, 4 * WIDTH),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=(1, 1, 2),
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=32 + 6 * 256,
    ).save_pretrained(model / "unet")
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        model / "scheduler"
    )
    parts.model_index(
        model,
        "StableDiffusionXLPipeline",
        {
            "scheduler": ("diffusers", "EulerDiscreteScheduler"),
            "text_encoder": ("transformers", "CLIPTextModel"),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
            "tokenizer": ("transformers", "CLIPTokenizer"),
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "unet": ("diffusers", "UNet2DConditionModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )
    data(folder / "data" / "1_cat")
    data(folder / "flat")
    shard(folder / "laion-data", folder / "flat")
    (folder / "prompts.txt").write_text("a cat --w 64 --h 64 --s 2 --d 1\n")
    (folder / "modules").mkdir()
    (folder / "modules" / "sitecustomize.py").write_text(SITECUSTOMIZE)


def data(folder: Path) -> None:
    """Images of 64 x 64 pixels with their captions in .txt files beside them."""
    folder.mkdir(parents=True)
    for name, picture, caption in parts.samples():
        picture.resize((PIXELS, PIXELS)).save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(f"{caption}\n")


def shard(folder: Path, images: Path) -> None:
    """One shard as img2dataset's webdataset output has it: tar, parquet (never read) and statistics."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for source in sorted(images.iterdir()):
            content = source.read_bytes()
            entry = tarfile.TarInfo(f"0000000{source.name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text('{"count": 8, "successes": 8}\n')


if __name__ == "__main__":
    build(Path(sys.argv[1]))
