"""A tiny random-weight pipeline from a table: python _table.py DIR < table.json

The table says of each component of model_index.json its class, and of data which part of `parts.py` writes it. A class
that `_classes.toml` knows needs no configuration; a component that no class fits is a function of the family's own
module: `part = "name"`. Runs in a recipe's reference environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parts
import torch

TOKENIZERS = {
    "CLIPTokenizer": parts.clip_tokenizer,
    "CLIPTokenizerFast": parts.clip_tokenizer,
    "T5Tokenizer": parts.t5_tokenizer,
    "T5TokenizerFast": parts.t5_tokenizer,
    "Qwen2Tokenizer": parts.qwen2_tokenizer,
}


def build(folder: Path, table: dict[str, Any], known: dict[str, Any], own: Any = None) -> None:
    """Write the pipeline to ``folder``/model and each data set beside it; each has a seed of its own, so that a
    change of one leaves the others as they are. ``known``: configurations by class."""
    index: dict[str, tuple[str | None, str | None]] = {}
    for number, (name, component) in enumerate(table["model"].items()):
        torch.manual_seed(number)
        library, _, cls = component.get("class", "").rpartition(".")
        index[name] = (library or None, cls or None)
        if cls:
            _component(folder / "model" / name, library, cls, component, known, own)
    parts.model_index(folder / "model", table["pipeline"], index)
    for number, (name, data) in enumerate(table.get("data", {}).items()):
        torch.manual_seed(number)
        words = {key: value for key, value in data.items() if key != "part"}
        _part(data["part"], own)(folder / name, **words)


def _component(place: Path, library: str, cls: str, component: dict[str, Any], known: dict[str, Any], own: Any) -> None:
    config = component.get("config", {})
    if part := component.get("part"):
        _part(part, own)(place, **config)
    elif cls in TOKENIZERS:
        TOKENIZERS[cls](place, **config)
    else:
        made, usual = getattr(importlib.import_module(library), cls), known.get(cls, {})
        if configured := getattr(made, "config_class", None):
            made(configured(**{**usual, **config})).save_pretrained(place)
            return
        taken = inspect.signature(made).parameters  # an older diffusers has fewer
        usual = {key: value for key, value in usual.items() if key in taken}
        made(**{**usual, **config}).save_pretrained(place)


def _part(name: str, own: Any) -> Callable[..., None]:
    """A function of the family's own module, else of `parts`."""
    for module in (own, parts):
        if callable(found := getattr(module, name, None)):
            return found
    raise SystemExit(f"there is no part {name!r}: write a function {name}(folder) beside the table")


def _own(path: str) -> Any:
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("own_parts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    given = json.load(sys.stdin)
    build(Path(sys.argv[1]), given["table"], given["known"], _own(given["own"]))
