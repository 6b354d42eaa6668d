"""Faster attention, RMSNorm, rotary embedding and expert dispatch for diffusers' HiDream transformer.

    from transformer_patches import apply_patches
    apply_patches()

replaces methods on the classes of `diffusers.models.transformers.transformer_hidream_image` (written against commit
d72184eba358b883d7186a0a96dedd8118fcb72a), so models that exist already use them too. Parameters, state dict, LoRA
layers and hooks stay as they are: every submodule is called as a module unless it is plain. What runs is decided by
the device of the tensors, call by call:

- npu: the kernels of torch_npu 2.7.1 (npu_fusion_attention, npu_rms_norm and npu_rotary_mul, which have a backward, and
  npu_grouped_matmul, which has none and is used only where no gradient is recorded);
- cpu, cuda: RMSNorm and rotation in one autograd function, the rotation as a complex product, and
  scaled_dot_product_attention;
- any other device: upstream's formulas for norm and rotation, and the same expert dispatch.

Experts get their tokens from one sort of the routing table, as contiguous slices. The slices' sizes are read from the
device once a layer, before the loop over the experts; on an NPU, where no gradient is recorded, they stay there.
(torch._grouped_mm could do so on CUDA, but torch 2.7.1 has none, and it wants all experts' weights in one tensor.)

Numbers agree with upstream's: in float32 to rounding, in bfloat16 no further from upstream's float32 than upstream is.
So does a thing one may not expect: with `force_inference_output=True`, as the training script loads the model, and in
eval mode, upstream runs the routed experts under `torch.no_grad()`: no gradient reaches them or passes through them.
It is the same here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

try:
    import torch_npu
except ImportError:  # not an NPU machine, or its toolkit is not sourced: no tensor can be on an NPU then
    torch_npu = None

PIN = "d72184eba358b883d7186a0a96dedd8118fcb72a"
UPSTREAM = "diffusers.models.transformers.transformer_hidream_image"
_NPU_KERNELS = ("npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul", "npu_grouped_matmul")


def _on_npu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "npu"


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly `kind`, no subclass or LoRA wrapper, and has no hook and no forward of its own."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


# ---------------------------------------------------------------------------------------------------- rotary embedding


def embed_positions(self: Any, ids: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of each position: HiDreamImageEmbedND.forward.

    ids [batch, tokens, axes] to float32 [batch, tokens, 1, pairs, 2, 2], where pairs is sum(axes_dim) / 2: upstream's
    values to the bit, computed in float64 where the device has it. Each angle's sine and cosine is kept so in memory
    that column 0 of a table, (cos, sin), can be read as complex numbers without a copy.
    """
    wide = torch.float32 if ids.device.type in ("npu", "mps") else torch.float64
    angles = []
    for axis, dim in enumerate(self.axes_dim):
        scale = torch.arange(0, dim, 2, dtype=wide, device=ids.device) / dim
        angles.append(ids[..., axis, None] * (1.0 / self.theta**scale))
    angle = torch.cat(angles, dim=-1)
    cos, sin = angle.cos().float(), angle.sin().float()
    columns = torch.stack([torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)], dim=-3)
    return columns.permute(0, 1, 3, 4, 2).unsqueeze(2)


