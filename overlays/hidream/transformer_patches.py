"""Faster attention, RMSNorm, rotary embedding and expert dispatch for diffusers' HiDream transformer.

    from transformer_patches import apply_patches
    apply_patches()

replaces methods on the classes of `diffusers.models.transformers.transformer_hidream_image` (written against commit
d72184eba358), so models that exist already use them too. device_operators.py says what runs on which device, and how
near to upstream it is.

Experts get their tokens from one sort of the routing table, as contiguous slices. Where no gradient is recorded, all
experts are one grouped product: npu_grouped_matmul, or PyTorch's for bfloat16 on sm_90 (from PyTorch 2.8). The slices'
sizes then stay on the device; elsewhere they are read from it once a layer.

One thing that may surprise is as upstream has it: with `force_inference_output=True`, as the training script loads the
model, and in eval mode, no gradient reaches the routed experts or passes through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from device_operators import Rotation, Streams, attend, is_plain, join, norm_rotate, on_npu, replace, torch_npu

UPSTREAM = "diffusers.models.transformers.transformer_hidream_image"
PIN = "d72184e"
_GROUPED = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)  # from PyTorch 2.10, from 2.8


def _has_grouped_mm(tensor: torch.Tensor) -> bool:
    """Whether PyTorch's grouped product has a kernel there: PyTorch 2.8 has one for sm_90 alone."""
    return _GROUPED is not None and tensor.is_cuda and torch.cuda.get_device_capability(tensor.device) == (9, 0)


# ----------------------------------------------------------------------------------------------------------- attention


def _rotation(table: torch.Tensor) -> Rotation:
    """That of rotation matrices [batch, tokens, 1, pairs, 2, 2]: made once and kept on the table, which is one for all
    layers of a forward pass."""
    if not hasattr(table, "_rotation"):
        table._rotation = Rotation(table[..., 0, 0], table[..., 1, 0])
    return table._rotation


