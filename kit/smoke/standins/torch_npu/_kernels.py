"""The fused operators of torch_npu 2.7.1 that the recipes and diffusers call, in plain torch operators.

Signatures, results and constraints: the package's own documentation (`_op_plugin_docs.py` in its wheel). What it
forbids is refused here, and so is what is not stood in for, in a message that says which of the two it is. They compute
in float32 and round once, so their last bits are not the device's. Gradients flow where the real operator has a
backward.
"""

from __future__ import annotations

import contextlib
import functools

import torch
import torch.nn.functional as F
from kit_standin import counted

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def _kernel(operator):
    """Decorator: an operator of the package, counted. What it is made of is not autocast: a kernel is one operation.
    (Where the backend is not there, and the kernels are compared on a CPU's tensors, nothing is.)"""

    @functools.wraps(operator)
    def call(*args, **kwargs):
        there = torch._C._get_privateuse1_backend_name() == "npu"
        with torch.autocast("npu", enabled=False) if there else contextlib.nullcontext():
            return operator(*args, **kwargs)

    return counted(call)


def _need(condition: bool, name: str, what: str) -> None:
    """Raise RuntimeError as torch_npu does for an argument that its documentation forbids."""
    if not condition:
        raise RuntimeError(f"{name}: {what}")


def _have(condition: bool, name: str, what: str) -> None:
    """Raise NotImplementedError for what the real operator has and this one lacks."""
    if not condition:
        raise NotImplementedError(f"{name}: {what} is not stood in for by kit's torch_npu")


def _on_one_device(name: str, **tensors) -> None:
    """All tensors are on one NPU. Lists of tensors count as their members, None as absent."""
    flat = [
        (f"{key}[{i}]" if isinstance(value, (list, tuple)) else key, tensor)
        for key, value in tensors.items()
        for i, tensor in enumerate(value if isinstance(value, (list, tuple)) else [value])
        if isinstance(tensor, torch.Tensor)
    ]
    for key, tensor in flat:
        if tensor.device.type != "npu" or tensor.device != flat[0][1].device:
            raise RuntimeError(
                f"{name}: Expected all tensors to be on the same device. Expected NPU tensor, please check whether the "
                f"input tensor device is correct: {key} is on {tensor.device}, {flat[0][0]} on {flat[0][1].device}."
            )


def _one_dtype(name: str, **tensors) -> None:
    """All tensors have one dtype, out of float16, bfloat16 and float32."""
    given = {key: tensor.dtype for key, tensor in tensors.items() if tensor is not None}
    _need(len(set(given.values())) == 1, name, f"dtypes must be the same, not {given}")
    _need(next(iter(given.values())) in _FLOATS, name, f"dtype must be float16, bfloat16 or float32, not {given}")


_HEADS_APART = {"BSND": "bsnd->bnsd", "BNSD": "bnsd->bnsd"}
_HEADS_TOGETHER = {"BSH": "bsnd->bnsd", "SBH": "sbnd->bnsd"}


