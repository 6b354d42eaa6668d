"""Faster attention, RMSNorm, rotary embedding and expert dispatch for diffusers' HiDream transformer.

    from transformer_patches import apply_patches
    apply_patches()

replaces methods on the classes of `diffusers.models.transformers.transformer_hidream_image` (written against commit
d72184eba358), so models that exist already use them too. Parameters, state dict, LoRA layers and hooks stay as they
are: every submodule is called as a module unless it is plain. The device of the tensors decides, call by call: on npu
the kernels of torch_npu 2.7.1 as its documentation gives them (none was run on an NPU), on cpu and cuda RMSNorm and
rotation in one autograd function, on any other device upstream's formulas.

Experts get their tokens from one sort of the routing table, as contiguous slices. Where no gradient is recorded, all
experts are one grouped product: npu_grouped_matmul, or PyTorch's for bfloat16 on sm_90 (from PyTorch 2.8). The slices'
sizes then stay on the device; elsewhere they are read from it once a layer.

Only the order of operations and the number of roundings differ from upstream's: in float32, an output or gradient by at
most 1e-5 of its largest value; in bfloat16, its distance from upstream's float32 is at most 1.05 times upstream's own
(tests/smoke/compare_transformer.py). One thing that may surprise is the same: with `force_inference_output=True`, as
the training script loads the model, and in eval mode, no gradient reaches the routed experts or passes through them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

try:
    import torch_npu
except ImportError:  # not an NPU machine, or its toolkit is not sourced: no tensor can be on an NPU then
    torch_npu = None

UPSTREAM = "diffusers.models.transformers.transformer_hidream_image"
_NPU_KERNELS = ("npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul", "npu_grouped_matmul")
_GROUPED = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)  # from PyTorch 2.10, from 2.8


def _on_npu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "npu"


def _has_grouped_mm(tensor: torch.Tensor) -> bool:
    """Whether PyTorch's grouped product has a kernel there: PyTorch 2.8 has one for sm_90 alone."""
    return _GROUPED is not None and tensor.is_cuda and torch.cuda.get_device_capability(tensor.device) == (9, 0)


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly `kind`, no subclass or LoRA wrapper, and has no hook and no forward of its own."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks) and "forward" not in vars(module)


# ---------------------------------------------------------------------------------------------------- rotary embedding


