"""Compare FLUX's transformer_patches.py with upstream's modules, as compare_family.py says.

python compare_flux.py path/to/transformer_patches.py [--branch cpu|npu] [--mutants]
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from compare_family import JOINT, Family, check_turns, load, main
from comparing import Suite, leaf, lora

WIDTH, HEADS, BATCH, IMAGE, TEXT = 64, 4, 2, 30, 13
PROCESSORS = ("FluxAttnProcessor2_0", "FluxAttnProcessor2_0_NPU")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "to_add_out"]

# What to break in transformer_patches.py, by branch -> (its text, the text in its place).
MUTANTS = {
    "cpu": {
        **JOINT["cpu"],
        "tables made for each layer": ('if not hasattr(cos, "_rotation")', "if True"),
        "halves for pairs": ("x[None, :, None, ::2]", "x[None, :, None, : x.shape[-1] // 2]"),
    },
    "npu": JOINT["npu"],
}


def ids(image: int = IMAGE, text: int = TEXT) -> torch.Tensor:
    """Positions as upstream's pipeline makes them: text tokens at the origin, then image tokens in rows."""
    positions = torch.zeros(text + image, 3)
    positions[text:, 1] = torch.arange(image) // 6
    positions[text:, 2] = torch.arange(image) % 6
    return positions


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    return importlib.import_module("diffusers.models.embeddings").FluxPosEmbed(10000, (4, 4, 8))(ids())


def check_rotary(suite: Suite) -> None:
    cos, sin = tables()
    rotation = suite.patches.Rotation.of_doubled((cos, sin), cos.device)
    suite.note("tables are made once", suite.patches.Rotation.of_doubled((cos, sin), cos.device) is rotation)
    x = torch.randn(BATCH, TEXT + IMAGE, HEADS, 16)
    want = importlib.import_module("diffusers.models.embeddings").apply_rotary_emb(x.transpose(1, 2), (cos, sin))
    check_turns(suite, rotation, x, want.transpose(1, 2))


def _attention(single: bool, processor: str = PROCESSORS[0]) -> Callable[[Any], nn.Module]:
    """The attention of a block, with what its __init__ gives (transformer_flux.py)."""
    form = {"pre_only": True} if single else {"added_kv_proj_dim": WIDTH, "context_pre_only": False}
    shape = {"query_dim": WIDTH, "dim_head": WIDTH // HEADS, "heads": HEADS, "out_dim": WIDTH, "bias": True}
    return lambda m: m.Attention(**shape, **form, qk_norm="rms_norm", eps=1e-6, processor=getattr(m, processor)())


def _inputs(single: bool) -> dict[str, Any]:
    tokens = {"hidden_states": leaf(BATCH, TEXT + IMAGE if single else IMAGE, WIDTH), "image_rotary_emb": tables()}
    return tokens if single else {**tokens, "encoder_hidden_states": leaf(BATCH, TEXT, WIDTH)}


def check_attention(suite: Suite) -> None:
    for single, processor in itertools.product((True, False), PROCESSORS):
        if processor == PROCESSORS[1] and not hasattr(suite.reference, "torch_npu"):
            continue  # upstream's calls torch_npu, which is there on the npu branch
        name = f"attention, {'single' if single else 'double'}{', for NPUs' * (processor == PROCESSORS[1])}"
        suite.compare(name, *suite.pair(_attention(single, processor)), _inputs(single))
    inputs = _inputs(False)
    suite.compare("attention, LoRA", *suite.pair(lambda m: lora(_attention(False)(m), TARGETS)), inputs)
    ours, theirs = suite.pair(_attention(False))
    suite.float32("attention, no rotation", ours, theirs, {**inputs, "image_rotary_emb": None})
    for module in (ours, theirs):
        module.norm_q = module.norm_k = module.norm_added_q = module.norm_added_k = None
    suite.float32("attention, no norms", ours, theirs, inputs)
    check_norms(suite, _attention(False), inputs)


def check_norms(suite: Suite, build: Callable[[Any], nn.Module], inputs: dict[str, Any]) -> None:
    """Where epsilon counts, and with a hook, which the norms' own modules have to be called for."""
    ours, theirs = suite.pair(build)
    for parameter in (
        p for module in (ours, theirs) for n, p in module.named_parameters() if n[:4] in ("to_q", "to_k", "add_")
    ):
        parameter.data *= 1e-3
    suite.float32("attention, epsilon matters", ours, theirs, inputs)
    seen: list[int] = []
    ours, theirs = suite.pair(build)
    ours.norm_q.register_forward_hook(lambda *_: seen.append(1))
    suite.float32("attention, hook on the norm", ours, theirs, inputs)
    suite.note("attention, hook on the norm runs", len(seen) == 1)


CONFIG: dict[str, Any] = {
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 4, 8),
}


class Whole(nn.Module):
    """The transformer with a tensor out; its processors are those of the attention_processor module given."""

    def __init__(self, processors: Any) -> None:
        super().__init__()
        upstream = importlib.import_module("diffusers.models.transformers.transformer_flux")
        path = upstream.__file__ or ""
        name = f"{upstream.__name__}_{processors.__name__.rpartition('.')[2]}"
        module: Any = load(name, Path(path).read_text(), path, upstream.__package__ or "")
        module.Attention, module.FluxAttnProcessor2_0 = processors.Attention, processors.FluxAttnProcessor2_0
        self.model = module.FluxTransformer2DModel(**CONFIG)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs, txt_ids=ids()[:TEXT], img_ids=ids()[TEXT:], return_dict=False)[0]


def check_transformer(suite: Suite, whole: Callable[[Any], nn.Module] = Whole) -> None:
    for mode in ("train", "eval"):
        ours, theirs = suite.pair(whole, mode)
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
        pair = suite.pair(lambda m: lora(whole(m).requires_grad_(False), TARGETS))
        suite.compare("transformer, train, LoRA", *pair, inputs)


FAMILY = Family(
    module="diffusers.models.attention_processor",
    checks=(check_rotary, check_attention, check_transformer),
    early=(_attention(True), lambda m: _inputs(True)),
    mutants=MUTANTS,
)

if __name__ == "__main__":
    sys.exit(main(FAMILY))
