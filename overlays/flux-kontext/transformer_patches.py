"""Faster attention, RMSNorm and rotary embedding for the transformer of FLUX.1-Kontext, as diffusers has it since
FluxAttention.

    from transformer_patches import apply_patches
    apply_patches()

replaces the attention processor of `diffusers.models.transformers.transformer_flux` (written against commit
c222570a9b47), so models that exist already use it too. device_operators.py says what runs on which device, and how near
to upstream it is. A backend chosen with set_attention_backend is not asked: the device decides.
"""

from __future__ import annotations

from typing import Any

import torch
from device_operators import Rotation, joint_attention, replace

UPSTREAM = "diffusers.models.transformers.transformer_flux"
PIN = "c222570"


def attention(
    self: Any,
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """As `joint_attention` says: FluxAttnProcessor.__call__."""
    rotation = None if image_rotary_emb is None else Rotation.of_doubled(image_rotary_emb, hidden_states.device)
    return joint_attention(attn, hidden_states, encoder_hidden_states, rotation, attention_mask)


_READS = {"heads", "norm_q", "norm_k", "norm_added_q", "norm_added_k", "to_out", "to_add_out"}
_REPLACEMENTS = {"FluxAttnProcessor.__call__": (attention, _READS)}


def apply_patches() -> tuple[str, ...]:
    """Put the replacement into diffusers and return its name; raises what `device_operators.replace` raises."""
    return replace(UPSTREAM, PIN, _REPLACEMENTS)
