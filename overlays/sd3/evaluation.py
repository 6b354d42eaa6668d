"""How evaluate_sd3.py compares: draw with each model what the others draw, score, and show them side by side.

A CLIP score is 100 times the cosine of the angle between CLIP's embeddings of an image and of its prompt, 0 where that
is negative (torchmetrics' CLIPScore).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import json
import math
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import prompt_utils
from inference import Mistake, cause, check_source, give_up, image_name, parse_options, settings_of

SEEDS = [0, 1]
PROMPTS = Path(__file__).with_name("evaluate_prompts.txt")
THUMBNAIL = 256  # pixels a side, on the contact sheet
FONT = ""  # a font file for the contact sheet, for prompts in a script that Pillow's own lacks, such as Chinese

SAYS = (
    "A CLIP score says how well an image fits its prompt, as that CLIP model sees it. It does not say whether the "
    "image is good, nor whether it looks like what was trained: CLIP knows no trigger words. SD3 is itself guided by "
    "the text encoder of the default CLIP, which makes that a lenient judge. Only scores of the same CLIP, prompts and "
    "settings compare, and a difference of less than about two standard errors is none. Look at the contact sheet."
)


def parse(defaults: dict[str, Any], arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the options. ``defaults`` are the calling script's constants. What is wrong is one line on stderr
    and exit status 2, before anything is loaded.
    """
    parameters = {"prompts": [str(PROMPTS)], "seeds": SEEDS, "steps": prompt_utils.NUM_INFERENCE_STEPS}
    parameters.update(size=prompt_utils.IMAGE_SIZE, guidance=prompt_utils.GUIDANCE_SCALE, font=FONT)
    return parse_options(
        f"Compare a fine-tuned Stable Diffusion 3 or 3.5 with the model it came from. {SAYS}",
        {**parameters, **defaults},
        {
            "trained": {"help": "the fine-tuned model: a folder, a checkpoint in it, or a hub name; empty: none"},
            "clip": {"help": "the CLIP model that scores: a folder or a hub name"},
            "font": {"help": "a font file for the contact sheet; empty: Pillow's own"},
        },
        check,
        arguments,
    )


def check(options: argparse.Namespace) -> None:
    """Raises Mistake for a model of another kind, nothing to compare, and what scoring or the sheet would lack."""
    prompt_utils.check_kind("--model", options.model)
    if not options.lora and not options.trained:
        raise Mistake("nothing to compare: give --lora, --trained or both")
    if options.trained and not is_checkpoint(options.trained):
        check_source("--trained", options.trained, ("model_index.json", "transformer/config.json"))
        prompt_utils.check_kind("--trained", options.trained)
    check_source("--clip", options.clip, ("preprocessor_config.json",))
    if options.font and not Path(options.font).is_file():
        raise Mistake(f"--font: no file {options.font} (from {Path.cwd()}): give a .ttf, .otf or .ttc file")
    if not importlib.util.find_spec("torchmetrics"):
        raise Mistake("torchmetrics cannot be imported: pip install -r ../examples/dreambooth/requirements_sd3.txt")


def is_checkpoint(folder: str) -> bool:
    """Whether it is a checkpoint of a full fine-tuning: trained parts of a model, not a whole one."""
    path = Path(folder).expanduser()
    return (path / "transformer" / "config.json").is_file() and not (path / "model_index.json").is_file()


