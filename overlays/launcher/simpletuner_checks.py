"""What SimpleTuner's settings may be: each check says what is wrong before anything is loaded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from launcher import data, model
from launcher.mistake import Mistake, nearest
from launcher.options import Option

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CAPTIONS = ("instanceprompt", "textfile", "filename", "parquet", "csv", "huggingface")
QUOTED = re.compile(r"""["']([A-Za-z][\w.-]*)["']""")
SECTIONS = "simpletuner/simpletuner_sdk/server/services/field_registry/sections"
TRAINING = "simpletuner/helpers/training"
# Where SimpleTuner's source says which values there are (v4.0.6): a value that is not spelled out there is none.
VALUES = {
    "optimizer": f"{TRAINING}/optimizer_param.py",
    "lr_scheduler": f"{SECTIONS}/training.py",
    "mixed_precision": f"{SECTIONS}/advanced.py",
    **dict.fromkeys(
        ("base_model_precision", *(f"text_encoder_{number}_precision" for number in range(1, 5))),
        f"{TRAINING}/__init__.py",
    ),
}
LLAMA = ("text_encoder_4", "tokenizer_4")  # parts of the model that may come from elsewhere
CUDA_ONLY = re.compile(r"nf4|fp8|bnb-|.*-bnb$")


def read(path: Path) -> Any:
    """A JSON file. Raises Mistake with file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}: run it from the folder with config/") from None
    except json.JSONDecodeError as error:
        raise Mistake(f"{path}:{error.lineno}: not JSON: {error.msg} (a comma too many, or one missing?)") from None


def spelled_out(root: Path, pattern: str) -> set[str]:
    """Every word that stands in quotes in files of SimpleTuner's source; none where there is no such file."""
    return {word for path in root.glob(pattern) for word in QUOTED.findall(path.read_text(encoding="utf-8"))}


def check_values(config: dict[str, Any], backends: list[dict[str, Any]], root: Path, file: Path) -> None:
    """Values and keys that SimpleTuner's source does not know. Raises Mistake."""
    for key, pattern in VALUES.items():
        known = spelled_out(root, pattern)
        item = config.get(key)
        if isinstance(item, str) and known and item not in known and not CUDA_ONLY.match(item):
            raise Mistake(f'"{key}": SimpleTuner has no {item!r}{nearest(item, sorted(known))}')
    known = spelled_out(root, "simpletuner/helpers/**/*.py")
    for each in backends if known else []:
        for key in each:
            if key not in known:
                raise Mistake(f'{file}: {each.get("id")}: SimpleTuner reads no "{key}"{nearest(key, sorted(known))}')
    for key in ("resolution", "num_train_epochs", "learning_rate"):
        item = config.get(key, 1)
        if not isinstance(item, (int, float)) or isinstance(item, bool) or item < 0:
            raise Mistake(f'"{key}": {item!r} is no number from 0')


def check_config(config: dict[str, Any], device: str, file: Path) -> None:
    """What can be said of the options alone. Raises Mistake."""
    for key, item in config.items():
        if isinstance(item, str) and item.strip().lower() == "false":
            raise Mistake(f'{file}: "{key}": "{item}" in quotes would be dropped: write false, without quotes')
    precisions = {key: item for key, item in config.items() if key.endswith("_precision")}
    for key, item in (*precisions.items(), ("optimizer", config.get("optimizer"))):
        if CUDA_ONLY.match(str(item)) and device != "cuda":
            better = "optimi-lion" if key == "optimizer" else "int8-quanto"
            raise Mistake(f'"{key}": {item} needs CUDA (bitsandbytes, or its 8-bit floats), this is {device}: {better}')
    if config.get("base_model_precision") == "fp8-quanto":
        raise Mistake('"base_model_precision": SimpleTuner does not take fp8-quanto for HiDream: fp8-torchao')
    if config.get("enable_group_offload") and device != "cuda":
        raise Mistake(f'"enable_group_offload": SimpleTuner has it for CUDA only, this is {device}: false')
    if config.get("optimizer_release_gradients"):
        if config.get("model_type") == "lora" and config.get("lora_type") == "lycoris":
            raise Mistake('"optimizer_release_gradients": SimpleTuner updates no weight of a LyCORIS so: false')
        if config.get("gradient_accumulation_steps", 1) != 1:
            raise Mistake('"optimizer_release_gradients" keeps none to accumulate: "gradient_accumulation_steps": 1')
    if config.get("mixed_precision") == "fp16" and device == "cpu":
        raise Mistake('"mixed_precision": a CPU does not train in fp16: bf16')
    if config.get("model_type") == "full" and config.get("base_model_precision", "no_change") != "no_change":
        raise Mistake('"model_type": full trains the very weights that "base_model_precision" quantises: no_change')
    for key in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "vae_batch_size"):
        if not isinstance(config.get(key, 1), int) or config.get(key, 1) < 1:
            raise Mistake(f'"{key}": {config[key]!r} is no whole number from 1')
    option = Option("pretrained_model_name_or_path", "model", "", pipelines=("HiDreamImagePipeline",), apart=LLAMA)
    model.check(option, os.path.expanduser(str(config.get(option.name, ""))))


