"""Image folders without repeat counts in their names: a flat one, and the shards that img2dataset writes."""

from __future__ import annotations

import re
from pathlib import Path

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # what upstream reads (library/train_util.py)
SHARD = re.compile(r"\d{5,}")  # 00012: a shard's number, with five digits as img2dataset writes it


def counts_repeats(name: str) -> bool:
    """Whether a folder's name starts with a repeat count, as 10_cat does, and is not the number of a shard."""
    return bool(re.match(r"\d+(_|$)", name)) and not SHARD.fullmatch(name)


def has_repeats(folder: str | Path) -> bool:
    """Whether some sub-folder's name starts with a repeat count. Then upstream takes no other folder."""
    return any(counts_repeats(each.name) for each in Path(folder).iterdir() if each.is_dir())


def places(folder: str | Path) -> list[Path]:
    """A folder and its sub-folders: where images are looked for."""
    return [Path(folder), *sorted(each for each in Path(folder).iterdir() if each.is_dir())]


def images(folder: Path) -> list[Path]:
    """The images right in a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES)


def plain_subsets(folder: str | Path, is_reg: bool) -> list[dict[str, object]]:
    """The subsets, each used once an epoch, of a folder without `<repeats>_<class>` sub-folders: the folder itself
    where it holds images, and each sub-folder that does."""
    found = [place for place in places(folder) if images(place)]
    return [{"image_dir": str(place), "num_repeats": 1, "is_reg": is_reg, "class_tokens": ""} for place in found]
