"""offline-lora: name the file when a LoRA that was written here is loaded again."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

NAME = "offline-lora"
NAMED = 'weight_name="pytorch_lora_weights.safetensors"'

APPLIED = [
    case(
        "saved under the usual name",
        "P.save_lora_weights(out, safe_serialization=True)\npipeline.load_lora_weights(args.output_dir)\n",
        f"P.save_lora_weights(out, safe_serialization=True)\npipeline.load_lora_weights(args.output_dir, {NAMED})\n",
    ),
    case(
        "in the load hook",
        "def load_model_hook(models, input_dir):\n    state = FluxPipeline.lora_state_dict(input_dir)\n",
        f"def load_model_hook(models, input_dir):\n    state = FluxPipeline.lora_state_dict(input_dir, {NAMED})\n",
    ),
    case(
        "after training, with a comment",
        "if x:\n    # the result\n    pipeline.load_lora_weights( args.output_dir )  # ours\n",
        f"if x:\n    # the result\n    pipeline.load_lora_weights( args.output_dir, {NAMED} )  # ours\n",
    ),
    case(
        "over several lines",
        "pipe.load_lora_weights(\n    args.output_dir,  # ours\n)\n",
        f"pipe.load_lora_weights(\n    args.output_dir,\n    {NAMED},  # ours\n)\n",
    ),
    case(
        "both, with what is handed on",
        "def hook(input_dir):\n    state, alphas = LoaderMixin.lora_state_dict(input_dir)\n"
        "pipe.prior.load_lora_weights(args.output_dir, adapter_name='a')\n",
        f"def hook(input_dir):\n    state, alphas = LoaderMixin.lora_state_dict(input_dir, {NAMED})\n"
        f"pipe.prior.load_lora_weights(args.output_dir, adapter_name='a', {NAMED})\n",
        count=2,
    ),
    case(
        "one of two has it",
        f"pipeline.load_lora_weights(args.output_dir, {NAMED})\npipeline.load_lora_weights(args.output_dir)\n",
        f"pipeline.load_lora_weights(args.output_dir, {NAMED})\npipeline.load_lora_weights(args.output_dir, {NAMED})\n",
    ),
]

REFUSED = [
    satisfied("there", f"pipeline.load_lora_weights(args.output_dir, {NAMED})\n"),
    satisfied("another file", "state = P.lora_state_dict(input_dir, weight_name='a.bin')\n"),
    gone("from a state dict", "pipeline.load_lora_weights(lora_state_dict)\n"),
    gone("from the hub", "pipeline.load_lora_weights('latent-consistency/lcm-lora-sdv1-5')\n"),
    gone("nothing given", "pipeline.load_lora_weights()\n"),
    gone("a function of that name", "load_lora_weights(args.output_dir)\n"),
    gone("in a text", "text = 'pipeline.load_lora_weights(args.output_dir)'\n"),
    *(
        gone(f"saved {how}", f"P.save_lora_weights(out, {argument})\nP.load_lora_weights(args.output_dir)\n")
        for how, argument in (
            ("under another name", "weight_name='a.safetensors'"),
            ("as a pickle", "safe_serialization=False"),
            ("as it is asked", "safe_serialization=args.safe"),
        )
    ),
    conflict(
        "resume and result, where one is expected",
        "expected 1 place to fix, found 2 (lines 1, 2)",
        1,
        "state = P.lora_state_dict(input_dir)\npipeline.load_lora_weights(args.output_dir)\n",
    ),
    conflict("in an expression", "made 0: the code is not", 1, "model.load(P.lora_state_dict(input_dir))\n"),
    conflict(
        "in a return", "made 0: the code is not", 2, "def f(input_dir):\n    return P.lora_state_dict(input_dir)\n"
    ),
    conflict("behind a semicolon", "made 0: the code is not", 1, "a = 1; P.load_lora_weights(args.output_dir)\n"),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
