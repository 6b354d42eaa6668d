"""What sdxl_pretrain.py has beyond upstream's sdxl_train.py: one module of all that trains, an optimizer that shards.

Written against kohya-ss/sd-scripts 46cf41cc93d5856664a2835da2d92796f9344281.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from library import sdxl_train_util, train_util


class TrainingModule(torch.nn.Module):
    """The U-Net and the text encoders as one module with one forward a step, from token ids to the predicted noise.

    Data parallelism hooks into the forward of the module it wraps. Upstream unwraps the models again and calls them
    bare, and so no gradient is ever exchanged: each process trains a model of its own. Only the models in ``training``
    are submodules: the others are not wrapped, not saved with the state, and stay as they are.
    """

    def __init__(
        self,
        args: Any,
        dtype: torch.dtype,
        unet: torch.nn.Module,
        text_encoders: Sequence[torch.nn.Module],
        tokenizers: Sequence[Any],
        training: Sequence[torch.nn.Module],
    ):
        super().__init__()
        self.args, self.dtype, self.tokenizers = args, dtype, tokenizers
        self.models = (unet, *text_encoders)  # a tuple, which torch does not look into
        self.trained = torch.nn.ModuleList(training)
        self._freeze_unused(text_encoders[0])

    @staticmethod
    def _freeze_unused(text_encoder: torch.nn.Module) -> None:
        """SDXL takes text encoder 1's hidden state 11: what comes after never gets a gradient, which data parallelism
        would wait for. An optimizer passes by parameters without one, so nothing else changes."""
        for unused in (*text_encoder.text_model.encoder.layers[11:], text_encoder.text_model.final_layer_norm):
            unused.requires_grad_(False)

    def forward(self, batch: Mapping[str, Any], latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The predicted noise [batch, 4, height / 8, width / 8] for noisy latents of that shape and timesteps [batch].

        Of the batch it takes the sizes, and the token ids or the cached outputs of the text encoders.
        """
        args, device = self.args, latents.device
        unet, *text_encoders = self.models
        if batch.get("text_encoder_outputs1_list") is None:
            ids = (batch["input_ids"].to(device), batch["input_ids2"].to(device))
            cast = self.dtype if args.full_fp16 else None
            with torch.set_grad_enabled(bool(args.train_text_encoder) and torch.is_grad_enabled()):
                hidden1, hidden2, pool = train_util.get_hidden_states_sdxl(
                    args.max_token_length, *ids, *self.tokenizers, *text_encoders, cast
                )
        else:
            names = ("text_encoder_outputs1_list", "text_encoder_outputs2_list", "text_encoder_pool2_list")
            hidden1, hidden2, pool = (batch[name].to(device).to(self.dtype) for name in names)
        sizes = sdxl_train_util.get_size_embeddings(
            batch["original_sizes_hw"], batch["crop_top_lefts"], batch["target_sizes_hw"], device
        )
        text = torch.cat([hidden1, hidden2], dim=2).to(self.dtype)
        vector = torch.cat([pool, sizes.to(self.dtype)], dim=1).to(self.dtype)
        return unet(latents, timesteps, text, vector)


def sharded_adamw(params: Any, lr: float, **settings: Any) -> torch.optim.Optimizer:
    """AdamW whose state is sharded over all processes (fairscale's OSS); plain AdamW where there is one process.

    Objects are broadcast as tensors on the device: not every device's collectives take those of the CPU.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        print("OSS: one process, nothing to shard: AdamW")
        return torch.optim.AdamW(params, lr=lr, **settings)
    from fairscale.optim.oss import OSS

    class ShardedAdamW(OSS):
        def state_dict(self, all_ranks: bool = False) -> dict[str, Any]:
            """The whole state where it was collected; nothing on the other processes, which do not write it."""
            return super().state_dict(all_ranks) if all_ranks or self.rank == 0 else {}

    return ShardedAdamW(params, optim=torch.optim.AdamW, lr=lr, force_broadcast_object=True, **settings)


def collect_state(args: Any, optimizer: Any) -> None:
    """Bring the shards of an optimizer's state together on the main process, where it is about to be saved. To be
    called by every process; does nothing where no state is saved or the optimizer does not shard."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if args.save_state and hasattr(inner, "consolidate_state_dict"):
        inner.consolidate_state_dict()
