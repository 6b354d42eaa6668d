"""final-prompt: encode the prompt of the last images where it is the only one."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, gone, satisfied

NAME = "final-prompt"
WITH = "with offload_models(text_encoding_pipeline, device=accelerator.device, offload=args.offload):"
BEFORE = f"""\
def main(args):
    validation_embeddings = {{}}
    if args.validation_prompt is not None:
        {WITH}
            (validation_embeddings["prompt_embeds"], validation_embeddings["prompt_embeds_mask"]) = (
                compute_text_embeddings(args.validation_prompt, text_encoding_pipeline)
            )
"""
AFTER = f"""\
def main(args):
    validation_embeddings = {{}}
    if args.validation_prompt or args.final_validation_prompt:
        validation_prompt = args.validation_prompt or args.final_validation_prompt
        {WITH}
            encoded = compute_text_embeddings(validation_prompt, text_encoding_pipeline)
        validation_embeddings["prompt_embeds"], validation_embeddings["prompt_embeds_mask"] = encoded
"""

APPLIED = [case("as in the script", BEFORE, AFTER)]
REFUSED = [
    satisfied("both are asked for", AFTER),
    gone("where images are drawn", BEFORE.replace("with offload_models(text_encoding_pipeline,", "with held(")),
    gone("in another function", BEFORE.replace("def main", "def other")),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