def _norm_rotate(streams: Streams, table: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """`norm_rotate` by the table; where the table wants a gradient or is not float32, by upstream's formula."""
    if table.dtype == torch.float32 and not table.requires_grad:
        return norm_rotate(streams, _rotation(table), heads, dtype)
    head, tail = norm_rotate(streams, None, heads, dtype).tensor_split([2 * table.shape[-3]], dim=-1)
    turned = (table * head.float().unflatten(-1, (-1, 1, 2))).sum(dim=-1).flatten(-2).to(dtype)
    return torch.cat([turned, tail], dim=-1)


def attention(
    self: Any,
    attn: Any,
    hidden_states: torch.Tensor,
    hidden_states_masks: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    image_rotary_emb: torch.Tensor = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Joint attention of image and text tokens, or of one stream: HiDreamAttnProcessor.__call__.

    hidden_states [batch, image tokens, width]; hidden_states_masks [batch, image tokens] zeroes the keys of padding (it
    does not hide them: upstream's softmax counts a zero key, so does this); encoder_hidden_states [batch, text tokens,
    width] for a double-stream block. Returns the image stream, or both.
    """
    dtype, heads, table = hidden_states.dtype, attn.heads, image_rotary_emb
    queries, keys = [(attn.to_q(hidden_states), attn.q_rms_norm)], [(attn.to_k(hidden_states), attn.k_rms_norm)]
    values = [attn.to_v(hidden_states)]
    if not attn.single:
        queries.append((attn.to_q_t(encoder_hidden_states), attn.q_rms_norm_t))
        keys.append((attn.to_k_t(encoder_hidden_states), attn.k_rms_norm_t))
        values.append(attn.to_v_t(encoder_hidden_states))
    query, key = _norm_rotate(queries, table, heads, dtype), _norm_rotate(keys, table, heads, dtype)
    if hidden_states_masks is not None:
        text = key.shape[1] - hidden_states_masks.shape[1]
        key = key * F.pad(hidden_states_masks, (0, text), value=1)[:, :, None, None]
    out = attend(query, key, join(values).unflatten(-1, (heads, -1))).to(query.dtype)
    if attn.single:
        return attn.to_out(out)
    image, text = out.split([x.shape[1] for x in values], dim=1)
    return attn.to_out(image), attn.to_out_t(text)


# ------------------------------------------------------------------------------------------------------------- experts


def _stacked(weights: list[torch.Tensor]) -> torch.Tensor:
    """The experts' weights [out, in] as one tensor [experts, out, in].

    At the first call they move next to each other: each stays the parameter it is, now a slice of one tensor, so that
    no later call copies anything. Those that are slices already (of FSDP's flat parameter, say) are copied each time.
    """
    first = weights[0].detach()
    places = {(w.untyped_storage().data_ptr(), w.data_ptr() - i * first.nbytes) for i, w in enumerate(weights)}
    if len(places) == 1 and all(weight.is_contiguous() for weight in weights):
        return first.as_strided((len(weights), *first.shape), (first.numel(), *first.stride()))
    whole = torch.stack([weight.detach() for weight in weights])
    if all(weight.untyped_storage().nbytes() == weight.nbytes for weight in weights):
        for weight, part in zip(weights, whole, strict=True):
            weight.data = part
    return whole


def _grouped(experts: Sequence[Any], rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """All experts in three grouped products; `sizes` [experts] stays on the device. Without gradients only."""
    ends = sizes.cumsum(0, dtype=torch.int32)

    def product(x: torch.Tensor, name: str) -> torch.Tensor:
        weights = [getattr(expert, name).weight for expert in experts]
        if not on_npu(x):
            return _GROUPED(x, _stacked(weights).mT, offs=ends)
        how = {"group_list": sizes, "group_list_type": 1, "group_type": 0, "split_item": 2}
        return torch_npu.npu_grouped_matmul([x], [weight.t() for weight in weights], **how)[0]

    return product(F.silu(product(rows, "w1")).mul_(product(rows, "w3")), "w2")


def _can_group(experts: Sequence[Any], rows: torch.Tensor) -> bool:
    """Whether a grouped product may stand in for the experts: no gradient, plain linear layers, 16-byte alignment."""
    dtypes = (torch.float16, torch.bfloat16) if on_npu(rows) else (torch.bfloat16,) if _has_grouped_mm(rows) else ()
    if torch.is_grad_enabled() or rows.dtype not in dtypes or len(experts) < 2:
        return False
    if not all(is_plain(expert, type(experts[0])) for expert in experts):
        return False
    layers = [layer for expert in experts for layer in (expert.w1, expert.w2, expert.w3)]
    return all(is_plain(x, nn.Linear) and x.weight.dtype == rows.dtype and x.in_features % 8 == 0 for x in layers)


def route(
    experts: Sequence[Any], x: torch.Tensor, choice: torch.Tensor, weight: torch.Tensor, training: bool
) -> torch.Tensor:
    """Sum over each token's chosen experts of weight * expert(token).

    x [tokens, width], choice [tokens, k] of expert numbers, weight [tokens, k]; result [tokens, width], as upstream in
    x's dtype when training and else in that of the experts' output (they differ under autocast). In training an expert
    that no token chose is called on zero rows: as upstream's, its weights then get a gradient of zeros and not none.
    """
    tokens, k = choice.shape
    flat = choice.reshape(-1)
    order = flat.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.shape[0], device=order.device)
    sizes = (flat == torch.arange(len(experts), device=flat.device).unsqueeze(1)).sum(1)
    rows = x.index_select(0, order // k)
    if _can_group(experts, rows):
        out = _grouped(experts, rows, sizes)
    else:
        parts = zip(experts, rows.split(sizes.tolist()), strict=True)
        out = torch.cat([expert(part) for expert, part in parts if training or part.shape[0]])
    dtype = x.dtype if training else out.dtype
    chosen = out.index_select(0, place).unflatten(0, (tokens, k)).to(dtype)
    return (chosen * weight.unsqueeze(-1)).sum(1).to(dtype)


def experts_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Routed plus shared experts, x [batch, tokens, width]: MOEFeedForwardSwiGLU.forward, with its moe_infer."""
    choice, weight, _ = self.gate(x)
    training = self.training and not self._force_inference_output
    with torch.set_grad_enabled(training and torch.is_grad_enabled()):
        y = route(self.experts, x.reshape(-1, x.shape[-1]), choice, weight, training)
    return y.view(x.shape) + self.shared_experts(x)


# --------------------------------------------------------------------------------------------------------------- patch

_STREAM = ("to_q", "to_k", "to_v", "to_out", "q_rms_norm", "k_rms_norm")
_REPLACEMENTS = {
    "HiDreamAttnProcessor.__call__": (attention, {"single", "heads", *_STREAM, *(f"{name}_t" for name in _STREAM)}),
    "MOEFeedForwardSwiGLU.forward": (experts_forward, {"gate", "shared_experts", "experts", "_force_inference_output"}),
}


def apply_patches() -> tuple[str, ...]:
    """Put the replacements into diffusers and return their names; raises what `device_operators.replace` raises."""
    return replace(UPSTREAM, PIN, _REPLACEMENTS, ("npu_grouped_matmul",))
