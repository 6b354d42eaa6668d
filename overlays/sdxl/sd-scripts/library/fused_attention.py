"""Fused attention for sd-scripts' U-Nets: torch_npu's kernel on an NPU, PyTorch's own elsewhere.

Written against kohya-ss/sd-scripts 46cf41cc93d5856664a2835da2d92796f9344281 (CrossAttention of
library/sdxl_original_unet.py and of library/original_unet.py, which no caller gives a mask) and torch_npu's
npu_fusion_attention.
"""

from __future__ import annotations

import os
from collections import Counter
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

try:
    import torch_npu
except ImportError:  # not an NPU machine, or its toolkit is not sourced: no tensor can be on an NPU then
    torch_npu = None

# What every torch_npu's kernel takes: the documents of 2.1.0.post3 to post10 (torch_npu/_op_plugin_docs.py), which are
# for torch 1.11 too, want tokens in multiples of 16, 32,768 at most, and heads of these sizes; later ones take any.
TOKENS, MOST_TOKENS = 16, 32768
HEADS = (64, 80, 96, 120, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def use_fused_attention(unet: torch.nn.Module) -> int:
    """Give every CrossAttention of a U-Net the forward below; their number. Its layers are called as modules, so LoRA
    and hooks stay. What computes them is printed after their first pass. Raises ValueError where the U-Net has none."""
    found = [module for module in unet.modules() if type(module).__name__ == "CrossAttention"]
    if not found:
        raise ValueError("--enable_npu_flash_attention: this U-Net has no CrossAttention")
    report = Report(len(found))
    for module in found:
        module.forward = MethodType(_forward, module)
        module.attention_report = report
    return len(found)


class Report:
    """Prints what computes the attention of a U-Net's layers, on the main process, whenever a pass shows it anew."""

    def __init__(self, layers: int):
        self.layers, self.main = layers, os.environ.get("RANK", "0") == "0"
        self.seen: dict[int, tuple[str, int]] = {}
        self.printed: set[str] = set()

    def add(self, layer: int, means: str, tokens: int) -> None:
        self.seen[layer] = means, tokens
        if not self.main or len(self.seen) < self.layers:
            return
        for name, count in Counter(means for means, _ in self.seen.values()).items():
            if f"{count} {name}" not in self.printed:
                sizes = [size for means, size in self.seen.values() if means == name]
                self.printed.add(f"{count} {name}")
                where = f"{min(sizes)} to {max(sizes)} tokens"
                print(f"attention of {count} of {self.layers} layers: {name} ({where})", flush=True)
        self.seen.clear()


def _forward(self: Any, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
    """x [batch, tokens, width] attends to context [batch, others, features], or to itself: [batch, tokens, width]."""
    context = x if context is None else context.to(x.dtype)
    query, key, value = (
        each.reshape(*each.shape[:2], self.heads, -1) for each in (self.to_q(x), self.to_k(context), self.to_v(context))
    )
    means = how(query, key)
    self.attention_report.add(id(self), means.__name__, x.shape[1])
    return self.to_out[0](means(query, key, value).flatten(2))


def how(query: torch.Tensor, key: torch.Tensor) -> Any:
    """Which of the functions below computes the attention of query and key, [batch, tokens, heads, dim] each."""
    if query.device.type == "npu":
        fits = max(query.shape[1], key.shape[1]) <= MOST_TOKENS and query.shape[3] <= HEADS[-1]
        return npu_fusion_attention if fits and query.dtype in DTYPES else plain_attention
    return scaled_dot_product_attention if hasattr(F, "scaled_dot_product_attention") else plain_attention


# Each: softmax(query key^T / sqrt(dim)) value, head by head; all [batch, tokens, heads, dim], as the result.


def npu_fusion_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Sizes that the kernel does not take are filled up with zeros, and the keys among them hidden."""
    _, tokens, heads, dim = query.shape
    others = key.shape[1]
    wide = next(size for size in HEADS if size >= dim)
    query, key, value = (_pad(each, wide - dim, -each.shape[1] % TOKENS) for each in (query, key, value))
    hidden = None
    if others % TOKENS:
        hidden = torch.zeros(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device)
        hidden[:, others:] = True
    scale = dim**-0.5
    out = torch_npu.npu_fusion_attention(query, key, value, heads, "BSND", atten_mask=hidden, scale=scale)[0]
    return out[:, :tokens, :, :dim]


def _pad(x: torch.Tensor, features: int, tokens: int) -> torch.Tensor:
    return F.pad(x, (0, features, 0, 0, 0, tokens)) if features or tokens else x


def scaled_dot_product_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """PyTorch's own, since 2.0."""
    return F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value))).transpose(1, 2)


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Not fused: for a PyTorch that has none, and for what the NPU's kernel does not take."""
    query, key, value = (each.transpose(1, 2) for each in (query * query.shape[-1] ** -0.5, key, value))
    scores = torch.matmul(query, key.transpose(-1, -2)).float()
    return torch.matmul(scores.softmax(-1).to(value.dtype), value).transpose(1, 2)
