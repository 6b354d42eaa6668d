"""RMSNorm with rotation and joint attention for the device at hand, and how they get into diffusers' transformers.

transformer_patches.py of each model family is built on these. The device of the tensors decides, call by call: on npu
the kernels of torch_npu 2.7.1 as its documentation gives them (none was run on an NPU), on cpu and cuda RMSNorm and
rotation in one autograd function, on any other device upstream's formulas. Parameters, state dict, LoRA layers and
hooks stay as they are: every submodule is called as a module unless it is plain.

Only the order of operations and the number of roundings differ from upstream's: in float32, an output or gradient by at
most 1e-5 of its largest value; in bfloat16, its distance from upstream's float32 is at most 1.05 times upstream's own
(tests/smoke/comparing.py).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

try:
    import torch_npu
except ImportError:  # not an NPU machine, or its toolkit is not sourced: no tensor can be on an NPU then
    torch_npu = None

_NPU_KERNELS = ("npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul")
_NORMS = ("torch.nn.modules.normalization.RMSNorm", "diffusers.models.normalization.RMSNorm")
Streams = Sequence[tuple[torch.Tensor, Any]]


def on_npu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "npu"


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly `kind`, no subclass or LoRA wrapper, and has no hook and no forward of its own."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks) and "forward" not in vars(module)


def _is_norm(norm: nn.Module) -> bool:
    """Whether a norm is PyTorch's or diffusers' RMSNorm, plain, with an epsilon and a weight and no bias."""
    kind = type(norm)
    known = f"{kind.__module__}.{kind.__qualname__}" in _NORMS and is_plain(norm, kind)
    return bool(known and norm.eps and norm.weight is not None and getattr(norm, "bias", None) is None)


# ---------------------------------------------------------------------------------------------------- rotary embedding


class Rotation:
    """By how much each pair of neighbouring features turns: cos and sin, float32 [batch or 1, tokens, 1, pairs].

    Make it once a forward pass: its tables serve all layers. Features beyond 2 * pairs stay as they are.
    """

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        self.cos, self.sin = cos.float(), sin.float()

    @classmethod
    def of_doubled(cls, tables: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> Rotation:
        """That of cos and sin [tokens, dim], in which each number stands twice: made once and kept on cos, which is one
        for all layers of a forward pass."""
        cos, sin = tables
        if not hasattr(cos, "_rotation"):
            cos._rotation = cls(*(x[None, :, None, ::2].to(device) for x in (cos, sin)))
        return cos._rotation

    @cached_property
    def spin(self) -> torch.Tensor:
        """cos + i sin."""
        return torch.complex(self.cos, self.sin)

    @cached_property
    def doubled(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """cos, sin and -sin, each twice, [1, batch * tokens, 1, 2 * pairs]: in interleave mode npu_rotary_mul takes one
        table for the whole batch (layout 1S1D)."""
        cos, sin = (x.repeat_interleave(2, dim=-1).flatten(0, 1).unsqueeze(0) for x in (self.cos, self.sin))
        return cos, sin, -sin

    def turn(self, x: torch.Tensor, back: bool = False) -> torch.Tensor:
        """Turn x [batch, tokens, heads, dim], or turn it back: in float32, result in x's dtype."""
        head, tail = x.tensor_split([2 * self.cos.shape[-1]], dim=-1)
        if on_npu(x):
            cos, *sines = self.doubled
            flat = head.float().reshape(-1, cos.shape[1], *head.shape[2:])
            turned = torch_npu.npu_rotary_mul(flat, cos, sines[back], "interleave").view(head.shape)
        else:
            first, second = head.float().unflatten(-1, (-1, 2)).unbind(-1)
            cos, sin = self.cos, -self.sin if back else self.sin
            turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
        turned = turned.to(x.dtype)
        return torch.cat([turned, tail], dim=-1) if tail.shape[-1] else turned


class _Rotate(torch.autograd.Function):
    """`Rotation.turn`, whose backward needs nothing but the rotation, which all layers share."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        ctx.rotation = rotation
        return rotation.turn(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.rotation.turn(grad, back=True), None


def _spin_(x: torch.Tensor, spin: torch.Tensor) -> torch.Tensor:
    """Multiply neighbouring pairs of x's leading features by complex `spin`, in place; features beyond them stay."""
    torch.view_as_complex(x[..., : 2 * spin.shape[-1]].unflatten(-1, (-1, 2))).mul_(spin)
    return x


