"""What the two inference scripts draw, and how: change the prompts and parameters here, or give the scripts options.

Run a script with --help for the options. Images are named after the prompt and all that made them: two prompts, seeds
or settings never overwrite each other, and the same call writes the same names.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import math
import re
import time
from pathlib import Path
from typing import Any

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

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name under which diffusers saves a LoRA
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Mistake(Exception):
    """What is wrong with the input and what to give instead, in one line."""


def read_prompts(values: list[str]) -> list[str]:
    """The prompts among ``values``, each a prompt or the name of a file of prompts; repeated ones once, in order.

    A .jsonl or .json file holds strings or objects with "prompt" (a data set's metadata.jsonl will do); any other has a
    prompt a line, where empty lines and lines that start with # do not count.

    Raises Mistake for a file that is missing, unreadable or without a prompt, and for an empty prompt.
    """
    prompts: list[str] = []
    for value in values:
        path = Path(value).expanduser()
        if len(value) < 256 and "\n" not in value and path.is_file():
            prompts += _prompts_of(path)
        elif re.fullmatch(r"\S+\.(txt|jsonl?)", value):
            raise Mistake(f"--prompts: no file {value} (from {Path.cwd()}): give a file's path, or the prompt itself")
        elif not value.strip():
            raise Mistake("--prompts: empty: give a prompt, or a file of prompts")
        else:
            prompts.append(value.strip())
    return list(dict.fromkeys(prompts))


def _prompts_of(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"--prompts: {path}: {error}: save it as UTF-8 text, a prompt a line") from None
    if path.suffix not in (".json", ".jsonl"):
        lines = [line.strip() for line in text.splitlines()]
        prompts = [line for line in lines if line and not line.startswith("#")]
    else:
        try:
            items = json.loads(text) if path.suffix == ".json" else _json_lines(text)
        except ValueError as error:
            raise Mistake(f"--prompts: {path}: not JSON: {error}") from None
        if not isinstance(items, list):
            raise Mistake(f"--prompts: {path}: a list of prompts was expected")
        prompts = []
        for number, item in enumerate(items, 1):
            prompt = item.get("prompt") if isinstance(item, dict) else item
            if not isinstance(prompt, str) or not prompt.strip():
                raise Mistake(f'--prompts: {path}: entry {number} is no prompt: a string, or an object with "prompt"')
            prompts.append(prompt.strip())
    if not prompts:
        raise Mistake(f"--prompts: {path}: no prompt in it: write one a line")
    return prompts


def _json_lines(text: str) -> list[Any]:
    items = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                items.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return items


def read_seeds(values: list[str]) -> list[int]:
    """Seeds given apart or with commas, repeated ones once. Raises Mistake for what is no whole number from 0."""
    words = [word for value in values for word in value.replace(",", " ").split()]
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,18}", word)]
    if wrong or not words:
        raise Mistake(f"--seeds: {wrong[0] if wrong else 'empty'}: give whole numbers from 0, such as --seeds 0 1 2")
    return list(dict.fromkeys(map(int, words)))


def read_size(value: str) -> tuple[int, int]:
    """Width and height in pixels of "N" or "WxH". Raises Mistake unless both are multiples of 16 above 0.

    16: the VAE shrinks a side eight times, and the transformer takes 2 x 2 patches. Upstream rounds anything else down
    without a word (pipeline_hidream_image.py, `division`).
    """
    match = re.fullmatch(r"([0-9]{1,5})(?:[x*]([0-9]{1,5}))?", value.strip().lower())
    if not match:
        raise Mistake(f"--size: {value}: give pixels, N or WxH, such as 1024 or 1280x720")
    width, height = int(match[1]), int(match[2] or match[1])
    if min(width, height) < 16 or width % 16 or height % 16:
        near = "x".join(str(max(16, round(side / 16) * 16)) for side in (width, height))
        raise Mistake(f"--size: {value}: sides must be multiples of 16: give {near}")
    return width, height


def image_name(prompt: str, seed: int, settings: dict[str, Any]) -> str:
    """A file name for one image: the prompt's words, a digest of prompt and settings, and the seed.

    >>> image_name("3d icon, a llama", 0, {})
    '3d-icon-a-llama_5eeda3dd_seed0.png'
    """
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:40].strip("-_") or "image"
    whole = json.dumps([prompt, settings], sort_keys=True, default=str)
    return f"{words}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}_seed{seed}.png"


def check_source(option: str, value: str, files: tuple[str, ...]) -> None:
    """Let a folder with one of ``files``, or a hub name (org/name), through. Raises Mistake for anything else.

    Offline (HF_HUB_OFFLINE) a hub name is left to diffusers, which looks for it in its cache.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in files):
            raise Mistake(f"{option}: no {' or '.join(files)} in {value}: give the folder that has it")
    elif path.exists():
        raise Mistake(f"{option}: {value} is a file: give the folder it is in")
    elif not HUB_NAME.fullmatch(value):
        raise Mistake(f"{option}: no folder {value} (from {Path.cwd()}): give its path, or a hub name (org/name)")


def check_lora(value: str) -> tuple[str, str | None]:
    """The folder or hub name of a LoRA and the name of the file in it. Raises Mistake where there is none.

    The file's name is always given for a local LoRA: without it diffusers asks the hub (loaders/lora_base.py,
    `_best_guess_weight_name`) and fails offline.
    """
    path = Path(value).expanduser()
    if path.is_file():
        return str(path.parent), path.name
    if not path.is_dir() and HUB_NAME.fullmatch(value):
        return value, None
    if not path.is_dir():
        raise Mistake(f"--lora: no file or folder {value} (from {Path.cwd()}): give the training's output folder")
    if not (path / LORA_FILE).is_file():
        checkpoints = sorted(path.glob(f"checkpoint-*/{LORA_FILE}"), key=lambda file: (len(file.parent.name), file))
        hint = checkpoints[-1].parent if checkpoints else "the training's output folder"
        raise Mistake(f"--lora: no {LORA_FILE} in {value}: give {hint}")
    return str(path), LORA_FILE


