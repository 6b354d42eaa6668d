"""Fused attention for sd-scripts' U-Nets: torch_npu's kernel on an NPU, PyTorch's own elsewhere.

Written against kohya-ss/sd-scripts 46cf41cc93d5856664a2835da2d92796f9344281 (CrossAttention of
library/sdxl_original_unet.py and of library/original_unet.py) and torch_npu's npu_fusion_attention.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

try:
    import torch_npu
except ImportError:  # not an NPU machine, or its toolkit is not sourced: no tensor can be on an NPU then
    torch_npu = None

LONG, STEP = 2000, 256  # the NPU's kernel is for more tokens than this, a multiple of that (as in Ascend's port)


def use_fused_attention(unet: torch.nn.Module) -> int:
    """Give every CrossAttention of a U-Net the forward below; their number. Its layers are called as modules, so LoRA
    and hooks stay. Raises ValueError where the U-Net has none."""
    found = [module for module in unet.modules() if type(module).__name__ == "CrossAttention"]
    if not found:
        raise ValueError("--enable_npu_flash_attention: this U-Net has no CrossAttention")
    for module in found:
        module.forward = MethodType(_forward, module)
    print(f"fused attention in {len(found)} layers of the U-Net")
    return len(found)


def _forward(self: Any, x: torch.Tensor, context: torch.Tensor | None = None, mask: Any = None) -> torch.Tensor:
    """x [batch, tokens, width] attends to context [batch, others, features], or to itself: [batch, tokens, width]."""
    context = x if context is None else context.to(x.dtype)
    out = attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads, self.scale, mask)
    return self.to_out[0](out)


def fits_npu(query: torch.Tensor, key: torch.Tensor, mask: Any = None) -> bool:
    """Whether the NPU's kernel takes these: half precision, self-attention over many tokens, and no mask."""
    tokens, dtypes = query.shape[1], (torch.float16, torch.bfloat16)
    square = key.shape[1] == tokens and tokens > LONG and tokens % STEP == 0
    return query.device.type == "npu" and query.dtype in dtypes and square and mask is None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, scale: float, mask: Any = None
) -> torch.Tensor:
    """softmax(scale * query key^T) value, head by head; all [batch, tokens, heads * dim], as the result."""
    if fits_npu(query, key, mask):
        return torch_npu.npu_fusion_attention(query, key, value, heads, "BSH", scale=scale)[0]
    query, key, value = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
    if hasattr(F, "scaled_dot_product_attention") and query.device.type != "npu":  # PyTorch 2.0
        out = F.scaled_dot_product_attention(query * (scale * query.shape[-1] ** 0.5), key, value, attn_mask=mask)
    else:
        scores = torch.matmul(query * scale, key.transpose(-1, -2))
        out = torch.matmul((scores if mask is None else scores + mask).float().softmax(-1).to(value.dtype), value)
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1)
