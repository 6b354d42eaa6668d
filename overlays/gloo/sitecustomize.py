"""What gloo lacks in PyTorch 2.1 and DeepSpeed's ZeRO asks for: gathering tensors into one (`_allgather_base`).

Only for several processes on a CPU. Python imports this by itself where its folder is on PYTHONPATH, as the launch
scripts see to; later versions of PyTorch have it.
"""

import os

if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    import torch
    import torch.distributed as distributed

    def all_gather_into_tensor(output_tensor, input_tensor, group=None, async_op=False):
        """Gather one tensor of each process into ``output_tensor``, by way of the list that gloo can gather."""
        parts = list(output_tensor.chunk(distributed.get_world_size(group)))
        return distributed.all_gather(parts, input_tensor, group, async_op)

    if torch.__version__.startswith("2.1."):
        for module in (distributed, distributed.distributed_c10d):
            module.all_gather_into_tensor = all_gather_into_tensor
