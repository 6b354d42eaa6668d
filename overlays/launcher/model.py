"""Models: a folder here, whole and of the kind the script trains, or a name on the hub."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.mistake import Mistake
from launcher.options import Option

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# The names under which diffusers and transformers save weights: whole, in shards, of a variant, or an index of shards.
WEIGHTS = re.compile(r"(diffusion_pytorch_model|pytorch_model|model)(\.[\w-]+)?\.(safetensors|bin)(\.index\.json)?")
WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Scheduler|Processor|Extractor")
POINTER = b"version https://git-lfs"


def is_local(option: str, value: str, kind: str = "models", file: bool = False) -> bool:
    """Whether a setting is a local folder (or, with ``file``, a file) or a hub name. A name such as org/model that is
    no folder here is a hub name; offline it must be in the Hugging Face cache. Raises Mistake for anything else."""
    if not value:
        raise Mistake(f"--{option} is empty: give a folder or a hub name")
    if os.path.isdir(value) or (file and os.path.exists(value)):
        return True
    if os.path.exists(value):
        raise Mistake(f"--{option}: {value} is a file: give the folder it is in")
    if not HUB_NAME.fullmatch(value):
        none = f"no {value}" if file else f"no folder {value}"
        way = "give its path" if file else "give the folder's path"
        raise Mistake(f"--{option}: {none} (from {os.getcwd()}): {way}, or a hub name such as org/name")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on") and not _is_cached(value, kind):
        neither = "neither a folder here nor in the Hugging Face cache, and HF_HUB_OFFLINE is set"
        raise Mistake(f"--{option}: {value} is {neither}: give its path, or unset it")
    return False


def _is_cached(name: str, kind: str) -> bool:
    """Whether the hub's cache has a model or a data set; where it is: huggingface_hub's constants.py."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    data = os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")
    if os.path.isdir(os.path.join(cache, f"{kind}--{name.replace('/', '--')}", "snapshots")):
        return True
    return kind == "datasets" and os.path.isdir(os.path.join(data, name.replace("/", "___")))


def check(option: Option, value: str, flags: Sequence[str] = ()) -> None:
    """A whole pipeline: of a kind that the script trains, every part that it lists there, with its weights; ``flags``,
    the training script's own, may ask for a variant of them. Raises Mistake."""
    if not is_local(option.name, value, file=option.file) or os.path.isfile(value):
        return
    folder, at = Path(value), f"--{option.name}"
    if not (folder / "model_index.json").is_file():
        more = ", or its .safetensors file" if option.file else ""
        raise Mistake(f"{at}: no model_index.json in {value}: give the folder of the whole model{more}")
    index = _read(folder / "model_index.json", at)
    kind = index.get("_class_name")
    if option.pipelines and kind not in option.pipelines:
        trains = " or ".join(option.pipelines)
        raise Mistake(f"{at}: {value} is a {kind or 'model without a _class_name'}: this script trains {trains}")
    asked = re.search(r"\0--variant[=\0]([^\0]*)", "\0".join(["", *flags]))
    variant = asked[1] if asked else ""
    for part, listed in index.items():
        if part.startswith("_") or not isinstance(listed, list) or None in listed:
            continue
        if (folder / part).is_dir() or part not in option.apart:
            check_part(at, folder / part, str(listed[1]), variant)


def check_part(at: str, folder: Path, name: str, variant: str = "") -> None:
    """One part of a pipeline, of the class ``name``: there, with weights, each file of them whole. Raises Mistake."""
    if not folder.is_dir():
        whole = "download the whole model"
        raise Mistake(f"{at}: no {folder.name}/ in {folder.parent}, which model_index.json lists: {whole}")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if not files:
        raise Mistake(f"{at}: {folder} is empty: download the whole model")
    for path in files:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise Mistake(f"{at}: {path} is a Git LFS pointer: download the file itself: git lfs pull")
    if WITHOUT_WEIGHTS.search(name):
        return
    variants = {path: _variant(path.name) for path in files}
    usable = [path for path, its in variants.items() if its in ("", variant)]
    if not usable and (there := next(filter(None, variants.values()), None)):
        raise Mistake(f"{at}: only {there} weights in {folder}: give -- --variant={there}, or download the others")
    if not usable:
        raise Mistake(f"{at}: no weights in {folder}: download the whole model")
    first = [path for path in usable if ".safetensors" in path.name]  # the others are not looked at then
    for path in first or usable:
        if path.name.endswith(".index.json"):
            weights = _read(path, at).get("weight_map") or {}
            lacking = sorted({name for name in weights.values() if not (folder / name).is_file()})
            if lacking:
                more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
                raise Mistake(f"{at}: no {lacking[0]}{more} in {folder}, which {path.name} lists: download it")
        elif not is_whole(path):
            raise Mistake(f"{at}: {path} is cut short: download it again")


def is_whole(path: Path) -> bool:
    """Whether a file of weights or of a state has been written to its end, as far as its kind says: what torch saves is
    a zip file, whose table is at its end; of safetensors see there."""
    if path.stat().st_size == 0:
        return path.name == "__init__.py"
    if path.suffix == ".safetensors":
        return _is_whole_safetensors(path)
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    return not zipped or zipfile.is_zipfile(path)


def _is_whole_safetensors(path: Path) -> bool:
    """Whether it has all the bytes that its header speaks of (8 bytes of the header's length, the header in JSON, each
    tensor's place after it)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return False
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False
    return size == 8 + length + max(ends, default=0)


def check_encoder(option: Option, value: str) -> None:
    """A folder with a model of transformers and its tokenizer. Raises Mistake."""
    if is_local(option.name, value):
        if not (Path(value) / "config.json").is_file():
            raise Mistake(f"--{option.name}: no config.json in {value}: give the folder of the whole model")
        check_part(f"--{option.name}", Path(value), "")


def _variant(name: str) -> str | None:
    """The variant of a file of weights, "" of the usual ones; None where it is no file of weights."""
    found = WEIGHTS.fullmatch(re.sub(r"-\d+-of-\d+", "", name))
    return (found[2] or "")[1:] if found else None


def _read(path: Path, at: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(f"{at}: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise Mistake(f"{at}: {path}: not a JSON object")
    return found
