"""text-mask: let no token of Qwen-Image's transformer attend to the padding of captions."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

NAME = "text-mask"
BEFORE = """\
import torch


class QwenImageTransformerBlock(nn.Module):
    def forward(self, hidden_states, encoder_hidden_states_mask, joint_attention_kwargs=None):
        joint_attention_kwargs = joint_attention_kwargs or {}
        return self.attn(hidden_states, **joint_attention_kwargs)


class QwenImageTransformer2DModel(ModelMixin):
    def forward(self, hidden_states, encoder_hidden_states_mask=None):
        hidden_states = self.img_in(hidden_states)

        for block in self.transformer_blocks:
            hidden_states = block(hidden_states, encoder_hidden_states_mask)
"""
AFTER = """\
import torch


class QwenImageTransformerBlock(nn.Module):
    def forward(self, hidden_states, encoder_hidden_states_mask, joint_attention_kwargs=None):
        joint_attention_kwargs = joint_attention_kwargs or {}
        if encoder_hidden_states_mask is not None:
            seen = torch.nn.functional.pad(encoder_hidden_states_mask.bool(), (0, hidden_states.shape[1]), value=True)
            joint_attention_kwargs = {**joint_attention_kwargs, "attention_mask": seen[:, None, None, :]}
        return self.attn(hidden_states, **joint_attention_kwargs)


class QwenImageTransformer2DModel(ModelMixin):
    def forward(self, hidden_states, encoder_hidden_states_mask=None):
        if encoder_hidden_states_mask is not None and encoder_hidden_states_mask.all():
            encoder_hidden_states_mask = None  # nothing is padded
        hidden_states = self.img_in(hidden_states)

        for block in self.transformer_blocks:
            hidden_states = block(hidden_states, encoder_hidden_states_mask)
"""

APPLIED = [case("as in the module", BEFORE, AFTER, count=2)]
REFUSED = [
    satisfied("hidden", AFTER),
    gone("another's transformer", BEFORE.replace("QwenImage", "Other")),
    conflict("no torch", "`torch` is not bound", 12, BEFORE.replace("import torch\n", "import os\n"), count=2),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
