"""Fused attention of the SDXL overlay against upstream's plain one: compare_attention.py TREE DEVICE

Forward and backward, in the reference environment of the recipe sdxl; the plain one in float32 on the CPU. On an NPU in
float16 with 2,304 tokens, which its kernel takes, and with 77 tokens of context, which it does not.
"""

from __future__ import annotations

import copy
import sys

import torch


def main(tree: str, name: str) -> None:
    sys.path.insert(0, tree)
    from library import fused_attention
    from library.device import best_device
    from library.sdxl_original_unet import CrossAttention

    assert best_device().type == name or name == "cpu"
    torch.manual_seed(0)
    dtype = torch.float16 if name == "npu" else torch.float32
    kernels = []
    if name == "npu":
        kernel = fused_attention.torch_npu.npu_fusion_attention
        fused_attention.torch_npu.npu_fusion_attention = lambda *args, **kw: kernels.append(1) or kernel(*args, **kw)
    for tokens, others in ((2304, None), (2304, 77), (1000, None)):
        context = None if others is None else torch.randn(1, others, 48)
        plain = CrossAttention(64, None if others is None else 48, heads=2, dim_head=64)
        fused = copy.deepcopy(plain).to(name, dtype)
        assert fused_attention.use_fused_attention(torch.nn.ModuleList([fused])) == 1
        x = torch.randn(1, tokens, 64)
        results = []
        for module, where in ((plain, ("cpu", torch.float32)), (fused, (name, dtype))):
            given = x.to(*where, copy=True).requires_grad_()
            out = module(given, None if context is None else context.to(*where))
            out.float().square().sum().backward()
            results.append((out.detach().float().cpu(), given.grad.float().cpu()))
        for ours, theirs in zip(*results):  # noqa: B905 - Python 3.8 has no `strict`
            far = float((ours - theirs).abs().max() / theirs.abs().max())
            print(f"{tokens} tokens, context {others}: {far:.2g}")
            assert far < (5e-3 if name == "npu" else 1e-5), far
    assert len(kernels) == (name == "npu"), kernels  # the first case alone


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
