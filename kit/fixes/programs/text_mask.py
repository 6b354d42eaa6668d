"""Let no token of Qwen-Image's transformer attend to the padding of captions."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "hide the padding of shorter captions in attention"
WHY = """\
At this commit the transformer takes encoder_hidden_states_mask and does nothing with it. Captions of a batch are
padded to the longest of them, and every token attends to that padding: what an image is trained on depends on which
captions happen to be beside its own. Upstream has hidden the padding since #12702. Where nothing is padded no mask is
made, and attention has the kernels that take none."""
LINKS = ("https://github.com/huggingface/diffusers/pull/12702",)
NEEDS = ("torch",)
CHANGES = "Padding is hidden: the losses of batches whose captions differ in length are others."

sites, edits = table(
    Put(
        "QwenImageTransformer2DModel.forward",
        "hidden_states = self.img_in(",
        """
        if encoder_hidden_states_mask is not None and encoder_hidden_states_mask.all():
            encoder_hidden_states_mask = None  # nothing is padded
        """,
        how="before",
        top=True,
    ),
    Put(
        "QwenImageTransformerBlock.forward",
        "joint_attention_kwargs = joint_attention_kwargs or {}",
        """
        if encoder_hidden_states_mask is not None:
            seen = torch.nn.functional.pad(encoder_hidden_states_mask.bool(), (0, hidden_states.shape[1]), value=True)
            joint_attention_kwargs = {**joint_attention_kwargs, "attention_mask": seen[:, None, None, :]}
        """,
    ),
)