def evaluate(options: argparse.Namespace) -> None:
    """Draw, score, print a table, write scores.json and contact_sheet.png to the output folder.

    An image is drawn again only where what made it is not the same as last time.
    """
    metric = load_metric(options.clip)  # first: what is wrong with it should show before hours of drawing
    rows: list[dict[str, Any]] = [{"prompt": prompt, "seed": seed} for prompt, seed in options.jobs]
    made = {}
    for name, variant in variants(options).items():
        made[name] = identify(variant)
        for row in rows:
            row[name] = {"image": f"{name}/{image_name(row['prompt'], row['seed'], made[name])}"}
        missing = [row for row in rows if not (options.output / row[name]["image"]).is_file()]
        print(f"{name}: {len(rows) - len(missing)} of {len(rows)} images are there already", flush=True)
        if missing:
            variant.jobs = [(row["prompt"], row["seed"]) for row in missing]
            prompt_utils.draw(variant, made[name], trained_parts(variant))
            gc.collect()  # the pipeline, before the next is loaded
    metric.to(options.device)
    for row in rows:
        for name in made:
            row[name]["score"] = score(metric, options.output / row[name]["image"], row["prompt"])
    result = {"clip": options.clip, "about": SAYS, **summary(rows, list(made)), "images": rows, "made_from": made}
    scores, sheet = options.output / "scores.json", options.output / "contact_sheet.png"
    scores.write_text(json.dumps(result, indent=2, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    contact_sheet(options.output, rows, list(made), options.font).save(sheet)
    print("\n".join(table(result)))
    print(f"{scores}\n{sheet}")


def variants(options: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """The options to draw with, by name: base, and of trained and lora what is given.

    All draw from the same noise: it comes from the seed, on the CPU, in the same shape and type.
    """
    whole = options.trained and not is_checkpoint(options.trained)
    differences = {
        "base": {"lora": None, "trained": ""},
        "trained": {"lora": None, "trained": "", "model": options.trained} if whole else {"lora": None},
        "lora": {"trained": ""},
    }
    return {
        name: argparse.Namespace(**{**vars(options), **changes, "output": options.output / name})
        for name, changes in differences.items()
        if name == "base" or getattr(options, name)
    }


def identify(options: argparse.Namespace) -> dict[str, Any]:
    """What makes the images of ``options``: the settings, the weights' files, and what computes."""
    import diffusers
    import torch

    settings = settings_of(options, negative=prompt_utils.NEGATIVE_PROMPT, tokens=prompt_utils.MAX_SEQUENCE_LENGTH)
    lora = "/".join(filter(None, options.lora or ()))
    settings.update(model=state(options.model), trained=state(options.trained), lora=state(lora))
    settings.update(device=options.device, torch=torch.__version__, diffusers=diffusers.__version__)
    return settings


def state(source: str) -> str:
    """A model's or LoRA's name; of a local one also a digest of its files' names, sizes and times of change."""
    path = Path(source).expanduser()
    if not source or not path.exists():
        return source
    files = [path] if path.is_file() else sorted(file for file in path.glob("*/*") if file.is_file())
    stats = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{source} {hashlib.sha256(repr(stats).encode()).hexdigest()[:16]}"


def trained_parts(options: argparse.Namespace) -> dict[str, Any]:
    """What a checkpoint of a full fine-tuning has of a model (train_dreambooth_sd3.py, `save_model_hook`)."""
    import diffusers
    import torch
    import transformers

    clip = transformers.CLIPTextModelWithProjection
    kinds = {"transformer": diffusers.SD3Transformer2DModel, "text_encoder": clip, "text_encoder_2": clip}
    kinds["text_encoder_3"] = transformers.T5EncoderModel
    folder = Path(options.trained).expanduser()
    return {
        name: kind.from_pretrained(folder / name, torch_dtype=getattr(torch, options.dtype))
        for name, kind in kinds.items()
        if options.trained and (folder / name / "config.json").is_file()
    }


def load_metric(source: str) -> Any:
    """torchmetrics' CLIPScore with the CLIP of a folder or a hub name, on the CPU. Ends with one line without it."""
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    path = str(Path(source).expanduser())
    try:
        clip = CLIPModel.from_pretrained(path), CLIPProcessor.from_pretrained(path)
    except OSError as error:
        give_up(f"--clip: {source} cannot be loaded: {cause(error)}")
    return CLIPScore(lambda: clip)


def score(metric: Any, path: Path, prompt: str) -> float:
    """The CLIP score, 0 to 100, of an image file with its prompt, of which CLIP reads the first 77 tokens."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    metric.reset()
    metric.update(pil_to_tensor(Image.open(path)).to(metric.device), prompt)
    return float(metric.compute())


def summary(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """The scores of ``names`` (base first) by prompt and on average, and each one's difference to the base.

    A prompt's score is the mean of its seeds. The standard error is over prompts, of the differences prompt by prompt;
    with one prompt there is none.
    """
    prompts = []
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        same = [row for row in rows if row["prompt"] == prompt]
        prompts.append({"prompt": prompt, **{name: _mean(row[name]["score"] for row in same) for name in names}})
    differences = {}
    for name in names[1:]:
        values = [entry[name] - entry["base"] for entry in prompts]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        differences[name] = {"mean": _mean(values), "standard_error": error}
    means = {name: _mean(entry[name] for entry in prompts) for name in names}
    return {"means": means, "differences": differences, "prompts": prompts}


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def table(result: dict[str, Any]) -> list[str]:
    """The lines of a table: each prompt's scores and differences to the base, and their means."""
    names, others = list(result["means"]), list(result["differences"])
    lines = ["  ".join([*(f"{name:>7}" for name in names), *(f"{name + ' - base':>14}" for name in others), "prompt"])]
    for entry in result["prompts"]:
        cells = [f"{entry[name]:7.2f}" for name in names]
        cells += [f"{round(entry[name] - entry['base'], 2) + 0:+14.2f}" for name in others]  # + 0: no -0.00
        lines.append("  ".join([*cells, entry["prompt"]]))
    cells = [f"{result['means'][name]:7.2f}" for name in names]
    for name in others:
        mean, error = result["differences"][name]["mean"], result["differences"][name]["standard_error"]
        cells.append(f"{round(mean, 2) + 0:+.2f}{'' if error is None else f' ± {error:.2f}'}".rjust(14))
    lines.append("  ".join([*cells, "mean CLIP score, ± one standard error over the prompts"]))
    return lines


def contact_sheet(folder: Path, rows: list[dict[str, Any]], names: list[str], font: str) -> Any:
    """One picture of all: for each prompt and seed the models' images side by side, the prompt below, scores above."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    letters = ImageFont.truetype(font, 14) if font else ImageFont.load_default(14)
    line, gap = 20, 12
    first = Image.open(folder / rows[0][names[0]]["image"])
    side, tall = ImageOps.contain(first, (THUMBNAIL, THUMBNAIL)).size
    width = len(names) * (side + 4) + gap
    captions = [textwrap.wrap(f"{row['prompt']} (seed {row['seed']})", width // 8) for row in rows]
    height = line + tall + max(map(len, captions)) * line + gap
    across = max(1, min(len(rows), round(math.sqrt(len(rows) * height / width))))  # about as wide as high
    down = math.ceil(len(rows) / across)
    sheet = Image.new("RGB", (across * width + gap, down * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = gap + number % across * width, gap + number // across * height
        for column, name in enumerate(names):
            x = left + column * (side + 4)
            pen.text((x, top), f"{name} {row[name]['score']:.2f}", "black", letters)
            sheet.paste(Image.open(folder / row[name]["image"]).resize((side, tall)), (x, top + line))
        for place, text in enumerate(captions[number]):
            pen.text((left, top + line + tall + place * line), text, "dimgrey", letters)
    return sheet
