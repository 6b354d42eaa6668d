"""A stand-in for the four torch_npu kernels that transformer_patches.py calls, on CPU tensors.

Written from the semantics and constraints that torch_npu 2.7.1 documents (its `_op_plugin_docs.py`); the real kernels
run on an NPU only. What the documentation forbids is refused here, so that a wrong layout, dtype or a missing backward
shows up in a test. Says nothing about the real kernels' rounding or speed.
"""

from __future__ import annotations

import torch

calls: list[str] = []


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"stand-in torch_npu: {what}")


def npu_fusion_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    input_layout: str,
    *,
    scale: float = 1.0,
    keep_prob: float = 1.0,
) -> tuple[torch.Tensor, None, None, None, int, int, int]:
    """softmax(scale * query @ key^T) @ value in layout BSND; first of seven outputs, the rest serves backward only."""
    calls.append("npu_fusion_attention")
    _need(input_layout == "BSND" and query.ndim == 4, f"layout {input_layout} is not stood in for, only BSND")
    _need(query.dtype == key.dtype == value.dtype, "query, key and value must have one dtype")
    _need(query.shape[2] == head_num and key.shape == value.shape, "shapes do not fit head_num")
    _need(keep_prob == 1.0, "no dropout here")
    scores = torch.einsum("bqnd,bknd->bnqk", query.float(), key.float()) * scale
    out = torch.einsum("bnqk,bknd->bqnd", scores.softmax(-1), value.float()).to(query.dtype)
    return out, None, None, None, 0, 0, 0


def npu_rms_norm(self: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """(self / rms(self) * gamma, 1 / rms), normalised over the axes of gamma."""
    calls.append("npu_rms_norm")
    _need(self.dtype == gamma.dtype, "self and gamma must have one dtype")
    _need(2 <= self.ndim <= 8, "self must have 2 to 8 axes")
    axes = tuple(range(-gamma.ndim, 0))
    rstd = (self.float().square().mean(axes, keepdim=True) + epsilon).rsqrt()
    return (self.float() * rstd * gamma.float()).to(self.dtype), rstd


def npu_rotary_mul(input: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, rotary_mode: str = "half") -> torch.Tensor:
    """r1 * input + r2 * rotated(input), where interleave mode rotates (x0, x1) to (-x1, x0) pair by pair."""
    calls.append("npu_rotary_mul")
    _need(rotary_mode == "interleave", "only interleave mode is stood in for")
    _need(input.ndim == r1.ndim == r2.ndim == 4, "all of input, r1 and r2 must have 4 axes")
    batch, tokens, heads, dim = input.shape
    _need(r1.shape == r2.shape == (1, tokens, 1, dim), "for BSND, interleave mode takes r1 and r2 in 1S1D only")
    _need(batch * heads < 1000 and dim < 896 and dim % 2 == 0, "B * N must be below 1000 and D even and below 896")
    turned = torch.stack([-input[..., 1::2], input[..., ::2]], dim=-1).flatten(-2)
    return r1 * input + r2 * turned


def npu_grouped_matmul(
    x: list[torch.Tensor],
    weight: list[torch.Tensor],
    *,
    group_list: torch.Tensor,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = 0,
) -> list[torch.Tensor]:
    """[rows of group i @ weight[i], one after the other]: single x, several 2-d weights, single output."""
    calls.append("npu_grouped_matmul")
    _need(len(x) == 1 and x[0].ndim == 2 and len(weight) > 1, "only one x and several weights are stood in for")
    _need(
        (split_item, group_type, group_list_type) == (2, 0, 1), "only split_item 2, group_type 0, sizes in group_list"
    )
    _need(not torch.is_grad_enabled(), "npu_grouped_matmul has no backward: call it under torch.no_grad()")
    _need(x[0].dtype in (torch.float16, torch.bfloat16), "several weights need float16 or bfloat16")
    _need(all(w.dtype == x[0].dtype and w.ndim == 2 for w in weight), "x and weight must have one dtype, weight 2 axes")
    _need(group_list.dtype == torch.int64 and group_list.shape == (len(weight),), "group_list: one int64 a weight")
    parts = x[0].split(group_list.tolist())
    return [torch.cat([part @ w for part, w in zip(parts, weight, strict=True)])]
