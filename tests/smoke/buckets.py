"""OSS with buckets of gradients against AdamW: run by torchrun with two processes, in the environment of sdxl.

Four steps of a small model, each process with half of a batch, in one and in two passes a step; the same in one process
with plain AdamW. Some gradients fit into the buckets, others do not. Prints, for each, how many collective operations a
step took.
"""

from __future__ import annotations

import copy

import accelerate.sharded
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from fairscale.optim.oss import OSS


def main(passes: int) -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(gradient_accumulation_steps=passes)
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (torch.nn.Linear(8, 8), torch.nn.Tanh())]
    plain = torch.nn.Sequential(*layers, torch.nn.Linear(8, 64)).to(accelerator.device)
    model = copy.deepcopy(plain)
    data = torch.randn(4, passes, 2, 3, 8, device=accelerator.device)  # step, pass, process, sample, feature
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    for step in data:
        (plain(step.reshape(-1, 8)).square().mean()).backward()
        adamw.step()
        adamw.zero_grad()

    oss = OSS(model.parameters(), optim=torch.optim.AdamW, lr=1e-2, force_broadcast_object=True)
    model, optimizer = accelerator.prepare(model, oss)
    calls = []
    reduce = dist.reduce
    dist.reduce = lambda *args, **words: calls.append(1) or reduce(*args, **words)
    for step in data:
        for batch in step:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch[accelerator.process_index]).square().mean())
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    dist.reduce = reduce
    far = max(float((p - q).abs().max()) for p, q in zip(model.parameters(), plain.parameters()))  # noqa: B905
    assert far < 1e-5, far
    assert len(calls) % 4 == 0 and 2 < len(calls) // 4 < 14, len(calls)  # two buckets and what is too large for them
    if accelerator.is_main_process:
        print(
            f"{passes} passes: equal, {len(calls) // 4} operations a step for {len(list(model.parameters()))} gradients"
        )


if __name__ == "__main__":
    accelerate.sharded.BUCKETS = 2 * 300  # the last layer has 512 weights
    main(1)
    main(2)
