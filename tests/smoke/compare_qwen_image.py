"""Compare Qwen-Image's transformer_patches.py with upstream's modules, as compare_family.py says.

python compare_qwen_image.py path/to/transformer_patches.py [--branch cpu|npu] [--mutants]

Upstream's is that of the prepared tree, whose transformer hides the padding of captions (fix text-mask): a batch of
captions that differ in length is held to each of them alone, too.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
import torch.nn as nn
from compare_family import JOINT, Family, check_turns, main
from comparing import DRAWS, FLOAT32_LIMIT, Suite, leaf, lora, max_error

WIDTH, HEADS, BATCH, SIDES, TEXT = 64, 4, 2, (6, 5), 13
IMAGE, AXES = SIDES[0] * SIDES[1], (8, 4, 4)
NAME = "diffusers.models.transformers.transformer_qwenimage"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "to_add_out"]
SHORT = torch.tensor([[1] * TEXT, [1] * 5 + [0] * (TEXT - 5)])  # the second caption has five tokens

# What to break in transformer_patches.py, by branch -> (its text, the text in its place).
UNSEEN = "dtype of the projections"  # the output layers, which here are always there, cast what they are given
MUTANTS = {
    "cpu": {
        **{what: change for what, change in JOINT["cpu"].items() if what != UNSEEN},
        "numbers made for each layer": ("if kept[0] is not text", "if True"),
        "image before text in the rotation": ("for x in (text, image)", "for x in (image, text)"),
        "padding seen": ("rotation, attention_mask)", "rotation)"),
    },
    "npu": JOINT["npu"],
}


def freqs() -> tuple[torch.Tensor, torch.Tensor]:
    """Complex numbers as upstream's model makes them, of an image and of the text."""
    embed = importlib.import_module(NAME).QwenEmbedRope(10000, list(AXES), scale_rope=True)
    return embed([(1, *SIDES)], [TEXT], torch.device("cpu"))  # type: ignore[no-any-return]


def check_rotary(suite: Suite) -> None:
    image, text = freqs()
    rotation = suite.patches._rotation(image, text, image.device)
    suite.note("numbers are joined once", suite.patches._rotation(image, text, image.device) is rotation)
    other = suite.patches._rotation(image, text[:5], image.device)
    suite.note("another text, another rotation", other.cos.shape[1] == IMAGE + 5)
    x = torch.randn(BATCH, TEXT + IMAGE, HEADS, 16)
    want = suite.reference.apply_rotary_emb_qwen(x, torch.cat([text, image]), use_real=False)
    check_turns(suite, rotation, x, want)


def _attention(m: Any) -> nn.Module:
    """The attention of a block, with what its __init__ gives (transformer_qwenimage.py)."""
    shape = {"query_dim": WIDTH, "dim_head": WIDTH // HEADS, "heads": HEADS, "out_dim": WIDTH, "bias": True}
    form = {"added_kv_proj_dim": WIDTH, "cross_attention_dim": None, "context_pre_only": False}
    return m.Attention(  # type: ignore[no-any-return]
        **shape, **form, qk_norm="rms_norm", eps=1e-6, processor=m.QwenDoubleStreamAttnProcessor2_0()
    )


def _inputs(m: Any) -> dict[str, Any]:
    tokens = {"hidden_states": leaf(BATCH, IMAGE, WIDTH), "encoder_hidden_states": leaf(BATCH, TEXT, WIDTH)}
    return {**tokens, "image_rotary_emb": freqs()}


def check_attention(suite: Suite) -> None:
    inputs = _inputs(None)
    suite.compare("attention", *suite.pair(_attention), inputs)
    seen = nn.functional.pad(SHORT.bool(), (0, IMAGE), value=True)[:, None, None]
    suite.compare("attention, mask", *suite.pair(_attention), {**inputs, "attention_mask": seen})
    suite.compare("attention, LoRA", *suite.pair(lambda m: lora(_attention(m), TARGETS)), inputs, draws=3 * DRAWS)
    ours, theirs = suite.pair(_attention)
    for parameter in (
        p for module in (ours, theirs) for n, p in module.named_parameters() if n[:4] in ("to_q", "to_k", "add_")
    ):
        parameter.data *= 1e-3
    suite.float32("attention, epsilon matters", ours, theirs, inputs)
    ours, theirs = suite.pair(_attention)
    suite.float32("attention, no rotation", ours, theirs, {**inputs, "image_rotary_emb": None})
    for module in (ours, theirs):
        module.norm_q = module.norm_k = module.norm_added_q = module.norm_added_k = None
    suite.float32("attention, no norms", ours, theirs, inputs)
    runs: list[int] = []
    ours, theirs = suite.pair(_attention)
    ours.norm_q.register_forward_hook(lambda *_: runs.append(1))
    suite.float32("attention, hook on the norm", ours, theirs, inputs)
    suite.note("attention, hook on the norm runs", len(runs) == 1)


CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": 24,
    "axes_dims_rope": AXES,
}


class Whole(nn.Module):
    """The transformer with a tensor out, told the captions' lengths as the training script tells them."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.model = module.QwenImageTransformer2DModel(**CONFIG)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        shapes = [(1, *SIDES)] * inputs["hidden_states"].shape[0]
        lengths = inputs["encoder_hidden_states_mask"].sum(dim=1).tolist()
        return self.model(**inputs, img_shapes=shapes, txt_seq_lens=lengths, return_dict=False)[0]  # type: ignore


def check_transformer(suite: Suite) -> None:
    inputs = {
        "hidden_states": leaf(BATCH, IMAGE, 16),
        "timestep": torch.tensor([0.3, 0.7]),
        "encoder_hidden_states": leaf(BATCH, TEXT, 24),
        "encoder_hidden_states_mask": torch.ones_like(SHORT),
    }
    padded = {**inputs, "encoder_hidden_states_mask": SHORT}
    for what, given in {"": inputs, ", padding": padded}.items():
        ours, theirs = suite.pair(Whole)
        suite.note("state dict", list(ours.state_dict()) == list(theirs.state_dict()))
        suite.compare(f"transformer, train{what}", ours, theirs, given)
        for module in (ours, theirs):
            module.model.enable_gradient_checkpointing()
        suite.float32(f"transformer, train{what}, gradient checkpointing", ours, theirs, given)
        pair = suite.pair(lambda m: lora(Whole(m).requires_grad_(False), TARGETS))
        suite.compare(f"transformer, train{what}, LoRA", *pair, given)
    ours, theirs = suite.pair(Whole, "eval")
    suite.float32("transformer, eval", ours, theirs, inputs)
    for row, length in enumerate(SHORT.sum(dim=1).tolist()):
        alone = {name: value[row : row + 1] for name, value in padded.items()}
        alone |= {name: alone[name][:, :length] for name in alone if name.startswith("encoder")}
        error = max_error(ours(**padded)[row : row + 1], theirs(**alone))
        suite.note(f"transformer, a caption of {length} as alone", error <= FLOAT32_LIMIT, error=error)


FAMILY = Family(
    module=NAME,
    checks=(check_rotary, check_attention, check_transformer),
    early=(_attention, _inputs),
    mutants=MUTANTS,
)

if __name__ == "__main__":
    sys.exit(main(FAMILY))
