"""Replace tinytrain's `predict` by a faster one."""

from __future__ import annotations

import tinytrain


def apply_patches() -> None:
    """Put the faster `predict` in place; calling it twice changes nothing more."""
    tinytrain.predict = predict


def predict(state: dict[str, float], x: float) -> float:
    """The line at ``x``, without looking each name up twice."""
    slope, offset = state["slope"], state["offset"]
    return slope * x + offset
