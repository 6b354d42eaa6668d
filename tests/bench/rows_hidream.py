"""HiDream's rows of bench_transformer.py: RMSNorm with rotation (queries and keys of one stream), attention, experts
and whole blocks, single and double stream. `force` is the state in which the training script runs:
force_inference_output=True, so routed experts run without gradients. HiDream-I1 has 20 heads, 384 text tokens and 4
experts of which 2 a token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from bench_transformer import Pairs, Row

NAME = "diffusers.models.transformers.transformer_hidream_image"
TEXT, HEAD, AXES = 384, 128, (64, 32, 32)


def rows(pairs: Pairs) -> Iterator[Row]:
    width, heads, image, dtype = pairs.width, pairs.heads, pairs.image, pairs.dtype
    ids = torch.zeros(1, image + TEXT, 3, device=pairs.device)
    places = torch.arange(image)
    ids[0, :image, 1], ids[0, :image, 2] = places // pairs.side, places % pairs.side
    tables = [module.HiDreamImageEmbedND(10000, AXES)(ids) for module in pairs.pair]
    x, text, temb = pairs.tensor(1, image, width), pairs.tensor(1, TEXT, width), pairs.tensor(1, width)
    joint = pairs.tensor(1, image + TEXT, width)

    norm = nn.RMSNorm(width, 1e-5).to(pairs.device, dtype)
    upstream, patches = pairs.pair[0], sys.modules["transformer_patches"]
    yield pairs.calls(
        "RMSNorm and rotation",
        lambda: upstream.apply_rope(*(norm(joint).to(dtype).view(1, -1, heads, HEAD) for _ in range(2)), tables[0]),
        lambda: tuple(patches._norm_rotate([(joint, norm)], tables[1], heads, dtype) for _ in range(2)),
    )
    for single in (True, False):
        attention = pairs.make(
            lambda m, s=single: m.HiDreamAttention(width, heads, HEAD, processor=m.HiDreamAttnProcessor(), single=s)
        )
        tokens = (
            {"norm_hidden_states": joint} if single else {"norm_hidden_states": x, "norm_encoder_hidden_states": text}
        )
        inputs = [{**tokens, "image_rotary_emb": table} for table in tables]
        yield pairs.row(f"attention, {'single' if single else 'double'}", attention, inputs)
    del attention

    for force in (False, True):
        experts = pairs.make(
            lambda m, f=force: m.MOEFeedForwardSwiGLU(width, 4 * width, 4, 2, _force_inference_output=f)
        )
        yield pairs.row(f"experts{', force' * force}", experts, [{"x": x}] * 2)
        del experts
    for single, force in ((True, False), (True, True), (False, False), (False, True)):
        kind = "HiDreamImageSingleTransformerBlock" if single else "HiDreamImageTransformerBlock"
        block = pairs.make(lambda m, k=kind, f=force: getattr(m, k)(width, heads, HEAD, _force_inference_output=f))
        tokens = {"hidden_states": joint} if single else {"hidden_states": x, "encoder_hidden_states": text}
        inputs = [{**tokens, "temb": temb, "image_rotary_emb": table} for table in tables]
        yield pairs.row(f"block, {'single' if single else 'double'}{', force' * force}", block, inputs)
        del block
