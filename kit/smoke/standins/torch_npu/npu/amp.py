"""torch.npu.amp: autocast and the gradient scaler, with torch_npu 2.7.1's signatures."""

import torch
from torch.amp.grad_scaler import OptState


class autocast(torch.autocast):
    """torch.autocast("npu"), in float16 unless told otherwise."""

    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("npu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
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
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)

    def unscale_(self, optimizer):
        """As torch's, but for the reciprocal of the scale, which torch takes in float64 and torch_npu in float32."""
        if not self._enabled:
            return
        self._check_scale_growth_tracker("unscale_")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is not OptState.READY:
            raise RuntimeError(f"unscale_() or step() was called since the last update(): {state['stage'].name}")
        found = torch.zeros((), device=self._scale.device)
        state["found_inf_per_device"] = self._unscale_grads_(optimizer, self._scale.reciprocal(), found, False)
        state["stage"] = OptState.UNSCALED
