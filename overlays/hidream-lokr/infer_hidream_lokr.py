"""Draw images with HiDream-I1 and a LoKr merged into it: python infer_hidream_lokr.py --help

The LoKr is quantised with the model by default, as it was in training. Unlike the seed's example this takes everything
as an option, uses the negative prompt it is given, and refuses a file of which no module fits.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
import time
from pathlib import Path

MODEL = "HiDream-ai/HiDream-I1-Full"
LLAMA = "unsloth/Meta-Llama-3.1-8B-Instruct"
WEIGHTS = "pytorch_lora_weights.safetensors"  # the name SimpleTuner saves under
NEGATIVE = "ugly, cropped, blurry, low-quality, mediocre average"


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. What is wrong is one line on stderr and exit status 2, before torch is loaded."""
    show = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=show)
    parser.add_argument("--lokr", required=True, help="the LoKr: the training's output folder, a file, or a hub name")
    parser.add_argument("--model", default=MODEL, help="the model: a folder or a hub name")
    parser.add_argument("--llama", default=LLAMA, help="the fourth text encoder: a folder or a hub name")
    parser.add_argument("--prompts", nargs="+", required=True, help="what to draw")
    parser.add_argument("--negative", default=NEGATIVE, help="what not to draw")
    parser.add_argument("--scale", type=float, default=1.0, help="strength of the LoKr; 0: none")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=3.2, help="guidance scale")
    parser.add_argument("--size", default="1024x1024", help="pixels, N or WxH, multiples of 16")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="one image each")
    parser.add_argument(
        "--precision", default="int8-quanto", choices=["int8-quanto", "no_change"], help="of the weights"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"], help="of the rest")
    parser.add_argument("--device", default="auto", help="npu, cuda, mps, cpu, or auto: the first of them there is")
    parser.add_argument("--output", default="output/images", help="the folder for the images")
    given = parser.parse_args(arguments)
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", given.size)
    if not sides or any(int(side or 16) % 16 or int(side or 16) < 16 for side in sides.groups()):
        parser.error(f"--size {given.size}: give pixels, N or WxH, multiples of 16 such as 1024 or 1280x768")
    given.width, given.height = int(sides[1]), int(sides[2] or sides[1])
    if given.steps < 1:
        parser.error(f"--steps {given.steps}: give a whole number from 1")
    for name, marker in (("model", "model_index.json"), ("llama", "config.json")):
        folder = Path(getattr(given, name)).expanduser()
        setattr(given, name, str(folder) if folder.exists() else getattr(given, name))
        if folder.is_dir() and not (folder / marker).is_file():
            parser.error(f"--{name} {folder}: no {marker} in it: give the folder of the whole model")
        if not folder.exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", getattr(given, name)):
            parser.error(f"--{name} {folder}: no such folder (from {Path.cwd()}), and no hub name such as org/name")
    given.lokr = _weights(given.lokr, parser)
    return given


def _weights(text: str, parser: argparse.ArgumentParser) -> str:
    """The file of weights: here, in the folder, or fetched from the hub."""
    path = Path(text).expanduser()
    if path.is_file() or (path / WEIGHTS).is_file():
        return str(path if path.is_file() else path / WEIGHTS)
    if path.is_dir():
        parser.error(f"--lokr {path}: no {WEIGHTS} in it: give the training's output folder, or a checkpoint in it")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        parser.error(f"--lokr {path}: no such file or folder (from {Path.cwd()})")
    from huggingface_hub import hf_hub_download

    return hf_hub_download(text, WEIGHTS)


def choose_device(name: str) -> str:
    """The torch device for ``name``; "auto": the first there is. Ends the program where it is not there."""
    import torch

    def there(device: str) -> bool:
        if importlib.util.find_spec(f"torch_{device}"):
            importlib.import_module(f"torch_{device}")  # a package of this name registers its device with torch
        return device == "cpu" or (hasattr(torch, device) and getattr(torch, device).is_available())

    if name != "auto" and not there(name):
        sys.exit(f"infer_hidream_lokr.py: error: --device {name}: torch finds no such device here: give --device auto")
    return name if name != "auto" else next(filter(there, ("npu", "cuda", "mps", "cpu")))


def draw(given: argparse.Namespace) -> None:
    """Load, merge, quantise, encode, draw and save. Ends the program where no module of the LoKr fits the model."""
    import torch
    from lycoris import create_lycoris_from_weights
    from simpletuner.helpers.models.hidream.pipeline import HiDreamImagePipeline
    from simpletuner.helpers.models.hidream.transformer import HiDreamImageTransformer2DModel
    from transformers import AutoTokenizer, LlamaForCausalLM

    device, dtype = choose_device(given.device), getattr(torch, given.dtype)
    transformer = HiDreamImageTransformer2DModel.from_pretrained(
        given.model, subfolder="transformer", torch_dtype=dtype
    )
    network, weights = create_lycoris_from_weights(given.scale, given.lokr, transformer)
    named = {key.partition(".")[0] for key in weights}
    if len(network.loras) < len(named) or not named:
        missing = f"{len(network.loras)} of its {len(named)} modules fit the model"
        sys.exit(f"infer_hidream_lokr.py: error: --lokr {given.lokr}: {missing}: is it a LyCORIS file for HiDream?")
    network.merge_to()
    print(f"merged {len(network.loras)} modules of {given.lokr}")
    llama = LlamaForCausalLM.from_pretrained(
        given.llama, output_hidden_states=True, output_attentions=True, torch_dtype=dtype
    )
    pipeline = HiDreamImagePipeline.from_pretrained(
        given.model,
        tokenizer_4=AutoTokenizer.from_pretrained(given.llama),
        text_encoder_4=llama,
        transformer=transformer,
        torch_dtype=dtype,
    )
    if given.precision == "int8-quanto":
        from optimum.quanto import freeze, qint8, quantize

        quantize(transformer, weights=qint8)
        freeze(transformer)
    pipeline.to(device)

    # The pipeline scales every size to default_sample_size² latents; the millionth keeps rounding from losing pixels.
    wanted = math.sqrt(given.width * given.height) / pipeline.vae_scale_factor * (1 + 1e-6)
    pipeline.default_sample_size = min(pipeline.default_sample_size, wanted)
    names = ("t5", "llama", "negative_t5", "negative_llama", "pooled", "negative_pooled")
    encoded = []
    with torch.no_grad():
        for prompt in given.prompts:
            texts = {f"prompt{part}": prompt for part in ("", "_2", "_3", "_4")}
            against = {f"negative_prompt{part}": given.negative for part in ("", "_2", "_3", "_4")}
            embeds = pipeline.encode_prompt(**texts, **against, device=torch.device(device), dtype=dtype)
            encoded.append({f"{name}_prompt_embeds": each for name, each in zip(names, embeds, strict=True)})
    for encoder in ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"):
        getattr(pipeline, encoder).to("meta")  # they are done, and their memory is wanted

    folder = Path(given.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    seconds = []
    for number, (prompt, embeds) in enumerate(zip(given.prompts, encoded, strict=True)):
        for seed in given.seeds:
            start = time.perf_counter()
            image = pipeline(
                **embeds,
                width=given.width,
                height=given.height,
                num_inference_steps=given.steps,
                guidance_scale=given.guidance,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]
            seconds.append(time.perf_counter() - start)
            words = "-".join(re.findall(r"\w+", prompt.lower()))[:40] or "image"
            path = folder / f"{number:02}-{words}_seed{seed}.png"
            image.save(path)
            print(f"{path}  {image.width}x{image.height}  {seconds[-1]:.1f} s", flush=True)
    counted = seconds[1:] or seconds
    rate = given.steps * len(counted) / sum(counted)
    print(f"E2E it/s : {rate:.4g} ({len(seconds)} images, {given.steps} steps, {device}, {given.dtype})")


if __name__ == "__main__":
    draw(options())
