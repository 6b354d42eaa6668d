"""training-options: token lengths 77 and 512, fused attention and OSS as options."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "training-options"

APPLIED = [
    case(
        "as in the library",
        """
        import argparse
        import math


        def add_training_arguments(parser, support_dreambooth):
            parser.add_argument(
                "--max_token_length",
                type=int,
                choices=[None, 150, 225],  # windows
            )
            parser.add_argument("--sdpa", action="store_true")


        def verify_training_args(args):
            if args.v_parameterization and not args.v2:
                print("odd")


        def get_optimizer(args, trainable_params):
            optimizer = None

            if optimizer is None:
                optimizer = make()
            return optimizer
        """,
        """
        import argparse
        import math


        def add_training_arguments(parser, support_dreambooth):
            parser.add_argument(
                "--max_token_length",
                type=int,
                choices=[None, 77, 150, 225, 512],  # windows
            )
            parser.add_argument("--sdpa", action="store_true")
            parser.add_argument("--enable_npu_flash_attention", action="store_true", help="fused attention")


        def verify_training_args(args):
            if getattr(args, "max_token_length", None) is not None:
                # whole windows of CLIP's 75 tokens; one window is what no length at all means
                windows = 1 if args.max_token_length == 77 else math.ceil(args.max_token_length / 75)
                args.max_token_length = 75 * windows if windows > 1 else None
            if args.v_parameterization and not args.v2:
                print("odd")


        def get_optimizer(args, trainable_params):
            optimizer = None

            if optimizer_type == "oss":
                from library.pretrain import sharded_adamw

                print(f"use OSS, AdamW with its state sharded | {optimizer_kwargs}")
                optimizer = sharded_adamw(trainable_params, lr=lr, **optimizer_kwargs)
                optimizer_class = type(optimizer)

            if optimizer is None:
                optimizer = make()
            return optimizer
        """,
        count=4,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        import argparse
        import math


        def add_training_arguments(parser, support_dreambooth):
            parser.add_argument(
                "--max_token_length",
                type=int,
                choices=[None, 77, 150, 225, 512],  # windows
            )
            parser.add_argument("--sdpa", action="store_true")
            parser.add_argument("--enable_npu_flash_attention", action="store_true", help="fused attention")


        def verify_training_args(args):
            if getattr(args, "max_token_length", None) is not None:
                # whole windows of CLIP's 75 tokens; one window is what no length at all means
                windows = 1 if args.max_token_length == 77 else math.ceil(args.max_token_length / 75)
                args.max_token_length = 75 * windows if windows > 1 else None
            if args.v_parameterization and not args.v2:
                print("odd")


        def get_optimizer(args, trainable_params):
            optimizer = None

            if optimizer_type == "oss":
                from library.pretrain import sharded_adamw

                print(f"use OSS, AdamW with its state sharded | {optimizer_kwargs}")
                optimizer = sharded_adamw(trainable_params, lr=lr, **optimizer_kwargs)
                optimizer_class = type(optimizer)

            if optimizer is None:
                optimizer = make()
            return optimizer
        """,
    ),
    gone(
        "other options",
        """
        def add_training_arguments(parser):
            parser.add_argument("--seed", type=int)
        """,
    ),
    conflict(
        "other lengths",
        "found 3",
        11,
        """
        import argparse
        import math


        def add_training_arguments(parser, support_dreambooth):
            parser.add_argument(
                "--max_token_length",
                type=int,
                choices=[None, 150, 225, 300],  # windows
            )
            parser.add_argument("--sdpa", action="store_true")


        def verify_training_args(args):
            if args.v_parameterization and not args.v2:
                print("odd")


        def get_optimizer(args, trainable_params):
            optimizer = None

            if optimizer is None:
                optimizer = make()
            return optimizer
        """,
        count=4,
    ),
    conflict(
        "no math",
        "`math` is not bound",
        5,
        """
        import argparse


        def add_training_arguments(parser):
            parser.add_argument("--max_token_length", choices=[None, 150, 225])
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
