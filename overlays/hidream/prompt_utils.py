"""What the two inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from inference import check_source, draw_images, make_ready, parse_options, settings_of

PROMPTS = [
    "3d icon, a llama eating ramen",
    "3d icon, a lighthouse on a cliff above a calm sea at sunset",
    'a cat holding a sign that says "HiDream"',
]
NEGATIVE_PROMPT = ""
SEEDS = [0]
NUM_INFERENCE_STEPS = 50  # what the model card of HiDream-I1-Full gives; with Dev 28, with Fast 16
GUIDANCE_SCALE = 5.0  # the same; with Dev and Fast 0
IMAGE_SIZE = "1024x1024"  # width x height in pixels
MAX_SEQUENCE_LENGTH = 128  # tokens of a prompt


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, llama, output, device, dtype,
    and lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "steps": NUM_INFERENCE_STEPS}
    parameters.update(size=IMAGE_SIZE, guidance=GUIDANCE_SCALE)
    return parse_options(
        "Draw images with HiDream-I1.",
        {**parameters, **defaults},
        {"llama": {"help": "the fourth text encoder: a folder or a hub name"}},
        lambda options: check_source("--llama", options.llama, ("config.json",)),
        arguments,
    )


def draw(options: argparse.Namespace) -> None:
    """Load the pipeline, draw every prompt with every seed, save the images, report the speed.

    The speed is of one card; the published table is of eight.
    """
    import torch
    from diffusers import HiDreamImagePipeline
    from transformers import AutoTokenizer, LlamaForCausalLM

    dtype = getattr(torch, options.dtype)
    model, llama = str(Path(options.model).expanduser()), str(Path(options.llama).expanduser())
    pipeline = HiDreamImagePipeline.from_pretrained(
        model,
        tokenizer_4=AutoTokenizer.from_pretrained(llama),
        text_encoder_4=LlamaForCausalLM.from_pretrained(
            llama, output_hidden_states=True, output_attentions=True, torch_dtype=dtype
        ),
        torch_dtype=dtype,
    )
    make_ready(pipeline, options)

    width, height = options.size
    # The pipeline scales every size to default_sample_size² latents. Fewer are as asked for; more it cannot do. The
    # millionth keeps rounding from losing the last 16 pixels.
    wanted = math.sqrt(width * height) / pipeline.vae_scale_factor * (1 + 1e-6)
    pipeline.default_sample_size = min(pipeline.default_sample_size, wanted)

    def image(prompt: str, seed: int) -> Any:
        return pipeline(
            prompt=prompt,
            negative_prompt=NEGATIVE_PROMPT,
            width=width,
            height=height,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    settings = settings_of(options, llama=options.llama, negative=NEGATIVE_PROMPT)
    draw_images(image, options, settings, options.steps)
