"""Let several CPU processes train LyCORIS: prepare the model that it is applied to as other devices do."""

from __future__ import annotations

from kit.fixes._table import Put, Swap, table

TITLE = "prepare a model that LyCORIS trains on CPUs, too"
WHY = """\
LyCORIS trains weights of its own beside a model that has none to train. accelerate 1.12.0 leaves such a model as it is
(accelerator.py, `prepare_model`: `if any(p.requires_grad …)`), but for several CPU processes it does not ask:
`DistributedDataParallel is not needed when a module doesn't have any parameter that requires a gradient`. Here it is
prepared there as everywhere else."""
LINKS = ()
NEEDS = ("DistributedType",)

_METHOD = '''\
def _prepared(self, targets, device_placement):
    """What accelerate makes of them. Only for CPUs would it wrap a model that has nothing to train, beside LyCORIS."""
    on_cpus = self.accelerator.distributed_type == DistributedType.MULTI_CPU
    if not on_cpus or self.lycoris_wrapped_network is None:
        return self.accelerator.prepare(*targets, device_placement=device_placement)
    model = self.accelerator.prepare_model(targets[0], device_placement[0], evaluation_mode=True)
    return (model, *self.accelerator.prepare(*targets[1:], device_placement=device_placement[1:]))
'''

sites, edits = table(
    Put("Trainer", "def init_prepare_models(", _METHOD, how="before"),
    Swap(
        "Trainer.init_prepare_models",
        "results = ",
        "self.accelerator.prepare(*prepare_targets, device_placement=device_placement)",
        "self._prepared(prepare_targets, device_placement)",
    ),
)
