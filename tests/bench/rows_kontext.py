"""FLUX.1-Kontext's rows of bench_transformer.py (with `--patches overlays/flux-kontext/transformer_patches.py`):
RMSNorm with rotation (queries and keys of one stream), attention and whole blocks, single and double stream. Half of
the image tokens are a condition image's. FLUX.1-Kontext has 24 heads and 512 text tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from bench_transformer import Pairs, Row

NAME = "diffusers.models.transformers.transformer_flux"
TEXT, HEAD, AXES = 512, 128, (16, 56, 56)


def rows(pairs: Pairs) -> Iterator[Row]:
    width, heads, image = pairs.width, pairs.heads, pairs.image
    ids = torch.zeros(image + TEXT, 3, device=pairs.device)
    places = torch.arange(image) % (image // 2)
    ids[TEXT:, 0], ids[TEXT:, 1] = torch.arange(image) // (image // 2), places // pairs.side
    ids[TEXT:, 2] = places % pairs.side
    tables = [module.FluxPosEmbed(10000, AXES)(ids) for module in pairs.pair]
    x, text, temb = pairs.tensor(1, image, width), pairs.tensor(1, TEXT, width), pairs.tensor(1, width)
    joint = pairs.tensor(1, image + TEXT, width)

    norm = nn.RMSNorm(HEAD, 1e-6).to(pairs.device, pairs.dtype)
    upstream, patches = pairs.pair[0], sys.modules["transformer_patches"]
    turn = sys.modules["device_operators"].norm_rotate
    rotation = patches._rotation(tables[1], joint.device)
    yield pairs.calls(
        "RMSNorm and rotation",
        lambda: tuple(
            upstream.apply_rotary_emb(norm(joint.unflatten(-1, (heads, -1))), tables[0], sequence_dim=1)
            for _ in range(2)
        ),
        lambda: tuple(turn([(joint, norm)], rotation, heads, pairs.dtype) for _ in range(2)),
    )
    for single in (True, False):
        form = {"pre_only": True} if single else {"added_kv_proj_dim": width, "context_pre_only": False}
        attention = pairs.make(
            lambda m, f=form: m.FluxAttention(
                width, heads, HEAD, bias=True, out_dim=width, eps=1e-6, processor=m.FluxAttnProcessor(), **f
            )
        )
        tokens = {"hidden_states": joint} if single else {"hidden_states": x, "encoder_hidden_states": text}
        inputs = [{**tokens, "image_rotary_emb": table} for table in tables]
        yield pairs.row(f"attention, {'single' if single else 'double'}", attention, inputs)
    del attention
    for single in (True, False):
        kind = "FluxSingleTransformerBlock" if single else "FluxTransformerBlock"
        block = pairs.make(lambda m, k=kind: getattr(m, k)(width, heads, HEAD))
        inputs = [
            {"hidden_states": x, "encoder_hidden_states": text, "temb": temb, "image_rotary_emb": t} for t in tables
        ]
        yield pairs.row(f"block, {'single' if single else 'double'}", block, inputs)
        del block