@_kernel
def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    pse: torch.Tensor | None = None,
    padding_mask: torch.Tensor | None = None,
    atten_mask: torch.Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    actual_seq_qlen: list[int] | None = None,
    actual_seq_kvlen: list[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, int]:
    """dropout(softmax(mask(scale * query @ key^T))) @ value, and softmax's maxima and sums.

    query, key, value in `input_layout` BSH, SBH, BSND or BNSD, key and value of one shape, query's heads a multiple of
    theirs; atten_mask bool or uint8 of shape SS, 11SS, B1SS or BNSS, 1 where a key is hidden. Result in query's layout.
    Raises RuntimeError for what the documentation forbids, NotImplementedError for what is missing here.
    """
    name = "npu_fusion_attention"
    _on_one_device(name, query=query, key=key, value=value, atten_mask=atten_mask)
    _one_dtype(name, query=query, key=key, value=value)
    _need(input_layout in ("BSH", "SBH", "BSND", "BNSD", "TND"), name, f"no layout {input_layout!r}")
    _have(input_layout != "TND", name, "layout TND")
    _have(pse is None and prefix is None and sparse_mode in (0, 1), name, "pse, prefix or sparse_mode 2 to 8")
    _need(padding_mask is None, name, "padding_mask is not supported")
    _need(0 < keep_prob <= 1, name, f"keep_prob must be in (0, 1], not {keep_prob}")
    _need(query.ndim == len(input_layout), name, f"{input_layout} needs {len(input_layout)} axes, not {query.ndim}")
    _need(key.shape == value.shape, name, f"shapes of key {tuple(key.shape)} and value {tuple(value.shape)} differ")

    if input_layout in _HEADS_TOGETHER:
        _need(query.shape[-1] % head_num == 0, name, f"{query.shape[-1]} features are not {head_num} heads")
        dim = query.shape[-1] // head_num
        _need(key.shape[-1] % dim == 0, name, f"key's {key.shape[-1]} features are not heads of {dim}")
        order = _HEADS_TOGETHER[input_layout]
        q, k, v = (torch.einsum(order, x.unflatten(-1, (-1, dim)).float()) for x in (query, key, value))
    else:
        order = _HEADS_APART[input_layout]
        q, k, v = (torch.einsum(order, x.float()) for x in (query, key, value))
    batch, heads, rows, dim = q.shape
    _need(heads == head_num, name, f"query has {heads} heads and head_num is {head_num}")
    _need(k.shape[0] == batch and k.shape[3] == dim, name, "batch or head size of query and key differ")
    _need(heads % k.shape[1] == 0, name, f"query's {heads} heads are no multiple of key's {k.shape[1]}")
    _need(dim <= 768 and heads <= 256, name, f"at most 256 heads of 768, not {heads} of {dim}")

    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if atten_mask is not None:
        _need(atten_mask.dtype in (torch.bool, torch.uint8), name, f"atten_mask is {atten_mask.dtype}, not bool")
        shape = tuple(atten_mask.shape)
        shapes = [(rows, k.shape[2]), *((b, n, rows, k.shape[2]) for b, n in ((1, 1), (batch, 1), (batch, heads)))]
        _need(shape in shapes, name, f"atten_mask is {shape}, not one of {shapes}")
        _have(min(pre_tockens, next_tockens) >= max(rows, k.shape[2]), name, "a band mask")
        scores = scores.masked_fill(atten_mask.bool(), torch.finfo(torch.float32).min)
    high = scores.detach().amax(-1, keepdim=True)
    total = (scores.detach() - high).exp().sum(-1, keepdim=True)
    out = F.dropout(scores.softmax(-1), 1 - keep_prob) @ v
    out = torch.einsum("->".join(reversed(order.split("->"))), out)
    if input_layout in _HEADS_TOGETHER:
        out = out.flatten(-2)
    stats = (x.expand(*x.shape[:-1], 8) for x in (high, total))  # the device keeps eight copies of each
    return (out.to(query.dtype), *stats, query.new_empty(0), 0, 0, 0)


@_kernel
def npu_rms_norm(self: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-06) -> tuple[torch.Tensor, torch.Tensor]:
    """(self / rms(self) * gamma, 1 / rms), the mean over gamma's axes, which are self's last; 2 to 8 axes."""
    name = "npu_rms_norm"
    _on_one_device(name, self=self, gamma=gamma)
    _one_dtype(name, self=self, gamma=gamma)
    _need(2 <= self.ndim <= 8, name, f"self must have 2 to 8 axes, not {self.ndim}")
    _need(
        self.shape[-gamma.ndim :] == gamma.shape, name, f"gamma {tuple(gamma.shape)} is not {tuple(self.shape)}'s end"
    )
    wide = self.float()
    rstd = (wide.square().mean(tuple(range(-gamma.ndim, 0)), keepdim=True) + epsilon).rsqrt()
    return (wide * rstd * gamma.float()).to(self.dtype), rstd


@_kernel
def npu_rotary_mul(input: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, rotary_mode: str = "half") -> torch.Tensor:
    """r1 * input + r2 * turned(input), where half mode turns (a, b), the halves of the last axis, to (-b, a), and
    interleave mode so each pair of neighbours.

    input [4 axes], its layout BNSD, BSND or SBND; r1 and r2 the same with 1 for the heads' axis and, which interleave
    mode demands, for the batch's.
    """
    name = "npu_rotary_mul"
    _on_one_device(name, input=input, r1=r1, r2=r2)
    _need(rotary_mode in ("half", "interleave"), name, f"rotary_mode is half or interleave, not {rotary_mode!r}")
    _need(all(x.dtype in _FLOATS for x in (input, r1, r2)), name, "dtype must be float16, bfloat16 or float32")
    _need(input.ndim == r1.ndim == r2.ndim == 4, name, "input, r1 and r2 must have 4 axes")
    _need(r1.shape == r2.shape, name, f"r1 {tuple(r1.shape)} and r2 {tuple(r2.shape)} must have one shape")
    dim = input.shape[-1]
    _need(dim < 896 and dim % 2 == 0, name, f"the last axis must be even and below 896, not {dim}")
    fits = all(r in (1, x) for x, r in zip(input.shape, r1.shape)) and r1.shape[-1] == dim  # noqa: B905
    kept = [axis for axis in range(3) if r1.shape[axis] != 1]
    if rotary_mode == "half":
        _need(fits, name, f"r1 {tuple(r1.shape)} does not go with input {tuple(input.shape)}")
        _need(max(input.shape[:3]) < 1000 or r1.shape[0] == 1 or r1.shape[1] == 1, name, "B and N must be below 1000")
        first, second = input.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        one_table = fits and len(kept) <= 1
        _need(one_table, name, f"interleave mode takes r1 as 11SD, 1S1D or S11D, not {tuple(r1.shape)}")
        others = [size for axis, size in enumerate(input.shape[:3]) if axis not in kept]
        _need(len(others) > 2 or others[0] * others[-1] < 1000, name, f"B * N must be below 1000, not of {others}")
        turned = torch.stack([-input[..., 1::2], input[..., ::2]], dim=-1).flatten(-2)
    return (r1.float() * input.float() + r2.float() * turned.float()).to(input.dtype)


