"""fused-attention: fused attention where the option asks for it."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "fused-attention"

APPLIED = [
    case(
        "as in the script",
        """
        def train(args):
            unet = load()
            if args.diffusers_xformers:
                pass
            else:
                train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)

            go()
        """,
        """
        def train(args):
            unet = load()
            if args.diffusers_xformers:
                pass
            else:
                train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
                if args.enable_npu_flash_attention:
                    from library.fused_attention import use_fused_attention

                    use_fused_attention(unet)

            go()
        """,
    ),
    case(
        "in a class",
        """
        class NetworkTrainer:
            def train(self, args):
                unet = load()
                train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
                go()
        """,
        """
        class NetworkTrainer:
            def train(self, args):
                unet = load()
                train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
                if args.enable_npu_flash_attention:
                    from library.fused_attention import use_fused_attention

                    use_fused_attention(unet)
                go()
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        def train(args):
            unet = load()
            if args.diffusers_xformers:
                pass
            else:
                train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
                if args.enable_npu_flash_attention:
                    from library.fused_attention import use_fused_attention

                    use_fused_attention(unet)

            go()
        """,
    ),
    gone(
        "a function of its own",
        """
        def replace_unet_modules(unet, sdpa):
            unet.set_use_sdpa(sdpa)
        """,
    ),
    conflict(
        "no args",
        "`args` is not bound",
        3,
        """
        def train(options):
            unet = load()
            train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
        """,
    ),
    conflict(
        "twice",
        "expected 1 place to fix, found 2 (lines 3, 4)",
        3,
        """
        def train(args):
            unet = load()
            train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
            train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
