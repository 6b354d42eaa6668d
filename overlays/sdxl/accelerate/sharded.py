"""fairscale's OSS, the optimizer that shards its state over the processes, in `Accelerator.prepare`.

    model, optimizer = accelerator.prepare(model, OSS(model.parameters(), optim=AdamW, lr=1e-5))

The optimizer stays inside accelerate's AcceleratedOptimizer, so gradient accumulation, the loss scaler and the
scheduler's question whether a step was skipped work as with any other. Written against accelerate v0.23.0 and
fairscale v0.4.13.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist

# Elements of gradients that a process gathers in buckets, one for each process that owns some, before it sends them: in
# float32 256 MiB. For SDXL's U-Net on 8 processes that is 695 collective operations a step, in place of 1,680.
BUCKETS = 2**26


def find_oss(objects: Iterable[Any]) -> Any:
    """The first OSS among some objects, bare or inside accelerate's wrapper; None where there is none."""
    fairscale = sys.modules.get("fairscale.optim.oss")
    for each in objects:
        inner = getattr(each, "optimizer", each) if isinstance(each, torch.optim.Optimizer) else None
        if fairscale and isinstance(inner, fairscale.OSS):
            return inner
    return None


def prepare_sharded(accelerator: Any, objects: Sequence[Any], placement: Sequence[bool | None]) -> Any:
    """`accelerator.prepare` for a model and its OSS: what it returns for each object.

    The model goes to the device first and then into ShardedDataParallel, which hands each gradient to the process that
    owns its parameter; small ones in buckets, larger ones alone, freed everywhere else. The optimizer's state is not
    moved: it is made where the parameters are, and an OSS cannot show it before it was collected from all processes.

    Raises ValueError unless there is one model: without it no gradient would be exchanged, and one of several would
    wait for the gradients of the others' parameters.
    """
    if sum(isinstance(each, torch.nn.Module) for each in objects) != 1:
        raise ValueError("OSS shards one model: prepare it together with its optimizer, or use --optimizer_type=AdamW")
    from fairscale.nn.data_parallel import ShardedDataParallel

    oss = find_oss(objects)
    if accelerator.scaler is not None:
        share_overflow(accelerator.scaler)
    prepared = []
    for each, place in zip(objects, placement):  # noqa: B905 - Python 3.8 has no `strict`
        if isinstance(each, torch.nn.Module):
            inner = accelerator.prepare_model(each, device_placement=place, evaluation_mode=True)
            each = ShardedDataParallel(inner, oss, reduce_buffer_size=BUCKETS // accelerator.num_processes)
            keep_buckets(oss, each)
            accelerator._models[-1] = each
        elif isinstance(each, torch.optim.Optimizer):
            each = accelerator.prepare_optimizer(each, device_placement=False)
        else:
            each = accelerator._prepare_one(each, first_pass=True, device_placement=place)
        prepared.append(each)
    pairs = zip(prepared, placement)  # noqa: B905
    result = tuple(accelerator._prepare_one(each, device_placement=place) for each, place in pairs)
    for each in result:
        each._is_accelerate_prepared = True
    return result if len(result) > 1 else result[0]


def keep_buckets(oss: Any, model: Any) -> None:
    """Let an OSS's `zero_grad` empty the buckets of its ShardedDataParallel. The gradients in them are views: set to
    None, as trainers do, they would be made anew elsewhere, and the buckets never be filled again."""

    def zero_grad(set_to_none: bool = True) -> None:
        bucketed = model._should_bucket_grad or [False] * len(model._trainable_params)  # none before the first step
        for parameter, stays in zip(model._trainable_params, bucketed):  # noqa: B905
            if not stays:
                parameter.grad = None
        for bucket in model._bucket_list:
            bucket.zero()

    oss.zero_grad = zero_grad


def share_overflow(scaler: Any) -> None:
    """Let a loss scaler skip a step on every process where one of them meets inf or NaN in its shard: otherwise their
    scales drift apart, and those that step wait for the others' parameters for ever.

    torch's scaler goes by `found_inf_per_device`, the sum of which is over all processes then. torch_npu's updates the
    scale by a flag of its own, which it exchanges only where the chip has no inf and NaN, before Atlas A2
    (npu/amp/grad_scaler.py of torch_npu 2.1.0.post17, 2.7.1).
    """

    class Sharded(type(scaler)):
        def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
            super().unscale_(optimizer)
            for found in self._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():
                dist.all_reduce(found)
                if hasattr(self, "_has_overflow"):
                    self._has_overflow = bool(found)

    if not hasattr(type(scaler), "shares_overflow"):
        Sharded.shares_overflow = True
        scaler.__class__ = Sharded


def clip_sharded(optimizers: Iterable[Any], max_norm: float, norm_type: float) -> torch.Tensor | None:
    """Clip the gradients of the OSS among ``optimizers`` by their norm over all processes, and return it; None, and
    nothing done, where there is no OSS: then every process has every gradient."""
    oss = find_oss(optimizers)
    return None if oss is None else oss.clip_grad_norm(max_norm, norm_type)
