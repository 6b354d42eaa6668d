"""What the two inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
from typing import Any

from inference import draw_images, parse_options, settings_of
from loading import load, of_kind

PROMPTS = [  # the words at the end are those that the model card of Qwen-Image adds to every prompt
    'A coffee shop, beside its door a chalkboard that says "Qwen Coffee", Ultra HD, 4K, cinematic composition.',
    "3d icon, a llama eating ramen, Ultra HD, 4K, cinematic composition.",
    "森林中一只小鹿在溪边喝水, 超清，4K，电影级构图.",
]
NEGATIVE_PROMPT = " "  # one there must be, or there is no guidance
SEEDS = [42]
NUM_INFERENCE_STEPS = 50  # what the model card gives
GUIDANCE_SCALE = 4.0  # the same, as true_cfg_scale; up to 1: none, and twice as fast
IMAGE_SIZE = "1664x928"  # width x height in pixels
MAX_SEQUENCE_LENGTH = 512  # tokens of a prompt


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, output, device, dtype, and
    lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "steps": NUM_INFERENCE_STEPS}
    parameters.update(size=IMAGE_SIZE, guidance=GUIDANCE_SCALE)
    return parse_options(
        "Draw images with Qwen-Image.", {**parameters, **defaults}, {}, of_kind("QwenImagePipeline"), arguments
    )


def draw(options: argparse.Namespace) -> None:
    """Load the pipeline, draw every prompt with every seed, save the images, report the speed (of one card)."""
    import torch  # after the options: it takes long
    from diffusers import QwenImagePipeline

    pipeline = load(QwenImagePipeline, options)
    width, height = options.size

    def image(prompt: str, seed: int) -> Any:
        return pipeline(
            prompt=prompt,
            negative_prompt=NEGATIVE_PROMPT,
            width=width,
            height=height,
            num_inference_steps=options.steps,
            true_cfg_scale=options.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    draw_images(image, options, settings_of(options, negative=NEGATIVE_PROMPT), options.steps)
