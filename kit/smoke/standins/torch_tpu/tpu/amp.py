"""torch.tpu.amp: autocast and the gradient scaler, with torch_tpu 2.1.0.post1's signatures."""

import kit_standin.amp
import torch


class autocast(torch.autocast):
    """torch.autocast("tpu"), in float16 unless told otherwise."""

    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("tpu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(kit_standin.amp.GradScaler):
    """torch's scaler on the device."""

    def __init__(self, init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000, enabled=True):
        super().__init__("tpu", init_scale, growth_factor, backoff_factor, growth_interval, enabled=enabled)
