"""Tiny models and data of FLUX.2 and Z-Image: python flux2_models.py DIR flux2|zimage, with kit/smoke/tiny importable.

DIR/model is a pipeline as black-forest-labs/FLUX.2-dev, or Tongyi-MAI/Z-Image; DIR/captioned images with captions;
DIR/alone images; DIR/pairs images, those they are conditioned on and instructions, as kontext-community/relighting.
Sizes are the smallest that the real classes accept. Runs in the environments of test_watched_families.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import parts
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}

# Without the system message, which alone is longer than 64 tokens: the captions would be cut off.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for block in message['content'] %}{{ block['text'] }}{% endfor %}[/INST]{% endif %}{% endfor %}"
)
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_tokenizer(*specials: str) -> Tokenizer:
    """Byte-level BPE of the captions, with the specials its first tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(specials), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(parts.CAPTIONS, trainer)
    return tokenizer


def mistral(model: Path) -> None:
    """A Mistral 3 with 30 layers: the script takes the states of layers 10, 20 and 30. It sees images, and is shown
    none."""
    images = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_tokenizer("<unk>", "<s>", "</s>", "[INST]", "[/INST]", *images, "<pad>"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
    )
    pictures = transformers.PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4})
    transformers.PixtralProcessor(
        pictures, tokenizer, patch_size=4, spatial_merge_size=2, chat_template=MISTRAL
    ).save_pretrained(model / "tokenizer")
    text = {**TEXT, "model_type": "mistral", "vocab_size": len(tokenizer), "num_hidden_layers": 30}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "head_dim": 8, "image_size": 32, "patch_size": 4}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=5, spatial_merge_size=2
    )
    transformers.Mistral3ForConditionalGeneration(config).save_pretrained(model / "text_encoder")


def qwen(model: Path) -> None:
    """A Qwen 3 with two layers: the script takes the states before the last."""
    files = model / "tokenizer"
    files.mkdir(parents=True)
    tokenizer = bytes_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.model.save(str(files))
    fast = transformers.Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=512,
    )
    fast.chat_template = QWEN
    fast.save_pretrained(files)
    config = transformers.Qwen3Config(**TEXT, vocab_size=len(fast), num_hidden_layers=2)
    transformers.Qwen3Model(config).save_pretrained(model / "text_encoder")


def flux2(model: Path) -> None:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    mistral(model)
    AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    ).save_pretrained(model / "vae")
    Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,  # 2 x 2 of the VAE's 4 channels
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,  # three states of the text encoder
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),  # their sum is the width of a head
    ).save_pretrained(model / "transformer")
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(model / "scheduler")
    parts.model_index(
        model,
        "Flux2Pipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "Mistral3ForConditionalGeneration"),
            "tokenizer": ("transformers", "PixtralProcessor"),
            "transformer": ("diffusers", "Flux2Transformer2DModel"),
            "vae": ("diffusers", "AutoencoderKLFlux2"),
        },
    )


def zimage(model: Path) -> None:
    from diffusers import ZImageTransformer2DModel

    qwen(model)
    parts.vae(model / "vae", channels=4)
    ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,  # the width of the text encoder
        axes_dims=[8, 4, 4],  # their sum is the width of a head
    ).save_pretrained(model / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(model / "scheduler")
    parts.model_index(
        model,
        "ZImagePipeline",
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "Qwen3Model"),
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "transformer": ("diffusers", "ZImageTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
        },
    )


def pairs(folder: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    rows = [
        {"file_name": picture, "output": picture.rotate(90), "instruction": caption}
        for _, picture, caption in parts.samples()
    ]
    features = Features({"file_name": Image(), "output": Image(), "instruction": Value("string")})
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True)
    torch.manual_seed(0)
    {"flux2": flux2, "zimage": zimage}[sys.argv[2]](place / "model")
    parts.image_folder(place / "captioned", "prompt")
    parts.images_alone(place / "alone")
    pairs(place / "pairs")
