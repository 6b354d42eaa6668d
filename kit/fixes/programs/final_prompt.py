"""Encode the prompt of the last images where it is the only one."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "encode --final_validation_prompt, too"
WHY = """\
The last images are drawn where --validation_prompt or --final_validation_prompt is given, and only the first of them is
ever encoded. With the second alone the run trains to its end, saves, and dies: `KeyError: 'prompt_embeds'`."""
LINKS = ()
NEEDS = ()

sites, edits = table(
    Put(
        "main",
        "if args.validation_prompt is not None:\n    with offload_models(text_encoding_pipeline, ",
        """
        if args.validation_prompt or args.final_validation_prompt:
            validation_prompt = args.validation_prompt or args.final_validation_prompt
            with offload_models(text_encoding_pipeline, device=accelerator.device, offload=args.offload):
                encoded = compute_text_embeddings(validation_prompt, text_encoding_pipeline)
            validation_embeddings["prompt_embeds"], validation_embeddings["prompt_embeds_mask"] = encoded
        """,
        how="replace",
    )
)
