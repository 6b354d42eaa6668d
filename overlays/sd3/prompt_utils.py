"""What the inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from inference import Mistake, cause, draw_images, give_up, make_ready, parse_options, settings_of

PROMPTS = [
    "a photo of a cat holding a sign that says hello world",
    "a lighthouse on a cliff above a calm sea at sunset, oil painting",
]
IMAGE_PROMPTS = ["a cat wizard in a pointed hat, watercolour"]  # with an image to start from
NEGATIVE_PROMPT = ""
SEEDS = [0]
NUM_INFERENCE_STEPS = 28  # what the model card of SD3.5-large gives; the same with SD3-medium
GUIDANCE_SCALE = 3.5  # the same; with SD3-medium 7.0
IMAGE_SIZE = "1024x1024"  # width x height in pixels
STRENGTH = 0.6  # how far from the image to start from, 0 to 1: this part of the steps is taken; upstream's own
MAX_SEQUENCE_LENGTH = 256  # tokens of a prompt in the T5, at most 512; the CLIPs take 77


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, output, device, dtype, and
    lora and image where it has them. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": PROMPTS, "seeds": SEEDS, "steps": NUM_INFERENCE_STEPS}
    parameters.update(size=IMAGE_SIZE, guidance=GUIDANCE_SCALE)
    if "image" in defaults:
        parameters.update(prompts=IMAGE_PROMPTS, strength=STRENGTH)
    return parse_options(
        "Draw images with Stable Diffusion 3 or 3.5.",
        {**parameters, **defaults},
        {
            "image": {"help": "the image to start from: a file; what --size has no room for is cut off"},
            "strength": {"type": float, "help": "how far from it, above 0 to 1: this part of the steps is taken"},
        },
        check,
        arguments,
    )


def check(options: argparse.Namespace) -> None:
    """Raises Mistake for a model of another kind, an image that is missing, and a strength that is none."""
    check_kind("--model", options.model)
    if "image" in options:
        if not Path(options.image).expanduser().is_file():
            raise Mistake(f"--image: no file {options.image} (from {Path.cwd()}): give the image to start from")
        if not 0 < options.strength <= 1:
            raise Mistake(f"--strength: {options.strength}: give a number above 0, at most 1")


def check_kind(option: str, model: str) -> None:
    """Raises Mistake where the folder ``model`` is a pipeline of another kind."""
    index = Path(model).expanduser() / "model_index.json"
    kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name", "") if index.is_file() else ""
    if kind and not kind.startswith("StableDiffusion3"):
        raise Mistake(f"{option}: {model} is a {kind}: give a Stable Diffusion 3 or 3.5")


def load(options: argparse.Namespace, parts: dict[str, Any]) -> Any:
    """The pipeline of ``options``, ``parts`` in place of its own, on their device, with their LoRA.

    A folder without the third text encoder (T5) is fine: diffusers wants to be told. Ends with one line where there is
    no model, or not one that draws as large.
    """
    import diffusers
    import torch

    name = "StableDiffusion3Img2ImgPipeline" if "image" in options else "StableDiffusion3Pipeline"
    model, dtype = str(Path(options.model).expanduser()), getattr(torch, options.dtype)
    if Path(model).is_dir() and not (Path(model) / "text_encoder_3").is_dir():
        print(f"no text_encoder_3 in {model}: drawing without the T5")
        parts = {"text_encoder_3": None, "tokenizer_3": None, **parts}
    try:
        pipeline = getattr(diffusers, name).from_pretrained(model, torch_dtype=dtype, **parts)
    except (OSError, ValueError) as error:
        give_up(f"--model: {model} cannot be loaded: {cause(error)}")
    most = pipeline.transformer.config.pos_embed_max_size * pipeline.patch_size * pipeline.vae_scale_factor
    if max(options.size) > most:
        give_up(f"--size: {max(options.size)}: this model draws at most {most} pixels a side")
    make_ready(pipeline, options)
    return pipeline


def read_image(options: argparse.Namespace) -> Any:
    """The image to start from, upright, in RGB, scaled and cut to the size of ``options``, its middle kept."""
    from PIL import Image, ImageOps

    try:
        image = ImageOps.exif_transpose(Image.open(Path(options.image).expanduser())).convert("RGB")
    except OSError as error:
        give_up(f"--image: {options.image} cannot be read as an image: {error}")
    return ImageOps.fit(image, options.size, Image.Resampling.LANCZOS)


def draw(
    options: argparse.Namespace, settings: dict[str, Any] | None = None, parts: dict[str, Any] | None = None
) -> float:
    """Load the pipeline, draw every job, save the images, report the speed and return it (E2E it/s, of this process).

    ``settings`` are what images are named after, by default all that makes them; ``parts`` replace the pipeline's own.
    """
    import torch

    settings = settings or settings_of(options, negative=NEGATIVE_PROMPT)
    steps = options.steps
    more: dict[str, Any] = {"width": options.size[0], "height": options.size[1]}
    if "image" in options:
        more.update(image=read_image(options), strength=options.strength)
        settings.update(image=options.image, strength=options.strength)
        steps -= int(steps - steps * options.strength)  # as upstream's `get_timesteps`
    pipeline = load(options, parts or {})

    def image(prompt: str, seed: int) -> Any:
        return pipeline(
            prompt=prompt,
            negative_prompt=NEGATIVE_PROMPT,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=torch.Generator("cpu").manual_seed(seed),
            **more,
        ).images[0]

    return draw_images(image, options, settings, steps)