@_kernel
def npu_geglu(self: torch.Tensor, dim: int = -1, approximate: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(left * gelu(right), gelu(right)) of the two halves of `dim`; approximate 1 is the tanh form, 0 the exact one.

    Diffusers' GEGLU takes it for `hidden * gelu(gate)`, of which hidden is the first half.
    """
    name = "npu_geglu"
    _on_one_device(name, self=self)
    _one_dtype(name, self=self)
    _need(approximate in (0, 1), name, f"approximate is 0 or 1, not {approximate}")
    _need(self.shape[dim] % 2 == 0, name, f"axis {dim} must be even, not {self.shape[dim]}")
    left, right = self.float().chunk(2, dim=dim)
    gate = F.gelu(right, approximate="tanh" if approximate else "none")
    return (left * gate).to(self.dtype), gate.to(self.dtype)


@_kernel
def npu_grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    bias: list[torch.Tensor] | None = None,
    scale: list[torch.Tensor] | None = None,
    offset: list[torch.Tensor] | None = None,
    antiquant_scale: list[torch.Tensor] | None = None,
    antiquant_offset: list[torch.Tensor] | None = None,
    per_token_scale: list[torch.Tensor] | None = None,
    group_list: list[int] | torch.Tensor | None = None,
    activation_input: list[torch.Tensor] | None = None,
    activation_quant_scale: list[torch.Tensor] | None = None,
    activation_quant_offset: list[torch.Tensor] | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    output_dtype: torch.dtype | None = None,
    tuning_config: list[int] | None = None,
) -> list[torch.Tensor]:
    """[rows of group i @ weight[i], one after the other]: one x, several weights [k, n], one output; no gradients.

    group_list is an int64 tensor of the groups' sizes (group_list_type 1) or of their running sum (0).
    Raises RuntimeError for what the documentation forbids, NotImplementedError for its other forms.
    """
    name = "npu_grouped_matmul"
    _on_one_device(name, x=x, weight=weight, group_list=group_list)
    quantised = (scale, offset, antiquant_scale, antiquant_offset, per_token_scale)
    activation = (activation_input, activation_quant_scale, activation_quant_offset)
    _have(all(given is None for given in (bias, *quantised, *activation)), name, "bias, quantisation or activation")
    _have(
        len(x) == 1 and len(weight) > 1 and split_item in (2, 3), name, "a form but one x, several weights, one output"
    )
    _have(isinstance(group_list, torch.Tensor) and group_type == 0 and act_type == 0, name, "group_list as ints")
    asks = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*x, *weight))
    _need(not asks, name, "it has no backward: call it under torch.no_grad()")
    _need(len(weight) <= 128, name, f"at most 128 weights, not {len(weight)}")
    _need(group_list.dtype == torch.int64 and group_list.shape == (len(weight),), name, "group_list: an int64 a weight")
    _need(group_list_type in (0, 1), name, f"group_list_type is 0 or 1, not {group_list_type}")
    _need(x[0].dtype in (torch.float16, torch.bfloat16), name, f"several weights go with 16-bit x, not {x[0].dtype}")
    _need(all(w.dtype == x[0].dtype for w in weight), name, "x and weight must have one dtype")
    _need(output_dtype in (None, x[0].dtype), name, f"output_dtype must be {x[0].dtype}, not {output_dtype}")
    _need(x[0].ndim == 2 and all(w.ndim == 2 for w in weight), name, "x and weight must have 2 axes")
    _need(len({w.shape[1] for w in weight}) == 1, name, "all weights must have one number of columns")
    transposed = {w.stride(0) == 1 and w.stride(1) != 1 for w in weight}
    _need(len(transposed) == 1, name, "all weights or none must be transposed")
    sizes = group_list.tolist()
    if group_list_type == 0:
        sizes = [end - start for start, end in zip([0, *sizes], sizes)]  # noqa: B905
    _need(min(sizes) >= 0 and sum(sizes) == x[0].shape[0], name, f"groups {sizes} are not x's {x[0].shape[0]} rows")
    parts = x[0].split(sizes)
    return [torch.cat([(part.float() @ w.float()).to(part.dtype) for part, w in zip(parts, weight)])]  # noqa: B905
