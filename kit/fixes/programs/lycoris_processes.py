"""Let several processes train one LyCORIS adapter."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "train one LyCORIS adapter on all processes"
WHY = """\
LyCORIS keeps its weights beside the model, and SimpleTuner prepares the model alone. That has nothing to train, so that
accelerate does not wrap it (1.12.0, accelerator.py, `prepare_model`), and nothing sums gradients over processes: each
trains an adapter of its own, from a start of its own (`seed_for_each_device`), on its own share of the images. The
first one's is saved, the others' work is lost, without a word. Here all begin with the first one's weights, and before
each step every process gets the mean of all gradients. DeepSpeed and FSDP see to that themselves."""
LINKS = ()
NEEDS = ("torch", "DistributedType")

_ALIKE = """\
if self.accelerator.num_processes > 1:  # each has drawn its own
    from accelerate.utils import broadcast

    for param in self.lycoris_wrapped_network.parameters():
        param.data.copy_(broadcast(param.data.to(self.accelerator.device)))
"""
_METHOD = '''\
def _average_lycoris_gradients(self):
    """Give each process the mean of all processes' gradients, as DDP does for a model that has weights to train."""
    alone = (DistributedType.NO, DistributedType.DEEPSPEED, DistributedType.FSDP)
    if self.accelerator.distributed_type in alone or not self.accelerator.sync_gradients:
        return
    params = [param for param in self.lycoris_wrapped_network.parameters() if param.requires_grad]
    given = torch.tensor([float(param.grad is not None) for param in params], device=self.accelerator.device)
    # What got no gradient on any process (an expert that no token went to) keeps none.
    params = [param for param, some in zip(params, self.accelerator.reduce(given).tolist()) if some]
    grads = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
    mean = self.accelerator.reduce(torch.cat([grad.float().flatten() for grad in grads]), reduction="mean")
    for param, part in zip(params, mean.split([param.numel() for param in params])):
        param.grad = part.view_as(param).to(param.dtype)
'''
_CALL = """\
if self.lycoris_wrapped_network is not None:
    self._average_lycoris_gradients()
"""

sites, edits = table(
    Put("Trainer.init_trainable_peft_adapter", "self.lycoris_wrapped_network.apply_to()", _ALIKE),
    Put("Trainer", "def _epoch_rollover(", _METHOD, how="before"),
    Put("Trainer.train", "self.grad_norm = self._max_grad_value()", _CALL, how="before"),
)
