"""What the inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
from typing import Any

from inference import draw_images, parse_options, settings_of
from loading import load, of_kind

PROMPTS = [
    "a photo of a cat holding a sign that says hello world",
    "a lighthouse on a cliff above a calm sea at sunset, oil painting",
]
SEEDS = [0]
NUM_INFERENCE_STEPS = 28  # the pipeline's own at this pin
GUIDANCE_SCALE = 3.5  # the same, and what the model card of FLUX.1-dev gives
IMAGE_SIZE = "1024x1024"  # width x height in pixels
MAX_SEQUENCE_LENGTH = 512  # tokens of a prompt in the T5; the CLIP takes 77


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, output, device, dtype, and
    lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "steps": NUM_INFERENCE_STEPS}
    parameters.update(size=IMAGE_SIZE, guidance=GUIDANCE_SCALE)
    return parse_options("Draw images with FLUX.1.", {**parameters, **defaults}, {}, of_kind("FluxPipeline"), arguments)


def draw(options: argparse.Namespace) -> float:
    """Load the pipeline, draw every job, save the images, report this process's speed (E2E it/s) and return it."""
    import torch
    from diffusers import FluxPipeline
    from transformer_patches import apply_patches

    apply_patches()
    pipeline = load(FluxPipeline, options)
    width, height = options.size

    def image(prompt: str, seed: int) -> Any:
        return pipeline(
            prompt=prompt,
            width=width,
            height=height,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    return draw_images(image, options, settings_of(options), options.steps)
