"""What the two inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inference import Mistake, draw_images, give_up, parse_options, settings_of
from loading import load, of_kind

PROMPTS = ["Relight the scene with warm light from a low evening sun on the left"]  # with no image: what is to be seen
SEEDS = [42]
NUM_INFERENCE_STEPS = 50  # MindSpeed-MM's page, examples/diffusers/flux-kontext; upstream's own: 28
GUIDANCE_SCALE = 2.5  # the same page; upstream's own: 3.5
IMAGE_SIZE = "1024x1024"  # width x height in pixels
MAX_SEQUENCE_LENGTH = 512  # tokens of a prompt in the T5; the CLIP takes 77


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, image, output, device, dtype,
    and lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "steps": NUM_INFERENCE_STEPS}
    parameters.update(size=IMAGE_SIZE, guidance=GUIDANCE_SCALE)
    return parse_options(
        "Edit an image, or draw one, with FLUX.1-Kontext.",
        {**parameters, **defaults},
        {"image": {"help": "the image to edit: a file, which is scaled to a megapixel; none: draw from the prompt"}},
        check,
        arguments,
    )


def check(options: argparse.Namespace) -> None:
    """Raises Mistake for a model of another kind, and for an image that is missing."""
    of_kind("FluxKontextPipeline")(options)
    if options.image and not Path(options.image).expanduser().is_file():
        raise Mistake(f"--image: no file {options.image} (from {Path.cwd()}): give the image to edit")


def read_image(path: str) -> Any:
    """The image to edit, upright, in RGB. Ends with one line where the file holds none."""
    from PIL import Image, ImageOps

    try:
        return ImageOps.exif_transpose(Image.open(Path(path).expanduser())).convert("RGB")
    except OSError as error:
        give_up(f"--image: {path} cannot be read as an image: {error}")


def draw(options: argparse.Namespace) -> None:
    """Load the pipeline, draw every prompt with every seed, save the images, report the speed of one card."""
    image = read_image(options.image) if options.image else None

    import torch
    from diffusers import FluxKontextPipeline

    pipeline = load(FluxKontextPipeline, options)
    width, height = options.size

    def made(prompt: str, seed: int) -> Any:
        return pipeline(
            image=image,
            prompt=prompt,
            width=width,
            height=height,
            max_area=width * height,  # else the pipeline draws a megapixel in the shape of width and height
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    draw_images(made, options, settings_of(options, image=options.image), options.steps)
