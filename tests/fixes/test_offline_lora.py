"""offline-lora: name the file when a LoRA that was written here is loaded again."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables, unlike

NAME = "offline-lora"
SAVED = "P.save_lora_weights(args.output_dir, layers)\n"
NAMED = 'weight_name="pytorch_lora_weights.safetensors"'
NEW = "check_min_version('0.31.0.dev0')\nname, state = 'lora', 'optimizer.bin'\n"

APPLIED = [
    *(
        unlike(f"a folder {how}", f"{above}{before})\n", f"{above}{before}, {NAMED})\n")
        for how, above, before in (
            ("by its name", SAVED, "pipe.load_lora_weights(pretrained_model_name_or_path_or_dict=args.output_dir"),
            ("made a path", SAVED, "pipe.load_lora_weights(Path(args.output_dir)"),
            ("made a text", SAVED, 'pipe.load_lora_weights(f"{args.output_dir}"'),
            (
                "that a function is handed",
                "def save(model, path):\n    P.save_lora_weights(path, model)\nsave(unet, args.output_dir)\n",
                "pipe.load_lora_weights(args.output_dir",
            ),
            (
                "that a method is handed",
                "class A:\n    def save(self, path):\n        P.save_lora_weights(path, model)\n"
                "    def run(self):\n        self.save(str(self.out))\n    def test(self):\n",
                "        self.pipe.load_lora_weights(self.out",
            ),
        )
    ),
    case(
        "saved under the usual name",
        f"{NEW}P.save_lora_weights(args.output_dir, safe_serialization=True)\n"
        "pipeline.load_lora_weights(args.output_dir)\n",
        f"{NEW}P.save_lora_weights(args.output_dir, safe_serialization=True)\n"
        f"pipeline.load_lora_weights(args.output_dir, {NAMED})\n",
    ),
    case(
        "in the load hook",
        f"{SAVED}def load_model_hook(models, input_dir):\n    state = FluxPipeline.lora_state_dict(input_dir)\n",
        f"{SAVED}def load_model_hook(models, input_dir):\n"
        f"    state = FluxPipeline.lora_state_dict(input_dir, {NAMED})\n",
    ),
    case(
        "after training, with a comment",
        f"{SAVED}if x:\n    # the result\n    pipeline.load_lora_weights( args.output_dir )  # ours\n",
        f"{SAVED}if x:\n    # the result\n    pipeline.load_lora_weights( args.output_dir, {NAMED} )  # ours\n",
    ),
    case(
        "over several lines",
        f"{SAVED}pipe.load_lora_weights(\n    args.output_dir,  # ours\n)\n",
        f"{SAVED}pipe.load_lora_weights(\n    args.output_dir,\n    {NAMED},  # ours\n)\n",
    ),
    case(
        "both, with what is handed on",
        f"{SAVED}def hook(input_dir):\n    state, alphas = LoaderMixin.lora_state_dict(input_dir)\n"
        "pipe.prior.load_lora_weights(args.output_dir, adapter_name='a')\n",
        f"{SAVED}def hook(input_dir):\n    state, alphas = LoaderMixin.lora_state_dict(input_dir, {NAMED})\n"
        f"pipe.prior.load_lora_weights(args.output_dir, adapter_name='a', {NAMED})\n",
        count=2,
    ),
    case(
        "all but the file's name by place",
        "P.save_lora_weights(o, x, None, True)\nP.load_lora_weights(o)\nR.load_lora_weights(o)\n",
        f"P.save_lora_weights(o, x, None, True)\nP.load_lora_weights(o, {NAMED})\nR.load_lora_weights(o, {NAMED})\n",
        count=2,
    ),
    case(
        "with more by place",
        "P.save_lora_weights(args.output_dir, layers)\npipeline.load_lora_weights(args.output_dir, more)\n",
        f"P.save_lora_weights(args.output_dir, layers)\npipeline.load_lora_weights(args.output_dir, more, {NAMED})\n",
    ),
    case(
        "a folder that is given once",
        "def f(b):\n    a = b\n    P.save_lora_weights(a)\n    P.load_lora_weights(a)\n",
        f"def f(b):\n    a = b\n    P.save_lora_weights(a)\n    P.load_lora_weights(a, {NAMED})\n",
    ),
    case(
        "folders of one name in two functions",
        "def f(a):\n    P.save_lora_weights(a)\n    P.load_lora_weights(a)\ndef g():\n    a = 1\n    a = 2\n",
        f"def f(a):\n    P.save_lora_weights(a)\n    P.load_lora_weights(a, {NAMED})\ndef g():\n    a = 1\n    a = 2\n",
    ),
    case(
        "in an expression, and returned",
        f"{SAVED}model.load(input_dir, P.lora_state_dict(input_dir), P.lora_state_dict(args.lora))\n"
        "def f(input_dir):\n    return P.load_lora_weights(input_dir)\n",
        f"{SAVED}model.load(input_dir, P.lora_state_dict(input_dir, {NAMED}), P.lora_state_dict(args.lora))\n"
        f"def f(input_dir):\n    return P.load_lora_weights(input_dir, {NAMED})\n",
        2,
    ),
    case(
        "two on a line, one of which has it",
        f"{SAVED}pair = (P.lora_state_dict(input_dir), P.lora_state_dict(input_dir, {NAMED}))\n",
        f"{SAVED}pair = (P.lora_state_dict(input_dir, {NAMED}), P.lora_state_dict(input_dir, {NAMED}))\n",
    ),
    unlike(
        "the folder by another name",
        f"{SAVED}folder = args.output_dir\npipeline.load_lora_weights(folder)\n",
        f"{SAVED}folder = args.output_dir\npipeline.load_lora_weights(folder, {NAMED})\n",
    ),
    case(
        "one of two has it",
        f"{SAVED}pipeline.load_lora_weights(args.output_dir, {NAMED})\npipeline.load_lora_weights(args.output_dir)\n",
        f"{SAVED}pipeline.load_lora_weights(args.output_dir, {NAMED})\n"
        f"pipeline.load_lora_weights(args.output_dir, {NAMED})\n",
    ),
    case(
        "the folder by its name, since the file has its name",
        "check_min_version('0.20.0')\nP.save_lora_weights(save_directory=x, unet=y)\npipe.load_lora_weights(x)\n",
        f"check_min_version('0.20.0')\nP.save_lora_weights(save_directory=x, unet=y)\n"
        f"pipe.load_lora_weights(x, {NAMED})\n",
    ),
]

REFUSED = [
    satisfied("there", f"{SAVED}pipeline.load_lora_weights(args.output_dir, {NAMED})\n"),
    satisfied("another file", f"{SAVED}state = P.lora_state_dict(input_dir, weight_name='a.safetensors')\n"),
    gone(
        "the save hook writes another file",
        f"{SAVED}def save_model_hook(models, weights, output_dir):\n    save_file(a, b)\n"
        "P.lora_state_dict(input_dir)\n",
    ),
    gone("named by its place", "P.save_lora_weights(o, x, None, True, 'a.safetensors')\nP.load_lora_weights(o)\n"),
    gone("from a state dict", f"{SAVED}pipeline.load_lora_weights(lora_state_dict)\n"),
    gone("from the hub", f"{SAVED}pipeline.load_lora_weights('latent-consistency/lcm-lora-sdv1-5')\n"),
    gone("from a folder that nothing was saved to", f"{SAVED}pipeline.load_lora_weights(args.lora)\n"),
    gone(
        "where another thing is from",
        "P.save_lora_weights(unet=layers, save_directory=x)\npipeline.load_lora_weights(layers)\n",
    ),
    gone("nothing given", f"{SAVED}pipeline.load_lora_weights()\n"),
    gone("a function of that name", f"{SAVED}load_lora_weights(args.output_dir)\n"),
    gone("in a text", f"{SAVED}text = 'pipeline.load_lora_weights(args.output_dir)'\n"),
    gone(
        "renamed",
        f"{SAVED}os.rename('pytorch_lora_weights.safetensors', name)\npipeline.load_lora_weights(args.output_dir)\n",
    ),
    gone(
        "another adapter's file",
        f"{SAVED}save(f'{{d}}/adapter_model.safetensors')\nP.load_lora_weights(args.output_dir)\n",
    ),
    gone("another folder by then", "a = o\nP.save_lora_weights(a, x)\na = args.old\nP.load_lora_weights(a)\n"),
    conflict("what is handed on", "(`**`)", 2, f"{SAVED}P.load_lora_weights(args.output_dir, **kw)\n"),
    gone("nothing saved", "pipeline.load_lora_weights(args.output_dir)\n"),
    *(
        gone(
            f"saved {how}", f"P.save_lora_weights(args.output_dir, {argument})\nP.load_lora_weights(args.output_dir)\n"
        )
        for how, argument in (
            ("under another name", "weight_name='a.safetensors'"),
            ("as a pickle", "safe_serialization=False"),
            ("as it is asked", "safe_serialization=args.safe"),
        )
    ),
    conflict(
        "resume and result, where one is expected",
        "expected 1 place to fix, found 2 (lines 2, 3)",
        2,
        f"{SAVED}state = P.lora_state_dict(input_dir)\npipeline.load_lora_weights(args.output_dir)\n",
    ),
    conflict(
        "behind a semicolon",
        "several statements share the line",
        2,
        f"{SAVED}a = 1; P.load_lora_weights(args.output_dir)\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