def check_adapter(config: dict[str, Any]) -> None:
    """The LyCORIS file is there, and is for LoKr on some modules. Raises Mistake."""
    if config.get("model_type") != "lora" or config.get("lora_type") != "lycoris":
        return
    file = Path(str(config.get("lycoris_config", "config/lycoris_config.json")))
    table = read(file)
    preset = table.get("apply_preset", {})
    if not preset.get("target_module") and not preset.get("name_algo_map"):
        raise Mistake(f'{file}: neither "target_module" nor "name_algo_map" in "apply_preset" names a module to train')
    if preset.get("name_algo_map") and "target_module" not in preset:
        raise Mistake(
            f'{file}: without "target_module": [] the modules of "name_algo_map" come on top of all Linear layers, '
            "the routed experts' too: add it"
        )


def check_data(backends: list[dict[str, Any]], config: dict[str, Any], processes: int, file: Path) -> None:
    """Each data set is there, has images and captions, and enough of them; one is of text embeds. Raises Mistake."""
    enabled = [each for each in backends if not each.get("disabled") or each["disabled"] == "false"]
    ids = [each.get("id") for each in enabled]
    for each in enabled:
        if not each.get("id") or ids.count(each["id"]) > 1:
            raise Mistake(f'{file}: each data set needs an "id" of its own: {each.get("id")!r}')
    embeds = [each for each in enabled if each.get("dataset_type") == "text_embeds" and each.get("default")]
    if len(embeds) != 1:
        raise Mistake(f'{file}: one data set must be of "dataset_type": "text_embeds" with "default": true')
    images = [each for each in enabled if each.get("dataset_type", "image") == "image"]
    if not images:
        raise Mistake(f"{file}: there is no data set of images")
    batch = config.get("train_batch_size", 1) * config.get("gradient_accumulation_steps", 1) * processes
    for each in images:
        if each.get("type", "local") == "local":
            count = _check_images(each, file)
            total = count * (int(each.get("repeats", 0)) + 1)
            least = max(batch, each.get("vae_batch_size", config.get("vae_batch_size", 1)) + 1)
            if total < least:
                what = f'{count} images, {total} with "repeats", are fewer than {least}'
                why = 'batch x accumulation x processes, and more than "vae_batch_size"'
                raise Mistake(f'{each["id"]}: {what} ({why}): more images, or "repeats": {-(-least // count) - 1}')
    for each in enabled:
        if each.get("dataset_type") == "eval" and each.get("type", "local") == "local":
            _check_images(each, file)
    for each in images:
        masks = each.get("conditioning_data")
        if masks is not None:
            _check_masks(each, next((other for other in enabled if other["id"] == masks), None), file)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())


def _folder(each: dict[str, Any], file: Path) -> Path:
    folder = Path(str(each.get("instance_data_dir", ""))).expanduser()
    if not each.get("instance_data_dir") or not folder.is_dir():
        put = f'put the images there, or set "instance_data_dir" in {file}'
        raise Mistake(f"{each['id']}: {_missing(folder)}: {put}")
    return folder


def _missing(folder: Path) -> str:
    return f"no folder {folder}" if folder.is_absolute() else f"no folder {folder} (from {Path.cwd()})"


def _check_images(each: dict[str, Any], file: Path) -> int:
    """How many images a local data set has. Raises Mistake."""
    folder, strategy = _folder(each, file), each.get("caption_strategy")
    if strategy not in CAPTIONS:
        known = ", ".join(CAPTIONS[:3])
        raise Mistake(
            f'{file}: {each["id"]}: "caption_strategy" is {strategy or "missing"}: where are captions from? {known}'
        )
    found = _images(folder)
    if not found:
        raise Mistake(f"{each['id']}: no images in {folder}")
    if strategy == "instanceprompt" and not each.get("instance_prompt"):
        raise Mistake(f'{file}: {each["id"]}: caption_strategy instanceprompt needs an "instance_prompt"')
    bare = [path for path in found if not path.with_suffix(".txt").is_file()]
    if strategy == "textfile" and bare:
        missing = f"no {bare[0].stem}.txt beside {bare[0]} ({len(bare)} of {len(found)} are missing)"
        raise Mistake(f"{each['id']}: {missing}: caption_strategy textfile wants one an image")
    for path in found if strategy == "textfile" else ():
        data.text(path.with_suffix(".txt"))
    problem = data.open_all(found)
    if problem:
        raise Mistake(f"{each['id']}: {problem}")
    return len(found)


def _check_masks(each: dict[str, Any], masks: dict[str, Any] | None, file: Path) -> None:
    if masks is None or masks.get("conditioning_type") != "mask":
        what = f'"conditioning_data" is {each["conditioning_data"]}'
        raise Mistake(f'{file}: {each["id"]}: {what}, which is no data set with "conditioning_type": "mask"')
    names = {path.stem for path in _images(_folder(masks, file))}
    bare = [path for path in _images(_folder(each, file)) if path.stem not in names]
    if bare:
        raise Mistake(
            f"{masks['id']}: no mask for {bare[0].name} ({len(bare)} are missing): all white, for nothing masked"
        )


def find_llama(llama: str) -> dict[str, Path]:
    """Where the Llama and its tokenizer are, by the names SimpleTuner has for their folders. Raises Mistake."""
    folder = Path(llama).expanduser().resolve()
    found = {}
    for part, marker in {"text_encoder_4": "config.json", "tokenizer_4": "tokenizer_config.json"}.items():
        found[part] = folder / part if (folder / part).is_dir() else folder
        if not (found[part] / marker).is_file():
            raise Mistake(f"--llama: no {marker} in {found[part]}: give the folder of the Llama with its tokenizer")
    return found
