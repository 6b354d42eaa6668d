"""torch.npu.amp: autocast and the gradient scaler, with torch_npu 2.7.1's signatures."""

import kit_standin.amp
import torch


class autocast(torch.autocast):
    """torch.autocast("npu"), in float16 unless told otherwise."""

    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("npu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(kit_standin.amp.GradScaler):
    """torch's scaler on the device. `dynamic` chooses between the scaler's two overflow checks on a real NPU."""

    def __init__(
        self,
        init_scale=2.0**16,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=2000,
        dynamic=True,
        enabled=True,
    ):
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled=enabled)
