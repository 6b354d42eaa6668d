"""Faster attention, RMSNorm and rotary embedding for diffusers' FLUX transformer.

    from transformer_patches import apply_patches
    apply_patches()

replaces the attention processors of FLUX in `diffusers.models.attention_processor` (written against commit
a98a839de75f), so models that exist already use them too. device_operators.py says what runs on which device, and how
near to upstream it is.
"""

from __future__ import annotations

from typing import Any

import torch
from device_operators import Rotation, joint_attention, replace

UPSTREAM = "diffusers.models.attention_processor"
PIN = "a98a839"


def attention(
    self: Any,
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """As `joint_attention` says, which upstream's mask does not change either: both processors' __call__."""
    rotation = None if image_rotary_emb is None else Rotation.of_doubled(image_rotary_emb, hidden_states.device)
    return joint_attention(attn, hidden_states, encoder_hidden_states, rotation)


_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k", "to_add_out")
_READS = {"heads", "to_q", "to_k", "to_v", "norm_q", "norm_k", "to_out", *_TEXT}
_REPLACEMENTS = {
    f"{name}.__call__": (attention, _READS) for name in ("FluxAttnProcessor2_0", "FluxAttnProcessor2_0_NPU")
}


def apply_patches() -> tuple[str, ...]:
    """Put the replacements into diffusers and return their names; raises what `device_operators.replace` raises."""
    return replace(UPSTREAM, PIN, _REPLACEMENTS)
