"""Check SimpleTuner's configuration before anything starts, and write down what a run will use.

    python check_settings.py DEVICE PROCESSES [--name=value]... [--data.key=value]... [--data.id.key=value]...

Reads config/config.json under the current folder (or --config=FILE) and the files it names, puts the given values in
their places (`--data.…`: for every image data set, or the data set with that id), checks the result, writes it to
OUTPUT_DIR/settings and prints that folder. What is wrong is one line on stderr and exit status 2: what, where, what to
write instead. `--check` writes nothing. Standard library only: it runs before an environment is needed.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CAPTIONS = ("instanceprompt", "textfile", "filename", "parquet", "csv", "huggingface")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
OWN = ("config", "llama", "check")  # options that are not SimpleTuner's


class Mistake(Exception):
    """What is wrong and what to write instead, in one line."""


def read(path: Path) -> Any:
    """A JSON file. Raises Mistake with file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}: run it from the folder with config/") from None
    except json.JSONDecodeError as error:
        raise Mistake(f"{path}:{error.lineno}: not JSON: {error.msg} (a comma too many, or one missing?)") from None


def value(text: str) -> Any:
    """`true`, numbers and lists as JSON has them; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def known_options(root: Path) -> set[str]:
    """The options SimpleTuner's own parser has, read from its source; none where that is not under ``root``."""
    sections = root.glob("simpletuner/simpletuner_sdk/server/services/field_registry/sections/*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in sections)
    named = set(re.findall(r'arg_name="--(\w+)"', text))
    return named | {f"text_encoder_{number}_precision" for number in range(1, 5)} if named else set()


def merge(config: dict, backends: list, words: Iterable[str], known: set[str]) -> dict[str, str]:
    """Put the values of ``words`` into both; return those that are this script's own. Raises Mistake."""
    own = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or name == "check"):
            raise Mistake(f"{word}: write --name=value")
        *data, key = name.split(".")
        key = key.replace("-", "_")
        if data[:1] == ["data"]:
            images = [each for each in backends if each.get("dataset_type", "image") == "image"]
            chosen = [each for each in backends if data[1:] == [each.get("id")]] if data[1:] else images
            if not chosen:
                raise Mistake(
                    f"{word}: no such data set; there are: {', '.join(each.get('id', '?') for each in backends)}"
                )
            for each in chosen:
                each[key] = value(text)
        elif key in OWN:
            own[key] = text
        elif known and key not in {*known, *config}:
            near = difflib.get_close_matches(key, {*known, *config}, n=1)
            raise Mistake(f"--{key}: SimpleTuner has no such option{f'; did you mean --{near[0]}?' if near else ''}")
        else:
            config[key] = value(text)
    return own


def check_config(config: dict, device: str, file: Path) -> None:
    """What can be said of the options alone. Raises Mistake."""
    for key, item in config.items():
        if isinstance(item, str) and item.strip().lower() == "false":
            raise Mistake(f'{file}: "{key}": "{item}" in quotes would be dropped: write false, without quotes')
    precisions = {key: item for key, item in config.items() if key.endswith("_precision")}
    for key, item in (*precisions.items(), ("optimizer", config.get("optimizer"))):
        needs_cuda = str(item).startswith(("nf4", "fp8", "bnb-")) or str(item).endswith("-bnb")
        if needs_cuda and device != "cuda":
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
    model = str(config.get("pretrained_model_name_or_path", ""))
    if Path(model).expanduser().is_dir():
        if not (Path(model).expanduser() / "model_index.json").is_file():
            raise Mistake(f"no model_index.json in {model}: give the folder of the whole model")
    elif not HUB_NAME.fullmatch(model):
        raise Mistake(f"{_missing(Path(model))}: give the model's folder, or a hub name such as org/name")


def check_adapter(config: dict) -> None:
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


def check_data(backends: list, config: dict, processes: int, file: Path) -> None:
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


def _folder(each: dict, file: Path) -> Path:
    folder = Path(str(each.get("instance_data_dir", ""))).expanduser()
    if not each.get("instance_data_dir") or not folder.is_dir():
        put = f'put the images there, or set "instance_data_dir" in {file}'
        raise Mistake(f"{each['id']}: {_missing(folder)}: {put}")
    return folder


def _missing(folder: Path) -> str:
    return f"no folder {folder}" if folder.is_absolute() else f"no folder {folder} (from {Path.cwd()})"


def _check_images(each: dict, file: Path) -> int:
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
    return len(found)


def _check_masks(each: dict, masks: dict | None, file: Path) -> None:
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


def run(device: str, processes: int, words: list[str]) -> str:
    """Merge, check and write; the folder of what was written, "" with --check. Raises Mistake."""
    place = next((word.partition("=")[2] for word in words if word.startswith("--config=")), "config/config.json")
    config = read(Path(place))
    backends_file = next(
        (word.partition("=")[2] for word in words if word.startswith("--data_backend_config=")),
        str(config.get("data_backend_config", "config/multidatabackend.json")),
    )
    backends = read(Path(backends_file))
    own = merge(config, backends, words, known_options(Path.cwd()))
    check_config(config, device, Path(place))
    check_adapter(config)
    check_data(backends, config, processes, Path(backends_file))
    llama = find_llama(own["llama"]) if own.get("llama") else {}
    if "check" in own:
        return ""
    folder = Path(str(config["output_dir"])).expanduser() / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "llama", ignore_errors=True)  # links, of another run
    for part, source in llama.items():  # into one folder, as SimpleTuner wants them
        (folder / "llama").mkdir(exist_ok=True)
        (folder / "llama" / part).symlink_to(source)
    config["data_backend_config"] = str(folder / "multidatabackend.json")
    (folder / "multidatabackend.json").write_text(json.dumps(backends, indent=4) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return str(folder)


if __name__ == "__main__":
    try:
        written = run(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
    if written:
        print(written)
