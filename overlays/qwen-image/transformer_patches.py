"""Faster attention, RMSNorm and rotary embedding for diffusers' Qwen-Image transformer.

    from transformer_patches import apply_patches
    apply_patches()

replaces the attention processor in `diffusers.models.transformers.transformer_qwenimage` (written against commit
7a2b78bf0f78), so models that exist already use it too. device_operators.py says what runs on which device, and how near
to upstream it is. An attention backend that is chosen in diffusers is not asked.
"""

from __future__ import annotations

from typing import Any

import torch
from device_operators import Rotation, join, joint_attention, replace

UPSTREAM = "diffusers.models.transformers.transformer_qwenimage"
PIN = "7a2b78b"


def _rotation(image: torch.Tensor, text: torch.Tensor, device: torch.device) -> Rotation:
    """That of complex numbers [tokens, pairs] of each stream, text first: made once and kept on the image's, which are
    one for all layers of a forward pass."""
    kept = getattr(image, "_rotation", (None, None))
    if kept[0] is not text:
        both = join([torch.view_as_real(x)[None] for x in (text, image)]).to(device)
        kept = image._rotation = text, Rotation(*both.unsqueeze(2).unbind(-1))
    return kept[1]


def attention(
    self: Any,
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    encoder_hidden_states_mask: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """As `joint_attention` says: QwenDoubleStreamAttnProcessor2_0.__call__, which does not ask the text's own mask.

    attention_mask [batch, 1, 1, text and image tokens]: false for what no token attends to.
    """
    if encoder_hidden_states is None:
        raise ValueError("QwenDoubleStreamAttnProcessor2_0 requires encoder_hidden_states (text stream)")
    rotation = None if image_rotary_emb is None else _rotation(*image_rotary_emb, hidden_states.device)
    return joint_attention(attn, hidden_states, encoder_hidden_states, rotation, attention_mask)


_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k", "to_add_out")
_READS = {"heads", "to_q", "to_k", "to_v", "norm_q", "norm_k", "to_out", *_TEXT}


def apply_patches() -> tuple[str, ...]:
    """Put the replacement into diffusers and return its name; raises what `device_operators.replace` raises."""
    return replace(UPSTREAM, PIN, {"QwenDoubleStreamAttnProcessor2_0.__call__": (attention, _READS)})
