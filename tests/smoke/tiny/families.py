"""What no class of families.toml makes."""

from __future__ import annotations

import json
from pathlib import Path


def unet(file: Path) -> None:
    """The configuration of a UNet of 16 x 16 pixels."""
    config = {"_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3}
    config |= {"layers_per_block": 1, "block_out_channels": [8, 16], "norm_num_groups": 4}
    config |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    file.write_text(json.dumps(config))