def _as_complex(table: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [..., pairs, 2, 2] to complex numbers [..., pairs]; no copy for what embed_positions makes."""
    column = table[..., 0]
    if column.stride(-1) != 1 or any(step % 2 for step in column.stride()[:-1]) or column.storage_offset() % 2:
        column = column.contiguous()
    return torch.view_as_complex(column)


def _turn_(x: torch.Tensor, spin: torch.Tensor) -> torch.Tensor:
    """Multiply neighbouring pairs of x's leading features by complex `spin`, in place; features beyond them stay."""
    pairs = x[..., : 2 * spin.shape[-1]].unflatten(-1, (-1, 2))
    torch.view_as_complex(pairs).mul_(spin)
    return x


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate x [batch, tokens, heads, dim] by table [batch, tokens, 1, pairs, 2, 2]; in float32, result in x's dtype.

    Only the first 2 * pairs features turn: all of them, or half of them where upstream's table is half as wide.
    """
    width = 2 * table.shape[-3]
    head, tail = x[..., :width].float(), x[..., width:]
    if _on_npu(x) and not table.requires_grad:
        cos = table[..., 0, 0].repeat_interleave(2, dim=-1).flatten(0, 1).unsqueeze(0)
        sin = table[..., 1, 0].repeat_interleave(2, dim=-1).flatten(0, 1).unsqueeze(0)
        # interleave mode takes one table for the whole batch (layout 1S1D), so batch and tokens become one axis
        flat = head.reshape(1, -1, *head.shape[2:])
        head = torch_npu.npu_rotary_mul(flat, cos, sin, "interleave").view(head.shape)
    else:
        head = (table * head.unflatten(-1, (-1, 1, 2))).sum(dim=-1).flatten(-2)
    return torch.cat([head.to(x.dtype), tail], dim=-1) if tail.shape[-1] else head.to(x.dtype)


class _NormRotate(torch.autograd.Function):
    """RMSNorm over the last axis and rotation of each head, in float32, with one rounding at the end.

    x [batch, tokens, heads * dim] to [batch, tokens, heads, dim] in `dtype`. Keeps x for backward; upstream keeps twice
    its bytes in float32 and four times in bfloat16 (counted with torch.autograd.graph.saved_tensors_hooks).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        spin: torch.Tensor,
        eps: float,
        heads: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, spin, scale)
        return _turn_((x * scale).mul_(weight).unflatten(-1, (heads, -1)), spin).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, spin, scale = ctx.saved_tensors
        grad = grad.to(scale.dtype, copy=True, memory_format=torch.contiguous_format)
        grad = _turn_(grad, spin.conj()).flatten(2)
        wide = x.to(scale.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * wide).mul_(scale).sum((0, 1)).to(weight.dtype)
        grad.mul_(weight)
        slope = (grad * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
        grad_x = grad.mul_(scale).addcmul_(wide, slope).to(x.dtype)
        return grad_x, grad_weight, None, None, None, None


def norm_rotate(x: torch.Tensor, norm: nn.Module, table: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """`norm` x [batch, tokens, heads * dim], then rotate each head by table; [batch, tokens, heads, dim] in `dtype`."""
    plain = _is_plain(norm, nn.RMSNorm) and norm.eps is not None and norm.weight is not None
    if plain and _on_npu(x):
        common = torch.promote_types(x.dtype, norm.weight.dtype)
        normed = torch_npu.npu_rms_norm(x.to(common), norm.weight.to(common), epsilon=norm.eps)[0]
    elif plain and x.device.type in ("cpu", "cuda") and table.dtype == torch.float32 and not table.requires_grad:
        return _NormRotate.apply(x, norm.weight, _as_complex(table), norm.eps, heads, dtype)
    else:
        normed = norm(x)
    return rotate(normed.to(dtype).unflatten(-1, (heads, -1)), table)


def apply_rope(xq: torch.Tensor, xk: torch.Tensor, freqs_cis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rotate` for queries and keys, under upstream's name and signature."""
    return rotate(xq, freqs_cis), rotate(xk, freqs_cis)


# ----------------------------------------------------------------------------------------------------------- attention


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention without a mask: three [batch, tokens, heads, dim] to [batch, tokens, heads * dim]."""
    if _on_npu(query):
        heads, dim = query.shape[2:]
        query, key = query.to(value.dtype), key.to(value.dtype)  # the kernel wants one dtype
        out = torch_npu.npu_fusion_attention(query, key, value, heads, "BSND", scale=dim**-0.5, keep_prob=1.0)[0]
        return out.flatten(2)
    out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


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
    dtype, heads = hidden_states.dtype, attn.heads
    tables = [image_rotary_emb]
    if not attn.single:
        tables = image_rotary_emb.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
    query = norm_rotate(attn.to_q(hidden_states), attn.q_rms_norm, tables[0], heads, dtype)
    key = norm_rotate(attn.to_k(hidden_states), attn.k_rms_norm, tables[0], heads, dtype)
    value = attn.to_v(hidden_states).unflatten(-1, (heads, -1))
    if hidden_states_masks is not None:
        key = key * hidden_states_masks[:, :, None, None]
    if attn.single:
        return attn.to_out(attend(query, key, value).to(query.dtype))

    query_t = norm_rotate(attn.to_q_t(encoder_hidden_states), attn.q_rms_norm_t, tables[1], heads, dtype)
    key_t = norm_rotate(attn.to_k_t(encoder_hidden_states), attn.k_rms_norm_t, tables[1], heads, dtype)
    value_t = attn.to_v_t(encoder_hidden_states).unflatten(-1, (heads, -1))
    query, key, value = torch.cat([query, query_t], 1), torch.cat([key, key_t], 1), torch.cat([value, value_t], 1)
    image, text = attend(query, key, value).to(query.dtype).split([table.shape[1] for table in tables], dim=1)
    return attn.to_out(image), attn.to_out_t(text)


# ------------------------------------------------------------------------------------------------------------- experts


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, keeping only its two inputs for backward (upstream's expression keeps silu(gate) as well)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def feed_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """w2(silu(w1(x)) * w3(x)), x [..., width]: HiDreamImageFeedForwardSwiGLU.forward."""
    gate, up = self.w1(x), self.w3(x)
    return self.w2(_SwiGLU.apply(gate, up) if gate.dtype == up.dtype else F.silu(gate) * up)


class _TakeRows(torch.autograd.Function):
    """rows[index], each row taken `fold` times; backward gathers by the inverse `back` and adds: no scatter."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor, back: torch.Tensor, fold: int) -> torch.Tensor:
        ctx.back, ctx.fold = back, fold
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grad.index_select(0, ctx.back)
        return (grad.unflatten(0, (-1, ctx.fold)).sum(1) if ctx.fold > 1 else grad), None, None, None


def _grouped_npu(experts: Sequence[Any], rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """All experts in three grouped products; `sizes` [experts] stays on the device. Without gradients only."""

    def product(x: torch.Tensor, name: str) -> torch.Tensor:
        weights = [getattr(expert, name).weight.t() for expert in experts]
        out = torch_npu.npu_grouped_matmul(
            [x], weights, group_list=sizes, split_item=2, group_type=0, group_list_type=1
        )
        return out[0]

    return product(_SwiGLU.apply(product(rows, "w1"), product(rows, "w3")), "w2")


def _can_group(experts: Sequence[Any], rows: torch.Tensor) -> bool:
    """Whether npu_grouped_matmul may stand in for the experts: no gradient, 16-bit, nothing but plain linear layers."""
    if not _on_npu(rows) or torch.is_grad_enabled() or rows.dtype not in (torch.float16, torch.bfloat16):
        return False
    if len(experts) < 2 or not all(_is_plain(expert, type(experts[0])) for expert in experts):
        return False
    linears = [linear for expert in experts for linear in (expert.w1, expert.w2, expert.w3)]
    return all(_is_plain(linear, nn.Linear) and linear.weight.dtype == rows.dtype for linear in linears)


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
    rows = _TakeRows.apply(x, order // k, place, k)
    if _can_group(experts, rows):
        out = _grouped_npu(experts, rows, sizes)
    else:
        parts = zip(experts, rows.split(sizes.tolist()), strict=True)
        out = torch.cat([expert(part) for expert, part in parts if training or part.shape[0]])
    dtype = x.dtype if training else out.dtype
    chosen = _TakeRows.apply(out, place, order, 1).unflatten(0, (tokens, k)).to(dtype)
    return (chosen * weight.unsqueeze(-1)).sum(1).to(dtype)


def experts_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Routed plus shared experts, x [batch, tokens, width]: MOEFeedForwardSwiGLU.forward."""
    choice, weight, _ = self.gate(x)
    rows = x.reshape(-1, x.shape[-1])
    if self.training and not self._force_inference_output:
        y = route(self.experts, rows, choice, weight, training=True)
    else:
        y = self.moe_infer(rows, choice.view(-1), weight.view(-1, 1))
    return y.view(x.shape) + self.shared_experts(x)


@torch.no_grad()
def moe_infer(
    self: Any, x: torch.Tensor, flat_expert_indices: torch.Tensor, flat_expert_weights: torch.Tensor
) -> torch.Tensor:
    """The routed experts, without gradients: MOEFeedForwardSwiGLU.moe_infer. Result in the dtype of their output."""
    choice = flat_expert_indices.view(-1, self.num_activated_experts)
    return route(self.experts, x, choice, flat_expert_weights.view(choice.shape), training=False)


# --------------------------------------------------------------------------------------------------------------- patch

_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "HiDreamAttnProcessor.__call__": attention,
    "HiDreamImageEmbedND.forward": embed_positions,
    "HiDreamImageFeedForwardSwiGLU.forward": feed_forward,
    "MOEFeedForwardSwiGLU.forward": experts_forward,
    "MOEFeedForwardSwiGLU.moe_infer": moe_infer,
    "apply_rope": apply_rope,
}


# Attributes of upstream's classes that the replacements read.
_READS = {
    "HiDreamAttnProcessor.__call__": {
        *("to_q", "to_k", "to_v", "to_out", "q_rms_norm", "k_rms_norm", "single", "heads"),
        *("to_q_t", "to_k_t", "to_v_t", "to_out_t", "q_rms_norm_t", "k_rms_norm_t"),
    },
    "HiDreamImageEmbedND.forward": {"axes_dim", "theta"},
    "HiDreamImageFeedForwardSwiGLU.forward": {"w1", "w2", "w3"},
    "MOEFeedForwardSwiGLU.forward": {"gate", "shared_experts", "experts", "moe_infer", "_force_inference_output"},
    "MOEFeedForwardSwiGLU.moe_infer": {"experts", "num_activated_experts"},
}


def _names(code: CodeType) -> set[str]:
    """Every attribute and global that a function's code mentions, also in its comprehensions."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _misfit(upstream: Callable[..., Any], ours: Callable[..., Any], reads: set[str]) -> str:
    """What of `upstream` is not as `ours` expects, in a few words; empty where all is."""
    theirs, mine = (list(inspect.signature(function).parameters) for function in (upstream, ours))
    if theirs != mine:
        return f"takes ({', '.join(theirs)}), not ({', '.join(mine)})"
    missing = sorted(reads - _names(inspect.unwrap(upstream).__code__))
    return f"no longer uses {', '.join(missing)}" if missing else ""


def apply_patches() -> tuple[str, ...]:
    """Put the replacements into diffusers and return their names. A second call changes nothing.

    Raises ImportError where diffusers' HiDream transformer cannot be imported, and RuntimeError where it is not the one
    these replacements were written for, or where torch_npu lacks a kernel; nothing is replaced then.
    """
    try:
        upstream = importlib.import_module(UPSTREAM)
    except ImportError as error:
        raise ImportError(
            f"transformer_patches: cannot import {UPSTREAM} ({error}); in the prepared tree, run: pip install -e ."
        ) from error
    lacking = [name for name in _NPU_KERNELS if torch_npu is not None and not hasattr(torch_npu, name)]
    if lacking:
        raise RuntimeError(f"transformer_patches: torch_npu has no {', '.join(lacking)}; install torch_npu 2.7.1")

    places: list[tuple[Any, str, Callable[..., Any]]] = []
    for name, ours in _REPLACEMENTS.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = getattr(upstream, owner_name, None) if owner_name else upstream
        found = getattr(owner, attribute, None)
        if found is ours:
            continue
        misfit = "is not there" if found is None else _misfit(found, ours, _READS.get(name, set()))
        if misfit:
            raise RuntimeError(
                f"transformer_patches: {name} of the diffusers at {upstream.__file__} {misfit}; "
                f"check out diffusers at {PIN[:7]}, or remove the apply_patches() call to run without the patches"
            )
        places.append((owner, attribute, ours))
    for owner, attribute, ours in places:
        setattr(owner, attribute, ours)
    return tuple(_REPLACEMENTS)
