"""Compare FLUX.1-Kontext's transformer_patches.py with upstream's modules, as compare_family.py says.

python compare_flux_kontext.py path/to/transformer_patches.py [--branch cpu|npu] [--mutants]
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from compare_family import JOINT, Family, check_turns, main
from compare_flux import BATCH, CONFIG, HEADS, IMAGE, TARGETS, TEXT, WIDTH, check_norms, check_transformer
from comparing import Suite, leaf, lora

UPSTREAM = "diffusers.models.transformers.transformer_flux"

# What to break in transformer_patches.py, by branch -> (its text, the text in its place).
MUTANTS = {
    "cpu": {
        **{what: text for what, text in JOINT["cpu"].items() if what != "dtype of the projections"},  # it is the norms'
        "tables made for each layer": ('if not hasattr(cos, "_rotation")', "if True"),
        "halves for pairs": ("x[None, :, None, ::2]", "x[None, :, None, : x.shape[-1] // 2]"),
        "no mask": ("rotation, attention_mask)", "rotation)"),
    },
    "npu": {**JOINT["npu"], "no mask": ("rotation, attention_mask)", "rotation)")},
}


def ids() -> torch.Tensor:
    """Positions as upstream's pipeline makes them: text tokens at the origin, then image tokens in rows, the second
    half of them those of a condition image, which are 1 along the first axis."""
    positions = torch.zeros(TEXT + IMAGE, 3)
    place = torch.arange(IMAGE) % (IMAGE // 2)
    positions[TEXT:, 0] = torch.arange(IMAGE) // (IMAGE // 2)
    positions[TEXT:, 1], positions[TEXT:, 2] = place // 5, place % 5
    return positions


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    return importlib.import_module(UPSTREAM).FluxPosEmbed(10000, (4, 4, 8))(ids())


def check_rotary(suite: Suite) -> None:
    cos, sin = tables()
    rotation = suite.patches.Rotation.of_doubled((cos, sin), cos.device)
    suite.note("tables are made once", suite.patches.Rotation.of_doubled((cos, sin), cos.device) is rotation)
    x = torch.randn(BATCH, TEXT + IMAGE, HEADS, 16)
    want = importlib.import_module("diffusers.models.embeddings").apply_rotary_emb(x, (cos, sin), sequence_dim=1)
    check_turns(suite, rotation, x, want)


def _attention(single: bool) -> Callable[[Any], nn.Module]:
    """The attention of a block, with what its __init__ gives."""
    form = {"pre_only": True} if single else {"added_kv_proj_dim": WIDTH, "context_pre_only": False}
    shape = {"query_dim": WIDTH, "dim_head": WIDTH // HEADS, "heads": HEADS, "out_dim": WIDTH, "bias": True}
    return lambda m: m.FluxAttention(**shape, **form, eps=1e-6, processor=m.FluxAttnProcessor())


def _inputs(single: bool) -> dict[str, Any]:
    tokens = {"hidden_states": leaf(BATCH, TEXT + IMAGE if single else IMAGE, WIDTH), "image_rotary_emb": tables()}
    return tokens if single else {**tokens, "encoder_hidden_states": leaf(BATCH, TEXT, WIDTH)}


def check_attention(suite: Suite) -> None:
    for single in (True, False):
        inputs = _inputs(single)
        suite.compare(f"attention, {'single' if single else 'double'}", *suite.pair(_attention(single)), inputs)
    mask = (torch.arange(TEXT + IMAGE) % 7 > 0).expand(BATCH, 1, TEXT + IMAGE, TEXT + IMAGE)
    suite.float32("attention, mask", *suite.pair(_attention(False)), {**inputs, "attention_mask": mask})
    suite.compare("attention, LoRA", *suite.pair(lambda m: lora(_attention(False)(m), TARGETS)), inputs)
    suite.float32("attention, no rotation", *suite.pair(_attention(False)), {**inputs, "image_rotary_emb": None})
    check_norms(suite, _attention(False), inputs)


class Whole(nn.Module):
    """The transformer, with a tensor out."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.model = module.FluxTransformer2DModel(**CONFIG)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs, txt_ids=ids()[:TEXT], img_ids=ids()[TEXT:], return_dict=False)[0]


FAMILY = Family(
    module=UPSTREAM,
    checks=(check_rotary, check_attention, partial(check_transformer, whole=Whole)),
    early=(_attention(True), lambda m: _inputs(True)),
    mutants=MUTANTS,
)

if __name__ == "__main__":
    sys.exit(main(FAMILY))
