"""FLUX.1's rows of bench_transformer.py: RMSNorm with rotation (queries and keys of one stream), attention and whole
blocks, single and double stream. FLUX.1-dev has 24 heads and 512 text tokens.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from bench_transformer import load

if TYPE_CHECKING:
    from bench_transformer import Pairs, Row

NAME = "diffusers.models.attention_processor"
TEXT, HEAD, AXES = 512, 128, (16, 56, 56)


def blocks(processors: Any) -> Any:
    """transformer_flux.py with the attention of this module."""
    upstream = importlib.import_module("diffusers.models.transformers.transformer_flux")
    module: Any = load(f"{upstream.__name__}_{processors.__name__}", str(upstream.__file__), str(upstream.__package__))
    module.Attention, module.FluxAttnProcessor2_0 = processors.Attention, processors.FluxAttnProcessor2_0
    return module


def rows(pairs: Pairs) -> Iterator[Row]:
    width, heads, image = pairs.width, pairs.heads, pairs.image
    embeddings = importlib.import_module("diffusers.models.embeddings")
    ids = torch.zeros(TEXT + image, 3, device=pairs.device)
    places = torch.arange(image)
    ids[TEXT:, 1], ids[TEXT:, 2] = places // pairs.side, places % pairs.side
    table = embeddings.FluxPosEmbed(10000, AXES)(ids)
    x, text, temb = pairs.tensor(1, image, width), pairs.tensor(1, TEXT, width), pairs.tensor(1, width)
    joint = pairs.tensor(1, image + TEXT, width)

    norm = importlib.import_module("diffusers.models.normalization").RMSNorm(HEAD, 1e-6).to(pairs.device, pairs.dtype)
    rotation = sys.modules["transformer_patches"]._rotation(table, joint.device)
    turn = sys.modules["device_operators"].norm_rotate
    yield pairs.calls(
        "RMSNorm and rotation",
        lambda: tuple(
            embeddings.apply_rotary_emb(norm(joint.view(1, -1, heads, HEAD).transpose(1, 2)), table) for _ in range(2)
        ),
        lambda: tuple(turn([(joint, norm)], rotation, heads, pairs.dtype).transpose(1, 2) for _ in range(2)),
    )
    shape = {"query_dim": width, "dim_head": HEAD, "heads": heads, "out_dim": width, "bias": True}
    for single in (True, False):
        form = {"pre_only": True} if single else {"added_kv_proj_dim": width, "context_pre_only": False}
        attention = pairs.make(
            lambda m, f=form: m.Attention(
                **shape, **f, qk_norm="rms_norm", eps=1e-6, processor=m.FluxAttnProcessor2_0()
            )
        )
        tokens = {"hidden_states": joint} if single else {"hidden_states": x, "encoder_hidden_states": text}
        yield pairs.row(
            f"attention, {'single' if single else 'double'}", attention, [{**tokens, "image_rotary_emb": table}] * 2
        )
        del attention
    for single in (True, False):
        kind = "FluxSingleTransformerBlock" if single else "FluxTransformerBlock"
        block = pairs.make(lambda m, k=kind: getattr(blocks(m), k)(width, heads, HEAD))
        tokens = {"hidden_states": joint} if single else {"hidden_states": x, "encoder_hidden_states": text}
        inputs = {**tokens, "temb": temb, "image_rotary_emb": table}
        yield pairs.row(f"block, {'single' if single else 'double'}", block, [inputs] * 2)
        del block
