"""lycoris-processes: before and after, and what it refuses. That it trains: `kit verify --parity` of hidream-lokr."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "lycoris-processes"

BEFORE = """
import torch
from accelerate.utils import DistributedType

class Trainer:
    def init_trainable_peft_adapter(self):
        self.lycoris_wrapped_network.apply_to()

    def _epoch_rollover(self, epoch):
        self.epoch = epoch

    def train(self):
        for batch in self.batches:
            self.accelerator.backward(self.loss(batch))
            self.grad_norm = self._max_grad_value()
            self.optimizer.step()
"""
AFTER = '''
import torch
from accelerate.utils import DistributedType

class Trainer:
    def init_trainable_peft_adapter(self):
        self.lycoris_wrapped_network.apply_to()
        if self.accelerator.num_processes > 1:  # each has drawn its own
            from accelerate.utils import broadcast

            for param in self.lycoris_wrapped_network.parameters():
                param.data.copy_(broadcast(param.data.to(self.accelerator.device)))

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

    def _epoch_rollover(self, epoch):
        self.epoch = epoch

    def train(self):
        for batch in self.batches:
            self.accelerator.backward(self.loss(batch))
            if self.lycoris_wrapped_network is not None:
                self._average_lycoris_gradients()
            self.grad_norm = self._max_grad_value()
            self.optimizer.step()
'''

APPLIED = [case("start, mean and call", BEFORE, AFTER, count=3)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("another class", BEFORE.replace("Trainer", "Runner")),
    conflict("no torch", "`torch` is not bound", 5, BEFORE.replace("import torch\n", "")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
