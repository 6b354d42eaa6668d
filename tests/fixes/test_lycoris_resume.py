"""lycoris-resume: before and after, what it refuses, and the weights that a resumed adapter has."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "lycoris-resume"

BEFORE = """
import os
import torch

class SaveHookManager:
    def _save_lycoris(self, models, weights, output_dir):
        self.accelerator._lycoris_wrapped_network.save_weights(
            os.path.join(output_dir, "pytorch_lora_weights.safetensors"),
        )
        if self.args.use_ema:
            self.accelerator._lycoris_wrapped_network.save_weights(
                os.path.join(output_dir, "ema", "ema.safetensors"),
            )

    def _load_lycoris(self, models, input_dir):
        state = self.accelerator._lycoris_wrapped_network.load_weights(os.path.join(input_dir, FILE))
        weight_dtype = StateTracker.get_weight_dtype()
"""
AFTER = """
import os
import torch

class SaveHookManager:
    def _save_lycoris(self, models, weights, output_dir):
        self.accelerator._lycoris_wrapped_network.save_weights(
            os.path.join(output_dir, "pytorch_lora_weights.safetensors"),
        )
        weights_now = [param.detach().cpu() for param in self.accelerator._lycoris_wrapped_network.parameters()]
        torch.save(weights_now, os.path.join(output_dir, "lycoris_parameters.pt"))  # its own file has w1 * scalar
        if self.args.use_ema:
            self.accelerator._lycoris_wrapped_network.save_weights(
                os.path.join(output_dir, "ema", "ema.safetensors"),
            )

    def _load_lycoris(self, models, input_dir):
        state = self.accelerator._lycoris_wrapped_network.load_weights(os.path.join(input_dir, FILE))
        place = os.path.join(input_dir, "lycoris_parameters.pt")
        if os.path.isfile(place):
            weights_then = torch.load(place, map_location="cpu", weights_only=True)
            for param, weight in zip(self.accelerator._lycoris_wrapped_network.parameters(), weights_then, strict=True):
                param.data.copy_(weight)
        weight_dtype = StateTracker.get_weight_dtype()
"""

APPLIED = [case("saved and loaded", BEFORE, AFTER, count=2)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("another class", BEFORE.replace("SaveHookManager", "Hooks")),
    conflict("no torch", "`torch` is not bound", 5, BEFORE.replace("import torch\n", "")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
