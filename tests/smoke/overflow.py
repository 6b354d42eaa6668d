"""An overflow in one process's shard: run by torchrun with two processes, in the environment of the recipe sdxl.

Three float16 steps with OSS; in the second, one gradient that only the last process has is infinite. Prints for each
step whether it was skipped, the scheduler's rate and the loss scale, as one line a process. First, OSS without its
model and with two of them must be refused.
"""

from __future__ import annotations

import contextlib

import torch
from accelerate import Accelerator
from fairscale.optim.oss import OSS


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision="fp16")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    optimizer = OSS(model.parameters(), optim=torch.optim.AdamW, lr=1e-2, force_broadcast_object=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for objects in ((optimizer, scheduler), (model, torch.nn.Linear(1, 1), optimizer)):
        with contextlib.suppress(ValueError):
            accelerator.prepare(*objects)
            raise AssertionError("OSS without its model, or with two, was not refused")
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    seen = []
    for overflows in (False, True, False):
        loss = model(torch.ones(2, 4, device=accelerator.device)).float().square().mean()
        accelerator.backward(loss)
        shards = optimizer.optimizer.partition_parameters()[accelerator.process_index]
        mine = [parameter for group in shards for parameter in group["params"]]
        assert 0 < len(mine) < 4, "parameters are not sharded"
        if overflows and accelerator.process_index == accelerator.num_processes - 1:
            mine[0].grad.fill_(float("inf"))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append((optimizer.step_was_skipped, scheduler.get_last_lr()[0], accelerator.scaler.get_scale()))
    weights = [round(float(parameter.float().sum()), 6) for parameter in model.parameters()]
    print(f"rank {accelerator.process_index}: {seen} {weights}", flush=True)
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
