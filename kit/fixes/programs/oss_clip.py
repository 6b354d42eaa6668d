"""Clip sharded gradients by their norm over all processes."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "clip sharded gradients by their norm over all processes"
WHY = """\
Under ShardedDataParallel a process has the gradients of its own parameters only. torch's clip_grad_norm_ takes
their norm for the whole and scales each shard by another factor. OSS knows the norm over all; gradients are
unscaled first."""
LINKS = ()
NEEDS = ("parameters", "max_norm", "norm_type")

sites, edits = table(
    Put(
        "Accelerator.clip_grad_norm_",
        "return torch.nn.utils.clip_grad_norm_(",
        """
        from .sharded import clip_sharded

        norm = clip_sharded(self._optimizers, max_norm, norm_type)
        if norm is not None:
            return norm
        """,
        how="before",
        top=True,  # FSDP2 has one of its own, further in
    ),
)
