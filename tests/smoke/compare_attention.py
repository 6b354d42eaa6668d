"""Fused attention of the SDXL overlay against upstream's plain one: compare_attention.py TREE DEVICE

Forward and backward, in the reference environment of the recipe sdxl; the plain one in float32 on the CPU. On an NPU in
float16, every case in the kernel, which is given only what every version of it takes.
"""

from __future__ import annotations

import copy
import sys

import torch

# tokens, those of the context (None: its own), size of a head
CASES = (
    (2304, None, 64),
    (2304, 77, 64),
    (988, None, 64),  # 1216 x 832 pixels, inner layers: no multiple of 16
    (4, None, 64),
    (256, 77, 40),  # heads of Stable Diffusion 1
    (256, 77, 160),
)


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

        def documented(query, key, value, *rest, **words):
            kernels.append(query.shape)
            assert all(x.shape[1] % 16 == 0 and x.shape[3] in (64, 80, 96, 120, 128, 256) for x in (query, key, value))
            return kernel(query, key, value, *rest, **words)

        fused_attention.torch_npu.npu_fusion_attention = documented
    for tokens, others, dim in CASES:
        context = None if others is None else torch.randn(1, others, 48)
        plain = CrossAttention(64, None if others is None else 48, heads=2, dim_head=dim)
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
            print(f"{tokens} tokens, context {others}, heads of {dim}: {far:.2g}")
            assert far < (5e-3 if name == "npu" else 1e-5), far
    assert len(kernels) == (len(CASES) if name == "npu" else 0), kernels


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
