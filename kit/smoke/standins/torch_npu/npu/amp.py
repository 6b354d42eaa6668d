"""torch.npu.amp: autocast and the gradient scaler, as torch_npu 2.1.0.post17 and 2.7.1 have them."""

from collections import defaultdict

import kit_standin.amp
import torch
import torch.distributed as dist

from .utils import is_support_inf_nan


class autocast(torch.autocast):
    """torch.autocast("npu"), in float16 unless told otherwise."""

    def __init__(self, enabled=True, dtype=torch.float16, cache_enabled=True):
        super().__init__("npu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


class GradScaler(kit_standin.amp.GradScaler):
    """torch's scaler but for what decides: a flag of this process, `_has_overflow`, and not torch's `found_inf`.

    unscale_() sets the flag, a step is skipped by either, update() goes by the flag alone and clears it. Processes
    exchange it only where the chip has no inf and NaN (`_sync_dist_overflow_count` in the wheel's grad_scaler.py). With
    `dynamic=False` gradients are unscaled, nothing is checked and the scale stays.
    """

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
        self._dynamic, self._has_overflow = dynamic, False

    def scale(self, outputs):
        if self._enabled and isinstance(outputs, torch.Tensor) and outputs.device.type != "npu":
            raise ValueError("Device type of outputs should be npu.")
        return super().scale(outputs)

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        found = super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        if not self._dynamic:
            return {found_inf.device: found_inf}
        self._has_overflow |= any(bool(each) for each in found.values())
        if not is_support_inf_nan() and dist.is_initialized():
            count = found_inf + float(self._has_overflow)
            dist.all_reduce(count)
            self._has_overflow = bool(count)
        return {**found, found_inf.device: found_inf + float(self._has_overflow)}

    def _maybe_opt_step(self, optimizer, optimizer_state, *args, **kwargs):
        if self._has_overflow or any(bool(each) for each in optimizer_state["found_inf_per_device"].values()):
            print("Gradient overflow. Skipping step")
            return None
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale=None):
        if not self._enabled:
            return
        scale, tracker = self._check_scale_growth_tracker("update")
        if new_scale is not None:
            self._scale = torch.as_tensor(new_scale, dtype=torch.float32, device=scale.device)
        elif self._dynamic:
            tracker.add_(1)
            larger = scale * self._growth_factor
            if self._has_overflow:
                tracker.zero_()
                scale.mul_(self._backoff_factor)
                print(f"Loss scaler reducing loss scale to {scale.item()}")
            elif tracker.item() == self._growth_interval:
                tracker.zero_()
                self._scale = scale if torch.isinf(larger) else larger
                print(f"Loss scaler increasing loss scale to {self._scale.item()}")
        self._per_optimizer_states = defaultdict(self._per_optimizer_states.default_factory)
        self._has_overflow = False

    def state_dict(self):
        return {**super().state_dict(), "dynamic": self._dynamic} if self._enabled else {}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if self._enabled:
            self._dynamic = state_dict["dynamic"]
