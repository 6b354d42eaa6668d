"""Where kit keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of upstream objects, environments and locks: $KIT_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("KIT_CACHE"):
        return Path(chosen).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("kit"))
