"""What the inference scripts of several families load their model with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference import Mistake, cause, give_up, make_ready


def of_kind(name: str) -> Callable[[argparse.Namespace], None]:
    """A check of options: a model in a folder is the pipeline ``name``, by its model_index.json. Raises Mistake."""

    def check(options: argparse.Namespace) -> None:
        index = Path(options.model).expanduser() / "model_index.json"
        if not index.is_file():
            return
        try:
            found = json.loads(index.read_text(encoding="utf-8")).get("_class_name") or "model without a _class_name"
        except (AttributeError, OSError, ValueError) as error:
            raise Mistake(f"--model: {index}: not JSON: {error}: download it again") from None
        if found != name:
            raise Mistake(f"--model: {options.model} is a {found}: this script draws with a {name}, give one")

    return check


def load(pipeline: Any, options: argparse.Namespace) -> Any:
    """``pipeline``, a class of diffusers, from the model of ``options``, on their device, with their LoRA. Ends with
    one line where a part of the model is missing or broken."""
    import torch

    model = str(Path(options.model).expanduser())
    try:
        loaded = pipeline.from_pretrained(model, torch_dtype=getattr(torch, options.dtype))
    except (OSError, ValueError) as error:
        give_up(f"--model: {model} cannot be loaded: {cause(error)}")
    make_ready(loaded, options)
    return loaded
