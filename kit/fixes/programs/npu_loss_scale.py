"""Start accelerate's loss scaler at 2^7 on an NPU."""

from __future__ import annotations

from kit.fixes._table import Swap, table

TITLE = "the loss scale starts at 2^7 on an NPU"
WHY = """\
torch's scaler starts at 2^16. In SDXL's float16 training the first gradients overflow at that, and steps are skipped
until the scale has come down; Ascend's port starts at 2^7. A scale given with GradScalerKwargs is kept."""
LINKS = ()
NEEDS = ("kwargs",)

sites, edits = table(
    Swap(
        "Accelerator.__init__",
        "self.scaler = torch.npu.amp.GradScaler(",
        "torch.npu.amp.GradScaler(**kwargs)",
        'torch.npu.amp.GradScaler(**{"init_scale": 2.0**7, **kwargs})',
    ),
)
