"""deepspeed-resume: leave a LoRA to DeepSpeed when a run under it is resumed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "deepspeed-resume"
ONE = "from accelerate import Accelerator\n"
BOTH = "from accelerate import Accelerator, DistributedType\n"
MAIN = "def main(accelerator):\n    def load_model_hook(models, input_dir):\n"
HOOK = MAIN.partition("\n")[2]
LEAVE = "        if accelerator.distributed_type == DistributedType.DEEPSPEED:\n            return\n\n"
LOAD = """\
        model = None
        while models:
            model = models.pop()
        model.load(Pipeline.lora_state_dict(input_dir))
"""
GIVEN = LOAD.replace("model.load(", "set_peft_model(model, ")
SECOND = """\
        if not accelerator.distributed_type == DistributedType.DEEPSPEED:
            model = models.pop()
        else:
            model = Transformer.from_pretrained(args.model)
        model.load(Pipeline.lora_state_dict(input_dir))
"""
LOADS_FIRST = """\
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            model = T.from_pretrained(1)
            return
"""

APPLIED = [
    case("as in the scripts", f"{ONE}{MAIN}{LOAD}", f"{BOTH}{MAIN}{LEAVE}{LOAD}"),
    case(
        "a comment above the first line, the import there",
        f"{BOTH}{MAIN}        # none yet\n{LOAD}    load()\n",
        f"{BOTH}{MAIN}{LEAVE}        # none yet\n{LOAD}    load()\n",
    ),
    case(
        "blocks inside are left alone, another library's accelerator",
        f"from tinytrain import Accelerator\n{MAIN}        for model in models:\n            with lock:\n"
        "                state = P.lora_state_dict(input_dir)\n",
        f"from tinytrain import Accelerator, DistributedType\n{MAIN}{LEAVE}        for model in models:\n"
        "            with lock:\n                state = P.lora_state_dict(input_dir)\n",
        accelerate="tinytrain",
    ),
    case(
        "below what the hook says of itself",
        f'{BOTH}{MAIN}        """Load it."""\n{LOAD}',
        f'{BOTH}{MAIN}        """Load it."""\n{LEAVE}{LOAD}',
    ),
    case(
        "it says what it loads",
        f"{BOTH}{MAIN}{LOAD}        logger.info(f'from {{input_dir}}')\n",
        f"{BOTH}{MAIN}{LEAVE}{LOAD}        logger.info(f'from {{input_dir}}')\n",
    ),
    case(
        "it sets an attribute of the model that it loads",
        f"{BOTH}{MAIN}{LOAD}        model.norms = load_norms(model)\n",
        f"{BOTH}{MAIN}{LEAVE}{LOAD}        model.norms = load_norms(model)\n",
    ),
    case(
        "below what the hook says of itself, a line alone",
        f'{BOTH}{MAIN}        """Load it."""\n        model(P.lora_state_dict(input_dir))\n',
        f'{BOTH}{MAIN}        """Load it."""\n{LEAVE}        model(P.lora_state_dict(input_dir))\n',
    ),
    case(
        "all on a line",
        f'{BOTH}{MAIN}        """Load it."""; model(P.lora_state_dict(input_dir))\n',
        f'{BOTH}{MAIN}{LEAVE}        """Load it."""; model(P.lora_state_dict(input_dir))\n',
    ),
    unlike("only the name is lacking", f"{ONE}{MAIN}{LEAVE}{LOAD}", f"{BOTH}{MAIN}{LEAVE}{LOAD}"),
    case(
        "a second model before it leaves",
        f"{BOTH}{MAIN}{LOADS_FIRST}{LOAD}",
        f"{BOTH}{MAIN}{LEAVE}{LOADS_FIRST}{LOAD}",
    ),
    case("given to a model or to none", f"{BOTH}{MAIN}{GIVEN}", f"{BOTH}{MAIN}{LEAVE}{GIVEN}"),
    case("a second model, as upstream has it", f"{BOTH}{MAIN}{SECOND}", f"{BOTH}{MAIN}{LEAVE}{SECOND}"),
]
MAKER = "def make(accelerator):\n    def load_model_hook(models, input_dir):\n"
APPLIED += [
    *(
        case(
            f"what a function makes, {how}",
            f"{BOTH}{MAKER}{LOAD}    return {back}\n\n{registers}",
            f"{BOTH}{MAKER}{LEAVE}{LOAD}    return {back}\n\n{registers}",
        )
        for how, back, registers in (
            ("handed on", "load_model_hook", "accelerator.register_load_state_pre_hook(make(accelerator))\n"),
            ("of a name", "load_model_hook", "a = make(accelerator)\naccelerator.register_load_state_pre_hook(a)\n"),
            (
                "with another",
                "1, load_model_hook",
                "a, b = make(accelerator)\naccelerator.register_load_state_pre_hook(b)\n",
            ),
        )
    ),
]

REFUSED = [
    satisfied("there", f"{BOTH}{MAIN}{LEAVE}{LOAD}"),
    satisfied(
        "left where a loop found none",
        f"{ONE}{MAIN}{LOAD}".replace(
            "        model.load", "        if model is None:\n            return\n        model.load"
        ),
    ),
    *(
        satisfied(
            f"given to a model only where there is one: {asked}",
            f"{ONE}{MAIN}{LOAD}".replace(
                "        model.load(", f"        if {asked}:\n            set_peft_model(model, "
            ),
        )
        for asked in ("model is not None", "model", "model and args.lora")
    ),
    satisfied("there, and a second model below it", f"{BOTH}{MAIN}{LEAVE}{SECOND}"),
    satisfied(
        "asked by its text",
        f"{ONE}{MAIN}        if accelerator.distributed_type != 'DEEPSPEED':\n            model = models.pop()\n"
        "        else:\n            model = Another()\n        state = P.lora_state_dict(input_dir)\n",
    ),
    satisfied(
        "a model of its own, which is there already",
        f"{BOTH}{MAIN}        if not accelerator.distributed_type == DistributedType.DEEPSPEED:\n"
        "            model = models.pop()\n        else:\n            model = another()\n"
        "        state = P.lora_state_dict(input_dir)\n",
    ),
    *(
        satisfied(
            f"it leaves without a model: {test}",
            f"{ONE}{MAIN}{above}        if {test}:\n            logger.info(2)\n            return\n{LOAD}",
        )
        for above, test in (
            ("", "not models"),
            ("        logger.info(1)\n", "len(models) == 0"),
            ("        one = models.pop() if models else None\n", "one is None"),
        )
    ),
    gone(
        "no LoRA: there is nothing to do for an empty list",
        f"{BOTH}{MAIN}        while models:\n            models.append(1) or models.pop()\n",
    ),
    gone("not in a load hook", f"{BOTH}def main(accelerator):\n    state = P.lora_state_dict(input_dir)\n"),
    conflict(
        "averaged weights would not be loaded",
        "it loads averaged weights, too",
        3,
        f"{BOTH}{MAIN}{LOAD}        if args.use_ema:\n            ema.load(input_dir)\n",
    ),
    conflict(
        "what else it loads would not be",
        "it calls embedding.load_state_dict(), too",
        3,
        f"{BOTH}{MAIN}{LOAD}        embedding.load_state_dict(torch.load(input_dir))\n",
    ),
    conflict(
        "where a run was would be forgotten",
        "it sets start, too",
        3,
        f"{BOTH}{MAIN}        nonlocal start\n{LOAD}        start = model.step\n",
    ),
    conflict(
        "imported where it is needed alone",
        "imported in a function alone (line 2): import it at the top first",
        4,
        f"def main():\n    from accelerate import Accelerator\n    accelerator = Accelerator()\n{HOOK}{LOAD}",
    ),
    conflict(
        "another model gets it in the same loop",
        "it gives `teacher` what it loads, too",
        3,
        f"{BOTH}{MAIN}        model = models.pop() if models else None\n        state = P.lora_state_dict(input_dir)\n"
        "        for target in (model, teacher):\n            set_state(target, state)\n",
    ),
    *(
        conflict(f"it does more: {more}", reason, 3, f"{BOTH}{MAIN}{LOAD}        {more}\n")
        for more, reason in (
            ("trainer.step = int(input_dir[-1])", "it sets trainer.step, too"),
            ("resume['step'] = 1", "it sets resume['step'], too"),
            ("tokenizer.add_tokens(['<s1>'])", "it calls tokenizer.add_tokens(), too"),
            ("optimizer.load(input_dir)", "it calls optimizer.load(), too"),
            ("embeds.load(os.path.join(input_dir, 'embeds'))", "it calls embeds.load(), too"),
            ("step = int(input_dir.split('-')[-1]); resume.update(step=step)", "it calls resume.update(), too"),
        )
    ),
    conflict(
        "an accelerator of its own, below",
        "`accelerator` is not bound there",
        3,
        f"{BOTH}def main():\n{HOOK}{LOAD}        accelerator = Accelerator()\n        print(accelerator)\n",
    ),
    conflict("on one line", "it stands on the line of what it is in", 3, f"{BOTH}{MAIN[:-1]} P.lora_state_dict(1)\n"),
    conflict(
        "twice",
        "expected 1 place to fix, found 2 (lines 3, 8)",
        3,
        f"{BOTH}{MAIN}{LOAD}" + "".join(f"{MAIN}{LOAD}".splitlines(True)[1:]),
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_an_empty_list_ends_the_hook_before_and_not_after() -> None:
    given = APPLIED[0].values[0]
    names = {
        "accelerator": SimpleNamespace(distributed_type="DEEPSPEED"),
        "DistributedType": SimpleNamespace(DEEPSPEED="DEEPSPEED"),
        "Pipeline": SimpleNamespace(lora_state_dict=lambda folder: {}),
    }
    before, after = (text[text.index("    def load") :].replace("    ", "", 1) for text in (given.before, given.after))
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute"):
        run(before, **names)["load_model_hook"]([], "")
    run(after, **names)["load_model_hook"]([], "")
