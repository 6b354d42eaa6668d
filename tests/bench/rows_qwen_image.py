"""Qwen-Image's rows of bench_transformer.py: RMSNorm with rotation (queries and keys of both streams), attention and
whole blocks, with every caption of the batch as long as the others and with one of them padded. Qwen-Image has 24
heads; 384 text tokens are a long caption.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from bench_transformer import Pairs, Row

NAME = "diffusers.models.transformers.transformer_qwenimage"
TEXT, HEAD, AXES = 384, 128, (16, 56, 56)


def rows(pairs: Pairs) -> Iterator[Row]:
    width, heads, image, dtype = pairs.width, pairs.heads, pairs.image, pairs.dtype
    device = torch.device(pairs.device)
    shapes = [(1, pairs.side, pairs.side)]
    freqs = [m.QwenEmbedRope(10000, list(AXES), scale_rope=True)(shapes, [TEXT], device) for m in pairs.pair]
    x, text, temb = pairs.tensor(1, image, width), pairs.tensor(1, TEXT, width), pairs.tensor(1, width)
    places = torch.arange(TEXT + image, device=device)
    seen = ((places < TEXT // 2) | (places >= TEXT))[None, None, None]  # half of the text is padding

    upstream, patches = pairs.pair[0], sys.modules["transformer_patches"]
    norms = pairs.make(lambda m: nn.ModuleList(m.RMSNorm(HEAD, 1e-6) for _ in range(2)))

    def theirs() -> tuple[torch.Tensor, ...]:
        streams = [(s.unflatten(-1, (heads, -1)), norm) for s, norm in zip((text, x), norms[0], strict=True)]
        turns = zip(streams, freqs[0][::-1], strict=True)
        return (torch.cat([upstream.apply_rotary_emb_qwen(n(s), f, use_real=False) for (s, n), f in turns], dim=1),)

    def ours() -> tuple[torch.Tensor, ...]:
        rotation = patches._rotation(*freqs[1], x.device)
        streams = list(zip((text, x), norms[1], strict=True))
        return (sys.modules["device_operators"].norm_rotate(streams, rotation, heads, dtype),)

    yield pairs.calls("RMSNorm and rotation", theirs, ours)

    def attention(m: Any) -> nn.Module:
        return m.QwenImageTransformerBlock(width, heads, HEAD).attn  # type: ignore[no-any-return]

    tokens = {"hidden_states": x, "encoder_hidden_states": text}
    for what, more in {"": {}, ", padding": {"attention_mask": seen}}.items():
        inputs = [{**tokens, **more, "image_rotary_emb": each} for each in freqs]
        yield pairs.row(f"attention{what}", pairs.make(attention), inputs)
    for what, hidden in {"": None, ", padding": seen[0, 0, :, :TEXT]}.items():
        block = pairs.make(lambda m: m.QwenImageTransformerBlock(width, heads, HEAD))
        inputs = [
            {**tokens, "encoder_hidden_states_mask": hidden, "temb": temb, "image_rotary_emb": each} for each in freqs
        ]
        yield pairs.row(f"block{what}", block, inputs)
