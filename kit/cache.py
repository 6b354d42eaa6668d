"""Where kit keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from kit.errors import KitError


def cache_dir() -> Path:
    """The folder of upstream objects, environments and locks: $KIT_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("KIT_CACHE"):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError:
            raise KitError(f"KIT_CACHE={chosen}: there is no such user", "set KIT_CACHE to a folder") from None
    import platformdirs

    return Path(platformdirs.user_cache_dir("kit"))
