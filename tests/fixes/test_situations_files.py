"""`kit fix` on scripts of other shapes: save hooks, files, cards, and scripts that are ported."""

from __future__ import annotations

import pytest
from situations import HEAD, MADE, Given, check, left, looks, mended, refused

# A save hook is what is registered as one; its models and weights are its own parameters.
HOOKS = [
    left(
        "tensors of an inner loop",
        "unwrap-save-hook",
        HEAD
        + """\
accelerator = Accelerator()
def save_model_hook(models, weights, output_dir):
    for model in models:
        for key, value in model.state_dict().items():
            if isinstance(value, torch.Tensor):
                print(key)
accelerator.register_save_state_pre_hook(save_model_hook)
""",
    ),
    mended(
        "a hook by another name, its models numbered",
        "unwrap-save-hook",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, weights, output_dir):
    for number, part in enumerate(parts):
        if isinstance(part, Unet):
            part.save_pretrained(output_dir)
accelerator.register_save_state_pre_hook(before_saving)
""",
        "    for number, part in enumerate(parts):\n        part = accelerator.unwrap_model(part)",
    ),
    left(
        "a dictionary of weights",
        "weights-pop",
        """
        from safetensors.torch import load_file
        def convert(path, weights):
            weights.pop("position_ids")
            return weights
        def last(models, weights):
            return models, weights.pop()
        """,
    ),
    mended(
        "a hook that calls them otherwise",
        "weights-pop",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, states, output_dir):
    for part in parts:
        states.pop()
accelerator.register_save_state_pre_hook(before_saving)
""",
        "        if states:\n            states.pop()",
    ),
    looks(
        "its last one is taken by number",
        "weights-pop",
        8,
        "weights",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, states, output_dir):
    for number in range(2):
        states.pop(0)
accelerator.register_save_state_pre_hook(before_saving)
""",
    ),
]
REGISTERED = "    accelerator.register_save_state_pre_hook"
HOOKED = f"{HEAD}def main(net):\n{MADE}"
HOOKS += [
    mended(
        "registered by its decorator, and the list has another name",
        "weights-pop",
        f"{HOOKED}{REGISTERED.replace('acc', '@acc')}\n"
        "    def save(parts, states, folder):\n        left = states\n        while parts:\n            left.pop()\n",
        "    if left:\n        left.pop()",
    ),
    looks(
        "in a lambda",
        "weights-pop",
        7,
        "weights popped from a list that may be empty (`w`)",
        f"{HOOKED}{REGISTERED}(lambda m, w, d: [w.pop() for _ in m])\n",
    ),
    looks(
        "in a lambda of a name",
        "weights-pop",
        8,
        "weights popped from a list that may be empty (`w`)",
        f"{HOOKED}    hook = lambda m, w, d: w.pop()\n{REGISTERED}(hook)\n",
    ),
    left(
        "a lambda that pops others",
        "weights-pop",
        f"{HOOKED}{REGISTERED}(lambda m, w, d: (m.pop(), w.clear(), d.pop()))\n",
    ),
    left(
        "asked for in a lambda",
        "weights-pop",
        f"{HOOKED}{REGISTERED}(lambda m, w, d: w and w.pop())\n{REGISTERED}(lambda m, w, d: w.pop() if w else 0)\n",
    ),
    looks(
        "its last one is deleted",
        "weights-pop",
        8,
        "by their place",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n        del weights[-1]\n",
    ),
    left(
        "all of them are deleted",
        "weights-pop",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n"
        "        del weights[:], rest[0]\n        weights.clear()\n",
    ),
    *(
        mended(
            f"told by {test}",
            "unwrap-save-hook",
            f"{HOOKED}    def save_model_hook(models, weights, folder):\n"
            f"        for model in models:\n            if {test}:\n                model.save(folder)\n",
            "for model in models:\n    model = accelerator.unwrap_model(model)",
        )
        for test in ("type(model) is Net", 'model.__class__.__name__ == "Net"')
    ),
    left(
        "its class is only written",
        "unwrap-save-hook",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n"
        '        for model in models:\n            print(f"{model.__class__}", type(model))\n',
    ),
    looks(
        "taken from the list one by one",
        "unwrap-save-hook",
        9,
        "a model of a save hook told by its class",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n        while models:\n"
        "            model = models.pop()\n            if isinstance(model, Net):\n                save(model)\n",
    ),
    *(
        looks(
            f"told otherwise: {body.strip()}",
            "unwrap-save-hook",
            line,
            "a model of a save hook told by its class",
            f"{HOOKED}    def tell(unet, folder):\n        return isinstance(unet, Net)\n"
            f"    def save_model_hook(models, weights, folder):\n{body}",
        )
        for line, body in (
            (
                12,
                "        while weights:\n            weights.pop()\n"
                "        if isinstance(models[0], Net):\n            save(models[0])\n",
            ),
            (11, "        for i in range(2):\n            if isinstance(models[i], Net):\n                save(i)\n"),
            (10, "        save([each for each in models if isinstance(each, Net)])\n"),
            (10, "        save({type(each).__name__: each for each in models})\n"),
            (10, "        save(list(filter(lambda each: isinstance(each, Net), models)))\n"),
            (10, "        for model in models:\n            tell(model, folder)\n"),
        )
    ),
    looks(
        "told in a lambda",
        "unwrap-save-hook",
        7,
        "a model of a save hook told by its class",
        f"{HOOKED}    accelerator.register_save_state_pre_hook(\n"
        "        lambda m, w, d: [save(x) for x in m if isinstance(x, Net)])\n",
    ),
    left(
        "handed to what asks for another's class",
        "unwrap-save-hook",
        f"{HOOKED}    def write(model, to):\n        return isinstance(to, Path)\n"
        "    def save_model_hook(models, weights, folder):\n        first = models[0]\n        first.save(folder)\n"
        f"        for model in models:\n            write(model, folder)\n{REGISTERED}(lambda m, w, d: w.clear())\n",
    ),
    left(
        "taken from the list where there are weights",
        "unwrap-save-hook",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n        while len(weights) > 0:\n"
        "            weights.pop()\n            model = models[0]\n            if isinstance(model, Net):\n"
        "                save(model)\n        if weights and isinstance(models[-1], Net):\n            save(1)\n",
    ),
    left(
        "taken from the list and unwrapped",
        "unwrap-save-hook",
        f"{HOOKED}    def save_model_hook(models, weights, folder):\n        while models:\n"
        "            model = accelerator.unwrap_model(models.pop())\n            if isinstance(model, Net):\n"
        "                model.save(folder)\n",
    ),
]

# Options that exist, files that are written, cards that ask the hub.
CARD = """\
def save_model_card(name, folder):
    card = load_or_create_model_card(repo_id_or_path=name)
    card.save(folder)
