"""text-lengths: read how long the captions of a batch are once, and print it nowhere."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, gone, satisfied

NAME = "text-lengths"
BEFORE = """\
def main(args):
    for batch in loader:
        print(f"{prompt_embeds_mask.sum(dim=1).tolist()=}")
        model_pred = transformer(
            hidden_states=batch,
            txt_seq_lens=prompt_embeds_mask.sum(dim=1).tolist(),
            return_dict=False,
        )[0]
"""
AFTER = """\
def main(args):
    for batch in loader:
        txt_seq_lens = prompt_embeds_mask.sum(dim=1).tolist()
        model_pred = transformer(
            hidden_states=batch,
            txt_seq_lens=txt_seq_lens,
            return_dict=False,
        )[0]
"""

APPLIED = [case("as in the script", BEFORE, AFTER, count=2)]
REFUSED = [
    satisfied("read once", AFTER),
    gone("another print", BEFORE.replace("prompt_embeds_mask", "mask")),
    gone("in another function", BEFORE.replace("def main", "def other")),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