class _NormRotate(torch.autograd.Function):
    """RMSNorm over as many features as the weight has and rotation of each head, in float32, rounded once at the end.

    x [batch, tokens, heads * dim] to [batch, tokens, heads, dim] in `dtype`. Keeps x for backward; upstream keeps twice
    its bytes in float32 and four times in bfloat16 (counted with torch.autograd.graph.saved_tensors_hooks).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, spin: torch.Tensor, eps: float, *form: Any) -> Any:
        heads, dtype = form
        wide = torch.promote_types(x.dtype, torch.float32)
        x = x.unflatten(-1, (-1, *weight.shape))
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, spin, scale)
        return _spin_((x * scale).mul_(weight).flatten(2).unflatten(-1, (heads, -1)), spin).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, spin, scale = ctx.saved_tensors
        grad = grad.to(scale.dtype, copy=True, memory_format=torch.contiguous_format)
        grad = _spin_(grad, spin.conj()).view(x.shape)
        wide = x.to(scale.dtype)
        grad_weight = (grad * wide).mul_(scale).sum((0, 1, 2)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad.mul_(weight)
        slope = (grad * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
        grad_x = grad.mul_(scale).addcmul_(wide, slope).to(x.dtype).flatten(2)
        return grad_x, grad_weight, None, None, None, None


def norm_rotate(streams: Streams, rotation: Rotation | None, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Each stream x [batch, its tokens, heads * dim] through its norm, joined, and each head rotated.

    A norm is over the whole width or over each head, as its weight says; None leaves its stream as it is. `rotation` is
    that of the tokens of all streams, on their device; without one nothing turns. The result
    [batch, tokens, heads, dim] is in `dtype`.
    """
    plain = all(norm is not None and _is_norm(norm) for _, norm in streams)
    kind = "npu" if on_npu(streams[0][0]) else streams[0][0].device.type
    if plain and kind in ("cpu", "cuda") and rotation is not None:
        spins = rotation.spin.split([x.shape[1] for x, _ in streams], dim=1)
        pairs = zip(streams, spins, strict=True)
        return join([_NormRotate.apply(x, norm.weight, spin, norm.eps, heads, dtype) for (x, norm), spin in pairs])
    normed = [x if norm is None else _rms_norm(x, norm, plain and kind == "npu", heads) for x, norm in streams]
    joined = join([x.flatten(2).unflatten(-1, (heads, -1)) for x in normed])
    return (joined if rotation is None else _Rotate.apply(joined, rotation)).to(dtype)


def _rms_norm(x: torch.Tensor, norm: Any, kernel: bool, heads: int) -> torch.Tensor:
    """x [batch, tokens, heads * dim] through its norm, over the whole width or, in heads, over each of them."""
    weight = getattr(norm, "weight", None)
    if weight is not None and weight.shape[-1] != x.shape[-1]:
        x = x.unflatten(-1, (heads, -1))
    if not kernel:
        return norm(x)
    dtype = torch.promote_types(x.dtype, weight.dtype)  # the kernel wants one dtype
    return torch_npu.npu_rms_norm(x.to(dtype), weight.to(dtype), epsilon=norm.eps)[0]