"""
FILES = [
    left(
        "a card of one's own",
        "offline-model-card",
        """
        def save_model_card(name, folder):
            with open(folder + "/README.md", "w") as file:
                file.write(name)
        def main(args):
            save_model_card(args.name, args.output_dir)
            if args.push_to_hub:
                upload(args.output_dir)
        """,
    ),
    refused(
        "no such option",
        "offline-model-card",
        9,
        "no option `push_to_hub`",
        f"""\
import argparse
{CARD}\
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir")
    args = parser.parse_args()
    save_model_card("x", args.output_dir)
""",
    ),
    refused(
        "a method of that name is no option",
        "offline-model-card",
        6,
        "no option `push_to_hub`",
        f"""\
{CARD}\
def main(args, model):
    model.push_to_hub(args.repo)
    save_model_card("x", args.output_dir)
""",
    ),
    left(
        "a LoRA in another file",
        "offline-lora",
        """
        def main(args, pipeline):
            pipeline.save_lora_weights(args.output_dir, safe_serialization=True)
            pipeline.load_lora_weights(args.output_dir)
            other.load_lora_weights(args.output_dir, weight_name="pytorch_lora_weights.bin")
        """,
    ),
    left(
        "a LoRA saved by other means",
        "offline-lora",
        """
        def main(args, pipeline, layers):
            layers.save_attn_procs(args.output_dir)
            pipeline.load_lora_weights(args.output_dir)
        """,
    ),
    left(
        "for a diffusers that wrote another file",
        "offline-lora",
        """
        check_min_version("0.19.0.dev0")
        def main(args, pipeline, layers):
            pipeline.save_lora_weights(args.output_dir, layers)
            pipeline.load_lora_weights(args.output_dir)
        """,
    ),
]

# Scripts, modules, and those that are ported.
PORTED = [
    left(
        "a careful import",
        "device-package",
        """
        import torch
        try:
            import torch_npu
        except ImportError:
            torch_npu = None
        if __name__ == "__main__":
            print(torch.ones(1))
        """,
    ),
    left(
        "by importlib",
        "device-package",
        """
        import importlib
        import torch
        if importlib.util.find_spec("torch_npu"):
            importlib.import_module("torch_npu")
        if __name__ == "__main__":
            print(torch.ones(1))
        """,
    ),
    left(
        "a module of a library",
        "device-package",
        """
        import torch
        from ..utils import logging
        logger = logging.get_logger(__name__)
        class Block(torch.nn.Module):
            pass
        """,
    ),
    left(
        "a module that asks something at its top",
        "device-package",
        """
        import torch
        if torch.cuda.is_available():
            kind = "cuda"
        class Block(torch.nn.Module):
            pass
        """,
    ),
    left(
        "a module with imports from the top",
        "device-package",
        """
        import torch
        from mylib.utils import logging
        logger = logging.get_logger(__name__)
        class Block(torch.nn.Module):
            pass
        """,
    ),
]


@pytest.mark.parametrize("given", [*HOOKS, *FILES, *PORTED])
def test_a_situation(given: Given) -> None:
    check(given)
