"""The gradient scaler that a device package makes its own of."""

from __future__ import annotations

from collections import defaultdict
from unittest import mock

import torch
from torch.cuda.amp import grad_scaler as cuda

from . import calls


class _AnyDevice(cuda.GradScaler):
    """What torch.amp.GradScaler is since torch 2.3: before, torch's only scaler is CUDA's, which refuses any other."""

    def __init__(self, device, *args, enabled=True, **kwargs):
        with mock.patch.object(cuda, "amp_definitely_not_available", lambda: False):
            super().__init__(*args, enabled=enabled, **kwargs)
        self._device = device

    def scale(self, outputs):
        if not self._enabled:
            return outputs
        if not isinstance(outputs, torch.Tensor):
            return type(outputs)(map(self.scale, outputs))
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(outputs.device)
        return outputs * self._scale.to(outputs.device)

    @torch.no_grad()
    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        grads = defaultdict(list)
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                if parameter.grad.dtype == torch.float16 and not allow_fp16:
                    raise ValueError("Attempting to unscale FP16 gradients.")
                grads[parameter.grad.device, parameter.grad.dtype].append(parameter.grad)
        found = {device: found_inf.to(device, copy=True) for device, _ in grads}
        for (device, _), same in grads.items():
            torch._amp_foreach_non_finite_check_and_unscale_(same, found[device], inv_scale.to(device))
        return found


class GradScaler(getattr(torch.amp, "GradScaler", _AnyDevice)):
    """torch.amp.GradScaler, but for the reciprocal of the scale: torch takes it in float64, device packages do not."""

    def unscale_(self, optimizer):
        if not self._enabled:
            return
        self._check_scale_growth_tracker("unscale_")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is not cuda.OptState.READY:
            raise RuntimeError(f"unscale_() or step() was called since the last update(): {state['stage'].name}")
        found = torch.zeros((), device=self._scale.device)
        calls["GradScaler"] += 1
        state["found_inf_per_device"] = self._unscale_grads_(optimizer, self._scale.reciprocal(), found, False)
        state["stage"] = cuda.OptState.UNSCALED