def join(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Streams [batch, its tokens, …] one after another."""
    return torch.cat(list(streams), dim=1) if len(streams) > 1 else streams[0]


# ----------------------------------------------------------------------------------------------------------- attention


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention: three [batch, tokens, heads, dim] to [batch, tokens, heads * dim].

    mask, if any, as F.scaled_dot_product_attention takes it; it decides then on an NPU too.
    """
    if on_npu(query) and mask is None:
        heads, dim = query.shape[2:]
        query, key = query.to(value.dtype), key.to(value.dtype)  # the kernel wants one dtype
        out = torch_npu.npu_fusion_attention(query, key, value, heads, "BSND", scale=dim**-0.5, keep_prob=1.0)[0]
        return out.flatten(2)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def joint_attention(
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None,
    rotation: Rotation | None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of text tokens followed by image tokens, with norms of their own: FLUX's and Qwen-Image's.

    hidden_states [batch, image tokens, width], encoder_hidden_states [batch, text tokens, width]. Returns both streams,
    image first, through their output layers; or, without the second, the one stream [batch, tokens, width] with none.
    """
    queries, keys = [(attn.to_q(hidden_states), attn.norm_q)], [(attn.to_k(hidden_states), attn.norm_k)]
    values = [attn.to_v(hidden_states)]
    if encoder_hidden_states is not None:
        queries.insert(0, (attn.add_q_proj(encoder_hidden_states), attn.norm_added_q))
        keys.insert(0, (attn.add_k_proj(encoder_hidden_states), attn.norm_added_k))
        values.insert(0, attn.add_v_proj(encoder_hidden_states))
    value = join(values).unflatten(-1, (attn.heads, -1))
    query, key = (norm_rotate(streams, rotation, attn.heads, value.dtype) for streams in (queries, keys))
    out = attend(query, key, value, mask).to(_normed_dtype(*queries[-1]))
    if encoder_hidden_states is None:
        return out
    text, image = out.split([x.shape[1] for x in values], dim=1)
    for layer in attn.to_out:
        image = layer(image)
    return image, attn.to_add_out(text)


def _normed_dtype(x: torch.Tensor, norm: Any) -> torch.dtype:
    """The dtype of upstream's norm(x), in which its attention returns: wider than x's under autocast."""
    weight = getattr(norm, "weight", None)
    if weight is None or x.dtype == weight.dtype:
        return x.dtype
    if isinstance(norm, nn.RMSNorm):  # as this PyTorch has it; 2.7.1: that of x
        return F.rms_norm(x.new_empty(0, *weight.shape), weight.shape, weight).dtype
    half = weight.dtype in (torch.float16, torch.bfloat16)
    return weight.dtype if half else torch.promote_types(x.dtype, weight.dtype)


# --------------------------------------------------------------------------------------------------------------- patch

Replacements = Mapping[str, tuple[Callable[..., Any], set[str]]]


def _misfit(upstream: Callable[..., Any], ours: Callable[..., Any], reads: set[str]) -> str:
    """What of `upstream` is not as `ours` expects, in a few words; empty where all is."""
    theirs, mine = (list(inspect.signature(function).parameters) for function in (upstream, ours))
    if theirs != mine:
        return f"takes ({', '.join(theirs)}), not ({', '.join(mine)})"
    missing = sorted(reads - set(inspect.unwrap(upstream).__code__.co_names))
    return f"no longer uses {', '.join(missing)}" if missing else ""


def replace(upstream: str, pin: str, replacements: Replacements, kernels: Sequence[str] = ()) -> tuple[str, ...]:
    """Put replacements into diffusers' module `upstream` and return their names. A second call changes nothing.

    replacements: "Class.method" -> (by what, the attributes of upstream's classes that this reads). pin: the commit of
    diffusers they were written for. kernels: those of torch_npu that they call beyond the ones used here.

    Raises ImportError where the module cannot be imported, and RuntimeError where it is not the one the replacements
    were written for, or where torch_npu lacks a kernel; nothing is replaced then.
    """
    try:
        module = importlib.import_module(upstream)
    except ImportError as error:
        raise ImportError(
            f"transformer_patches: cannot import {upstream} ({error}); in the prepared tree, run: pip install -e ."
        ) from error
    wanted = (*_NPU_KERNELS, *kernels)
    lacking = [name for name in wanted if torch_npu is not None and not hasattr(torch_npu, name)]
    if lacking:
        raise RuntimeError(f"transformer_patches: torch_npu has no {', '.join(lacking)}; install torch_npu 2.7.1")
    places: list[tuple[Any, str, Callable[..., Any]]] = []
    for name, (ours, reads) in replacements.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = getattr(module, owner_name, None)
        found = getattr(owner, attribute, None)
        places.append((owner, attribute, ours))
        misfit = "is not there" if found is None else _misfit(found, ours, reads)
        if misfit and found is not ours:
            raise RuntimeError(
                f"transformer_patches: {name} of the diffusers at {module.__file__} {misfit}; "
                f"check out diffusers at {pin}, or remove the apply_patches() call to run without the patches"
            )
    for owner, attribute, ours in places:
        setattr(owner, attribute, ours)
    return tuple(replacements)
