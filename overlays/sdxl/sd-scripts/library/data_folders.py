"""Image folders without repeat counts in their names: a flat one, and the shards that img2dataset writes."""

from __future__ import annotations

import re
from pathlib import Path

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SHARD = re.compile(r"\d{5,}")  # 00012: a shard's number, with five digits as img2dataset writes it


def has_repeats(folder: str | Path) -> bool:
    """Whether some sub-folder's name starts with a repeat count, as in 10_cat, and is not the number of a shard."""
    names = [each.name for each in Path(folder).iterdir() if each.is_dir()]
    return any(re.match(r"\d+(_|$)", name) and not SHARD.fullmatch(name) for name in names)


def plain_subsets(folder: str | Path, is_reg: bool) -> list[dict[str, object]]:
    """The subsets, each used once an epoch, of a folder without `<repeats>_<class>` sub-folders: the folder itself
    where it holds images, and each sub-folder that does."""
    places = [Path(folder), *sorted(each for each in Path(folder).iterdir() if each.is_dir())]
    found = [place for place in places if any(file.suffix.lower() in IMAGES for file in place.iterdir())]
    return [{"image_dir": str(place), "num_repeats": 1, "is_reg": is_reg, "class_tokens": ""} for place in found]
