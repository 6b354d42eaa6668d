"""What is written to a file and read again, be it by another process or in a later run: its rows keep their captions.

A tensor that is saved is known by its digest, in a folder that the runs share; one that is loaded has what was known of
it. Where tensors that hold the same are of other captions, they are of none that is known.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import kit_rows
from kit_rows import Rows


def captions(tensor: Any) -> Any:
    """The captions of a tensor's rows as JSON has them: [dim, [[caption, …], …]]; None where it has none."""
    rows = kit_rows.of(tensor) if tensor.is_floating_point() and tensor.numel() else None
    found = [sorted(each for each in row if each.startswith("caption ")) for row in rows.sources] if rows else []
    return [rows.dim, found] if rows and any(found) else None


def saved(method: Any, folder: Path) -> Any:
    """torch.save that keeps what is known of the tensors it writes."""

    @functools.wraps(method)
    def save(obj: Any, *args: Any, **kwargs: Any) -> Any:
        for tensor in kit_rows._tensors(obj):
            known = captions(tensor)
            if known:
                folder.mkdir(parents=True, exist_ok=True)
                place, text = folder / kit_rows.digest(tensor), json.dumps(known)
                if place.is_file() and place.read_text("utf-8") != text:
                    text = "null"
                written = place.with_name(f"{place.name}.{os.getpid()}")
                written.write_text(text, "utf-8")
                written.replace(place)
        return method(obj, *args, **kwargs)

    return save


def loaded(method: Any, folder: Path) -> Any:
    """torch.load whose tensors have what was known of them."""

    @functools.wraps(method)
    def load(*args: Any, **kwargs: Any) -> Any:
        made = method(*args, **kwargs)
        for tensor in kit_rows._tensors(made) if folder.is_dir() else ():
            place = folder / kit_rows.digest(tensor)
            known = json.loads(place.read_text("utf-8")) if place.is_file() else None
            if known:
                kit_rows.mark(tensor, Rows(known[0], tuple(map(frozenset, known[1]))))
        return made

    return load
