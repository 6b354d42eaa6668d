"""SimpleTuner's data sets (config/multidatabackend.json): there, with images, captions and masks, and enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher import data
from launcher.mistake import Mistake

IMAGES = data.IMAGES - {".gif"}
CAPTIONS = ("instanceprompt", "textfile", "filename", "parquet", "csv", "huggingface")


def check_whole(table: dict[str, Any], key: str, least: int) -> None:
    """A setting is a whole number, if it is there. Raises Mistake."""
    if type(table.get(key, least)) is not int or table.get(key, least) < least:
        raise Mistake(f'"{key}": {table[key]!r} is no whole number from {least}')


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
            check_whole(each, "repeats", 0)
            check_whole(each, "vae_batch_size", 1)
            count = _check_images(each, file)
            total = count * (each.get("repeats", 0) + 1)
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
        raise Mistake(f"{each['id']}: no folder {folder} (from {Path.cwd()}): {put}")
    return folder


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
