"""What the inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inference import cause, draw_images, give_up, make_ready, parse_options, settings_of

PROMPTS = ["cute dragon creature"]
NEGATIVE_PROMPT = ""
SEEDS = [42]
GUIDANCE_SCALE = 7.5
IMAGE_SIZE = "512x512"  # width x height in pixels


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, output, device, dtype, steps,
    and lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "size": IMAGE_SIZE, "guidance": GUIDANCE_SCALE}
    return parse_options(
        "Draw images with Stable Diffusion 1.", {**parameters, **defaults}, {}, lambda options: None, arguments
    )


def draw(options: argparse.Namespace) -> None:
    """Load the pipeline, draw every prompt with every seed, save the images, report the speed.

    Ends with one line where the model or the LoRA cannot be loaded. Noise is drawn on the CPU, so that a seed gives the
    same picture on every device.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    model = str(Path(options.model).expanduser())
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, options.dtype))
    except (OSError, ValueError) as error:
        give_up(f"--model: {model} cannot be loaded: {cause(error)}")
    make_ready(pipeline, options)
    pipeline.set_progress_bar_config(leave=False)

    def image(prompt: str, seed: int) -> Any:
        return pipeline(
            prompt=prompt,
            negative_prompt=NEGATIVE_PROMPT,
            width=options.size[0],
            height=options.size[1],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    draw_images(image, options, settings_of(options, negative=NEGATIVE_PROMPT), options.steps)