def _angles(table: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the kernels take of rotation matrices [batch, tokens, 1, pairs, 2, 2].

    On an NPU cos, sin and -sin, each twice, [1, batch * tokens, 1, 2 * pairs]: npu_rotary_mul takes one table for the
    whole batch in interleave mode (layout 1S1D). Elsewhere cos + i sin [batch, tokens, 1, pairs]. They are made once
    and kept on the table, which is one for all layers of a forward pass.
    """
    if not hasattr(table, "_angles"):
        cos, sin = table[..., 0, 0], table[..., 1, 0]
        if _on_npu(table):
            cos, sin = (part.repeat_interleave(2, dim=-1).flatten(0, 1).unsqueeze(0) for part in (cos, sin))
            table._angles = cos, sin, -sin
        else:
            table._angles = (torch.complex(cos, sin),)
    return table._angles


def _turn(x: torch.Tensor, table: torch.Tensor, back: bool = False) -> torch.Tensor:
    """Turn x [batch, tokens, heads, dim] by the table, or back: in float32, result in x's dtype.

    Only the first 2 * pairs features turn: all of them, or half of them where upstream's table is half as wide.
    """
    head, tail = x.tensor_split([2 * table.shape[-3]], dim=-1)
    if _on_npu(x) and not table.requires_grad:
        cos, *sines = _angles(table)
        flat = head.float().reshape(1, -1, *head.shape[2:])
        turned = torch_npu.npu_rotary_mul(flat, cos, sines[back], "interleave").view(head.shape)
    else:
        turned = ((table.mT if back else table) * head.float().unflatten(-1, (-1, 1, 2))).sum(dim=-1).flatten(-2)
    turned = turned.to(x.dtype)
    return torch.cat([turned, tail], dim=-1) if tail.shape[-1] else turned


class _Rotate(torch.autograd.Function):
    """`_turn`, whose backward needs nothing but the table, which all layers share."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        ctx.table = table  # this very object, with what _angles keeps on it
        return _turn(x, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _turn(grad, ctx.table, back=True), None


def _spin_(x: torch.Tensor, spin: torch.Tensor) -> torch.Tensor:
    """Multiply neighbouring pairs of x's leading features by complex `spin`, in place; features beyond them stay."""
    torch.view_as_complex(x[..., : 2 * spin.shape[-1]].unflatten(-1, (-1, 2))).mul_(spin)
    return x


class _NormRotate(torch.autograd.Function):
    """RMSNorm over the last axis and rotation of each head, in float32, with one rounding at the end.

    x [batch, tokens, heads * dim] to [batch, tokens, heads, dim] in `dtype`. Keeps x for backward; upstream keeps twice
    its bytes in float32 and four times in bfloat16 (counted with torch.autograd.graph.saved_tensors_hooks).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, spin: torch.Tensor, eps: float, *form: Any) -> Any:
        heads, dtype = form
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, spin, scale)
        return _spin_((x * scale).mul_(weight).unflatten(-1, (heads, -1)), spin).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, spin, scale = ctx.saved_tensors
        grad = grad.to(scale.dtype, copy=True, memory_format=torch.contiguous_format)
        grad = _spin_(grad, spin.conj()).flatten(2)
        wide = x.to(scale.dtype)
        grad_weight = (grad * wide).mul_(scale).sum((0, 1)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad.mul_(weight)
        slope = (grad * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
        grad_x = grad.mul_(scale).addcmul_(wide, slope).to(x.dtype)
        return grad_x, grad_weight, None, None, None, None


def norm_rotate(
    streams: Sequence[tuple[torch.Tensor, nn.Module]], table: torch.Tensor, heads: int, dtype: torch.dtype
) -> torch.Tensor:
    """Each stream x [batch, its tokens, heads * dim] through its norm, joined, and each head rotated by the table.

    table [batch, tokens of all streams, 1, pairs, 2, 2]; result [batch, tokens, heads, dim] in `dtype`.
    """
    plain = all(_is_plain(norm, nn.RMSNorm) and norm.eps and norm.weight is not None for _, norm in streams)
    kind = "npu" if _on_npu(table) else table.device.type
    if plain and kind in ("cpu", "cuda") and table.dtype == torch.float32 and not table.requires_grad:
        spins = _angles(table)[0].split([x.shape[1] for x, _ in streams], dim=1)
        pairs = zip(streams, spins, strict=True)
        return _join([_NormRotate.apply(x, norm.weight, spin, norm.eps, heads, dtype) for (x, norm), spin in pairs])
    normed = [_rms_norm(x, norm) if plain and kind == "npu" else norm(x) for x, norm in streams]
    joined = _join([x.to(dtype).unflatten(-1, (heads, -1)) for x in normed])
    return _turn(joined, table) if table.requires_grad else _Rotate.apply(joined, table)


def _rms_norm(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    dtype = torch.promote_types(x.dtype, norm.weight.dtype)  # the kernel wants one dtype
    return torch_npu.npu_rms_norm(x.to(dtype), norm.weight.to(dtype), epsilon=norm.eps)[0]


def _join(streams: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(streams, dim=1) if len(streams) > 1 else streams[0]


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
    dtype, heads, table = hidden_states.dtype, attn.heads, image_rotary_emb
    queries, keys = [(attn.to_q(hidden_states), attn.q_rms_norm)], [(attn.to_k(hidden_states), attn.k_rms_norm)]
    values = [attn.to_v(hidden_states)]
    if not attn.single:
        queries.append((attn.to_q_t(encoder_hidden_states), attn.q_rms_norm_t))
        keys.append((attn.to_k_t(encoder_hidden_states), attn.k_rms_norm_t))
        values.append(attn.to_v_t(encoder_hidden_states))
    query, key = norm_rotate(queries, table, heads, dtype), norm_rotate(keys, table, heads, dtype)
    if hidden_states_masks is not None:
        text = key.shape[1] - hidden_states_masks.shape[1]
        key = key * F.pad(hidden_states_masks, (0, text), value=1)[:, :, None, None]
    out = attend(query, key, _join(values).unflatten(-1, (heads, -1))).to(query.dtype)
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
        if not _on_npu(x):
            return _GROUPED(x, _stacked(weights).mT, offs=ends)
        how = {"group_list": sizes, "group_list_type": 1, "group_type": 0, "split_item": 2}
        return torch_npu.npu_grouped_matmul([x], [weight.t() for weight in weights], **how)[0]

    return product(F.silu(product(rows, "w1")).mul_(product(rows, "w3")), "w2")


def _can_group(experts: Sequence[Any], rows: torch.Tensor) -> bool:
    """Whether a grouped product may stand in for the experts: no gradient, plain linear layers, 16-byte alignment."""
    dtypes = (torch.float16, torch.bfloat16) if _on_npu(rows) else (torch.bfloat16,) if _has_grouped_mm(rows) else ()
    if torch.is_grad_enabled() or rows.dtype not in dtypes or len(experts) < 2:
        return False
    if not all(_is_plain(expert, type(experts[0])) for expert in experts):
        return False
    layers = [layer for expert in experts for layer in (expert.w1, expert.w2, expert.w3)]
    return all(_is_plain(x, nn.Linear) and x.weight.dtype == rows.dtype and x.in_features % 8 == 0 for x in layers)


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
# What is replaced -> (by what, the attributes of upstream's classes that this reads).
_REPLACEMENTS: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "HiDreamAttnProcessor.__call__": (attention, {"single", "heads", *_STREAM, *(f"{name}_t" for name in _STREAM)}),
    "MOEFeedForwardSwiGLU.forward": (experts_forward, {"gate", "shared_experts", "experts", "_force_inference_output"}),
}


def _misfit(upstream: Callable[..., Any], ours: Callable[..., Any], reads: set[str]) -> str:
    """What of `upstream` is not as `ours` expects, in a few words; empty where all is."""
    theirs, mine = (list(inspect.signature(function).parameters) for function in (upstream, ours))
    if theirs != mine:
        return f"takes ({', '.join(theirs)}), not ({', '.join(mine)})"
    missing = sorted(reads - set(inspect.unwrap(upstream).__code__.co_names))
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
    for name, (ours, reads) in _REPLACEMENTS.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = getattr(upstream, owner_name, None)
        found = getattr(owner, attribute, None)
        places.append((owner, attribute, ours))
        misfit = "is not there" if found is None else _misfit(found, ours, reads)
        if misfit and found is not ours:
            raise RuntimeError(
                f"transformer_patches: {name} of the diffusers at {upstream.__file__} {misfit}; "
                f"check out diffusers at d72184e, or remove the apply_patches() call to run without the patches"
            )
    for owner, attribute, ours in places:
        setattr(owner, attribute, ours)
    return tuple(_REPLACEMENTS)
