"""Resume a LyCORIS adapter from the weights it had, not from others of the same effect."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "resume LyCORIS from the weights it had"
WHY = """\
With `use_scalar` LyCORIS writes its first factor times the scalar, and reading it sets the scalar to 1 (lycoris-lora
3.4.0, modules/lokr.py, `custom_state_dict` and `load_weight_hook`): the same adapter, made of other weights. For the
file that is used afterwards that is right. In a checkpoint the optimizer's state is of the weights as they were: a
resumed run applies it to others, of another size by thousands, and learns differently from its first step on. Here a
checkpoint holds the weights themselves as well."""
LINKS = ()
NEEDS = ("os", "torch")

_SAVE = """\
weights_now = [param.detach().cpu() for param in self.accelerator._lycoris_wrapped_network.parameters()]
torch.save(weights_now, os.path.join(output_dir, "lycoris_parameters.pt"))  # its own file has w1 * scalar
"""
_LOAD = """\
place = os.path.join(input_dir, "lycoris_parameters.pt")
if os.path.isfile(place):
    weights_then = torch.load(place, map_location="cpu", weights_only=True)
    for param, weight in zip(self.accelerator._lycoris_wrapped_network.parameters(), weights_then, strict=True):
        param.data.copy_(weight)
"""

sites, edits = table(
    Put("SaveHookManager._save_lycoris", "self.accelerator._lycoris_wrapped_network.save_weights(", _SAVE, top=True),
    Put("SaveHookManager._load_lycoris", "weight_dtype = StateTracker.get_weight_dtype()", _LOAD, how="before"),
)