def choose_device(name: str) -> str:
    """The torch device for ``name`` ("auto": the first there is). Raises Mistake where it is not there."""
    if name == "cpu":
        return name
    try:
        import torch
    except ImportError:
        raise Mistake("torch cannot be imported: activate the environment first") from None

    def there(device: str) -> bool:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"torch_{device}")  # a package of this name registers its device with torch
        return device == "cpu" or (hasattr(torch, device) and getattr(torch, device).is_available())

    if name == "auto":
        return next(device for device in ("npu", "cuda", "cpu") if there(device))
    if not there(name):
        raise Mistake(f"--device {name}: torch finds no such device here: install its package, or give --device auto")
    return name


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants: model, llama, output, device, dtype,
    and lora where it has one. What is wrong is one line on stderr and exit status 2, before anything is loaded.
    """
    parser = argparse.ArgumentParser(
        usage="python %(prog)s [options, see --help]",
        description="Draw images with HiDream-I1.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=defaults["model"], help="the model: a folder or a hub name")
    parser.add_argument("--llama", default=defaults["llama"], help="the fourth text encoder: a folder or a hub name")
    if "lora" in defaults:
        parser.add_argument("--lora", default=defaults["lora"], help="the LoRA: a folder, a file or a hub name")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, help="prompts, or files of prompts")
    parser.add_argument("--seeds", nargs="+", default=[str(seed) for seed in SEEDS], help="one image each")
    parser.add_argument("--steps", type=int, default=NUM_INFERENCE_STEPS, help="denoising steps")
    parser.add_argument("--size", default=IMAGE_SIZE, help="pixels, N or WxH")
    parser.add_argument("--guidance", type=float, default=GUIDANCE_SCALE, help="guidance scale; up to 1: none")
    parser.add_argument("--output", default=defaults["output"], help="the folder for the images")
    parser.add_argument("--device", default=defaults["device"], help="npu, cuda, cpu, or auto: the first there is")
    parser.add_argument("--dtype", default=defaults["dtype"], choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--offload", action="store_true", help="only the part at work is on the device: less memory")
    options = parser.parse_args(arguments)
    try:
        options.prompts = read_prompts(options.prompts)
        options.seeds = read_seeds(options.seeds)
        options.size = read_size(options.size)
        if options.steps < 1:
            raise Mistake(f"--steps: {options.steps}: give a whole number from 1")
        check_source("--model", options.model, ("model_index.json",))
        check_source("--llama", options.llama, ("config.json",))
        if "lora" in defaults:
            options.lora = check_lora(options.lora)
        options.device = choose_device(options.device)
    except Mistake as mistake:
        parser.exit(2, f"{parser.prog}: error: {mistake}\n")
    return options


def draw(options: argparse.Namespace) -> None:
    """Load the pipeline, draw every prompt with every seed, save the images, report the speed.

    E2E it/s: denoising steps over the seconds of whole pipeline calls, text encoding and VAE decoding included; where
    there are several images, the first only warms up. On one card; the seed's table is of eight.
    """
    import torch
    from diffusers import HiDreamImagePipeline
    from transformers import AutoTokenizer, LlamaForCausalLM

    device, dtype = options.device, getattr(torch, options.dtype)
    model, llama = str(Path(options.model).expanduser()), str(Path(options.llama).expanduser())
    pipeline = HiDreamImagePipeline.from_pretrained(
        model,
        tokenizer_4=AutoTokenizer.from_pretrained(llama),
        text_encoder_4=LlamaForCausalLM.from_pretrained(
            llama, output_hidden_states=True, output_attentions=True, torch_dtype=dtype
        ),
        torch_dtype=dtype,
    )
    lora = getattr(options, "lora", None)
    if lora:
        pipeline.load_lora_weights(lora[0], weight_name=lora[1])
    if options.offload and device != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)

    width, height = options.size
    # The pipeline scales every size to default_sample_size² latents. Fewer are as asked for; more it cannot do. The
    # millionth keeps rounding from losing the last 16 pixels.
    wanted = math.sqrt(width * height) / pipeline.vae_scale_factor * (1 + 1e-6)
    pipeline.default_sample_size = min(pipeline.default_sample_size, wanted)

    settings = {name: getattr(options, name) for name in ("model", "llama", "steps", "size", "guidance", "dtype")}
    settings |= {"lora": lora, "negative": NEGATIVE_PROMPT}
    folder = Path(options.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    seconds = []
    for prompt in options.prompts:
        for seed in options.seeds:
            start = time.perf_counter()
            image = pipeline(
                prompt=prompt,
                negative_prompt=NEGATIVE_PROMPT,
                width=width,
                height=height,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                max_sequence_length=MAX_SEQUENCE_LENGTH,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]  # on the host already: the call has waited for the device
            seconds.append(time.perf_counter() - start)
            path = folder / image_name(prompt, seed, settings)
            image.save(path)
            note = "" if image.size == (width, height) else f" (asked for {width}x{height}: more than the model draws)"
            print(f"{path}  {image.width}x{image.height}{note}  {seconds[-1]:.1f} s", flush=True)
    counted = seconds[1:] or seconds
    rate = options.steps * len(counted) / sum(counted)
    print(f"E2E it/s : {rate:.4g} ({len(seconds)} images, {options.steps} steps, {device}, {options.dtype})")
