"""The parts of a tiny Stable Diffusion XL, for sdxl.toml."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import parts

TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")
PIXELS = 64

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


def tokenizers(folder: Path) -> None:
    """Both, in a folder each."""
    for name in TOKENIZERS:
        parts.clip_tokenizer(folder / name)


def captioned(folder: Path) -> None:
    """Images of 64 x 64 pixels with their captions in .txt files beside them."""
    folder.mkdir(parents=True)
    for name, picture, caption in parts.samples():
        picture.resize((PIXELS, PIXELS)).save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(f"{caption}\n")


def shard(folder: Path) -> None:
    """One shard as img2dataset's webdataset output has it: tar, parquet (never read) and statistics."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for source in sorted((folder.parent / "flat").iterdir()):
            content = source.read_bytes()
            entry = tarfile.TarInfo(f"0000000{source.name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text('{"count": 8, "successes": 8}\n')


def prompts(file: Path) -> None:
    """One, in sd-scripts' form."""
    file.write_text("a cat --w 64 --h 64 --s 2 --d 1\n")


def sizes(folder: Path) -> None:
    """A module that Python imports first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
