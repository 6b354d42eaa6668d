"""Look at what a training run left, in the reference environment: python look.py JSON

The argument is {"events": [folder], "weights": [file, base or "", idle or ""], "images": [folder], "apart": [file,
file]}, each optional; prints one JSON object: losses (by step), weights ({tensors, moved, largest}), images (a list of
{name, size, spread, data}), apart ({tensors, equal, far}).
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any


def losses(folder: str) -> dict[str, float]:
    """The scalar `loss` (SimpleTuner: `train_loss`; sd-scripts' networks: `loss/current`) of every tensorboard log
    below ``folder``, by step; a later log wins."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, float] = {}
    for log in sorted(Path(folder).rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(log))
        events.Reload()
        for name in {"loss", "train_loss", "loss/current"} & set(events.Tags()["scalars"]):
            found.update({str(event.step): event.value for event in events.Scalars(name)})
    return found


def weights(file: str, base: str = "", idle: str = "") -> dict[str, Any]:
    """How far training moved the tensors of ``file``, from those of the same name in ``base``; without one, of a LoRA:
    its B matrices (`lora_B`, `lora.up`, `_lora.up`) start at exactly zero, as do a LoKr's first factors with use_scalar
    (`lokr_w1`, with the scalar multiplied in). Tensors whose names match ``idle`` are left out."""
    from safetensors.torch import load_file

    trained = load_file(file)
    if base:
        start = load_file(base)
        far = {name: trained[name].float() - start[name].float() for name in trained.keys() & start.keys()}
    else:
        zero = ("lora_B", "lora.up", "lokr_w1")
        far = {name: tensor for name, tensor in trained.items() if any(part in name for part in zero)}
    trains = {name: tensor for name, tensor in far.items() if not (idle and re.search(idle, name))}
    largest = {name: float(tensor.abs().max()) for name, tensor in trains.items()}
    moved = sum(value > 0 for value in largest.values())
    return {"tensors": len(trains), "moved": moved, "largest": max(largest.values(), default=0.0)}


def apart(file: str, other: str) -> dict[str, Any]:
    """How far the tensors of two files are from each other: how many there are, how many are equal to the last bit, and
    the largest distance of two of one name, relative to their length. Names that only one file has are not equal, and
    infinitely far."""
    import torch
    from safetensors.torch import load_file

    one, two = load_file(file), load_file(other)
    equal = sum(torch.equal(one[name], two[name]) for name in one.keys() & two.keys())
    far = [float("inf")] if one.keys() ^ two.keys() else [0.0]
    for name in one.keys() & two.keys():
        first, second = one[name].double(), two[name].double()
        length = max(float(first.norm()), float(second.norm()))
        far.append(float((first - second).norm()) / length if length else 0.0)
    return {"tensors": len(one.keys() | two.keys()), "equal": equal, "far": max(far)}


def images(folder: str) -> list[dict[str, Any]]:
    """The pictures below ``folder``: how far their pixels spread (0: one colour), and a thumbnail as base64 PNG."""
    from PIL import Image

    found = []
    for path in sorted(Path(folder).rglob("*.png")):
        picture = Image.open(path).convert("RGB")
        thumbnail = io.BytesIO()
        small = picture.copy()
        small.thumbnail((256, 256))
        small.save(thumbnail, "PNG")
        data = base64.b64encode(thumbnail.getvalue()).decode()
        spread = max(high - low for low, high in picture.getextrema())
        found.append({"name": path.name, "size": list(picture.size), "spread": spread, "data": data})
    return found


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    readers = {
        "events": ("losses", losses),
        "weights": ("weights", weights),
        "images": ("images", images),
        "apart": ("apart", apart),
    }
    print(json.dumps({readers[key][0]: readers[key][1](*values) for key, values in asked.items()}))
