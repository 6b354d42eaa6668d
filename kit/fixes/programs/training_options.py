"""The options of Ascend's SDXL port in kohya's shared parser: token lengths, fused attention, OSS."""

from __future__ import annotations

from kit.fixes._table import Put, Swap, table

TITLE = "token lengths 77 and 512, fused attention and OSS as options"
WHY = """\
--max_token_length takes 77 and 512 besides 150 and 225: 77 is one window of CLIP with its two marks, as without the
option; 512 is rounded up to whole windows of 75, because as it is the last 62 tokens would be cut off in silence.
--enable_npu_flash_attention asks for fused attention. --optimizer_type OSS is AdamW with its state sharded over the
processes (library/pretrain.py, overlay)."""
LINKS = ()
NEEDS = ("argparse", "math")

sites, edits = table(
    Swap(
        "add_training_arguments",
        "parser.add_argument('--max_token_length'",
        "[None, 150, 225]",
        "[None, 77, 150, 225, 512]",
    ),
    Put(
        "add_training_arguments",
        "parser.add_argument('--sdpa'",
        """
        parser.add_argument("--enable_npu_flash_attention", action="store_true", help="fused attention")
        """,
    ),
    Put(
        "verify_training_args",
        "if args.v_parameterization and (not args.v2)",
        """
        if getattr(args, "max_token_length", None) is not None:
            # whole windows of CLIP's 75 tokens; one window is what no length at all means
            windows = 1 if args.max_token_length == 77 else math.ceil(args.max_token_length / 75)
            args.max_token_length = 75 * windows if windows > 1 else None
        """,
        how="before",
    ),
    Put(
        "get_optimizer",
        "if optimizer is None:",
        """
        if optimizer_type == "oss":
            from library.pretrain import sharded_adamw

            print(f"use OSS, AdamW with its state sharded | {optimizer_kwargs}")
            optimizer = sharded_adamw(trainable_params, lr=lr, **optimizer_kwargs)
            optimizer_class = type(optimizer)
        """,
        how="before",
    ),
)
