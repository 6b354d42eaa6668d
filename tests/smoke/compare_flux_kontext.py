"""Compare FLUX.1-Kontext's transformer_patches.py with upstream's modules, as compare_family.py says.

python compare_flux_kontext.py path/to/transformer_patches.py [--branch cpu|npu] [--mutants]
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from compare_family import JOINT, Family, main
from comparing import FLOAT32_LIMIT, Suite, leaf, lora, max_error

UPSTREAM = "diffusers.models.transformers.transformer_flux"
WIDTH, HEADS, BATCH, IMAGE, TEXT = 64, 4, 2, 30, 13
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "to_add_out"]

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
    rotation = suite.patches._rotation((cos, sin), cos.device)
    suite.note("tables are made once", suite.patches._rotation((cos, sin), cos.device) is rotation)
    x = torch.randn(BATCH, TEXT + IMAGE, HEADS, 16)
    want = importlib.import_module("diffusers.models.embeddings").apply_rotary_emb(x, (cos, sin), sequence_dim=1)
    for what, found in {
        "rotation": rotation.turn(x),
        "rotation there and back": rotation.turn(rotation.turn(rotation.turn(x), back=True)),
    }.items():
        error = max_error(found, want)
        suite.note(what, error <= FLOAT32_LIMIT, error=error)
    kept: list[torch.Tensor] = []
    streams = [(leaf(BATCH, TEXT + IMAGE, WIDTH).bfloat16(), nn.Identity())]
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        sys.modules["device_operators"].norm_rotate(streams, rotation, HEADS, torch.bfloat16)
    suite.note("rotation keeps no input for backward", not kept, kept=[str(tensor.dtype) for tensor in kept])


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
    ours, theirs = suite.pair(_attention(False))
    for parameter in (
        p for module in (ours, theirs) for n, p in module.named_parameters() if n[:4] in ("to_q", "to_k", "add_")
    ):
        parameter.data *= 1e-3
    suite.float32("attention, epsilon matters", ours, theirs, inputs)
    suite.float32("attention, no rotation", *suite.pair(_attention(False)), {**inputs, "image_rotary_emb": None})
    seen: list[int] = []
    ours, theirs = suite.pair(_attention(False))
    ours.norm_q.register_forward_hook(lambda *_: seen.append(1))
    suite.float32("attention, hook on the norm", ours, theirs, inputs)
    suite.note("attention, hook on the norm runs", len(seen) == 1)


class Whole(nn.Module):
    """The transformer, with a tensor out."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.model = module.FluxTransformer2DModel(
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=WIDTH // HEADS,
            num_attention_heads=HEADS,
            joint_attention_dim=32,
            pooled_projection_dim=24,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        )

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs, txt_ids=ids()[:TEXT], img_ids=ids()[TEXT:], return_dict=False)[0]


def check_transformer(suite: Suite) -> None:
    for mode in ("train", "eval"):
        ours, theirs = suite.pair(Whole, mode)
        suite.note("state dict", list(ours.state_dict()) == list(theirs.state_dict()))
        inputs = {
            "hidden_states": leaf(BATCH, IMAGE, 8),
            "timestep": torch.tensor([0.3, 0.7]),
            "guidance": torch.tensor([3.5, 1.0]),
            "encoder_hidden_states": leaf(BATCH, TEXT, 32),
            "pooled_projections": leaf(BATCH, 24),
        }
        if mode == "eval":
            suite.float32("transformer, eval", ours, theirs, inputs)
            continue
        suite.compare("transformer, train", ours, theirs, inputs)
        for module in (ours, theirs):
            module.model.enable_gradient_checkpointing()
        suite.float32("transformer, train, gradient checkpointing", ours, theirs, inputs)
        pair = suite.pair(lambda m: lora(Whole(m).requires_grad_(False), TARGETS))
        suite.compare("transformer, train, LoRA", *pair, inputs)


FAMILY = Family(
    module=UPSTREAM,
    checks=(check_rotary, check_attention, check_transformer),
    early=(_attention(True), lambda m: _inputs(True)),
    mutants=MUTANTS,
)

if __name__ == "__main__":
    sys.exit(main(FAMILY))
