"""unwrap-save-hook: unwrap what DeepSpeed hands the save hook."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "unwrap-save-hook"
HOOK = "def main(accelerator):\n    def save_model_hook(models, weights, output_dir):\n"
LOOP = "        for model in models:\n"
ASK = "            if isinstance({model}, type({unwrap}(transformer))):\n                save({model})\n"


def hooks(id: str, loop: str, model: str, unwrap: str, asks: str = ASK, row: Any = case) -> Any:
    before = f"{HOOK}        for {loop}:\n"
    asks = asks.format(model=model, unwrap=unwrap)
    return row(id, before + asks, f"{before}            {model} = {unwrap}({model})\n{asks}")


APPLIED = [
    hooks("as in the scripts", "model in models", "model", "unwrap_model"),
    hooks("accelerate's own", "model in models", "model", "accelerator.unwrap_model"),
    hooks("counted, under another name", "i, model_ in enumerate(models)", "model_", "accelerator.unwrap_model"),
    hooks(
        "asked for a class by its name",
        "_, model in enumerate(models)",
        "model",
        "accelerator.unwrap_model",
        "            # which one?\n            if isinstance({model}, (Transformer, Encoder)):\n                pass\n",
    ),
    hooks(
        "asked in an expression, further in",
        "model in models",
        "model",
        "unwrap_model",
        "            with lock:\n                name = 'a' if isinstance({model}, type({unwrap}(unet))) else 'b'\n",
    ),
    hooks(
        "asked by a match",
        "model in models",
        "model",
        "accelerator.unwrap_model",
        "            match {model}:\n                case Unet():\n                    save({model})\n",
        unlike,
    ),
    hooks(
        "asked for a subclass",
        "model in models",
        "model",
        "accelerator.unwrap_model",
        "            if issubclass(type({model}), Unet):\n                save({model})\n",
        unlike,
    ),
    hooks(
        "asked whether it is there",
        "model in models",
        "model",
        "unwrap_model",
        "            if {model} is not None and isinstance({model}, type({unwrap}(unet))):\n                pass\n",
    ),
    hooks(
        "unwrapped too late",
        "model in models",
        "model",
        "unwrap_model",
        ASK.replace("save({model})", "{model} = unwrap_model({model})"),
    ),
    hooks("beside its weights", "model, weight in zip(models, weights)", "model", "accelerator.unwrap_model"),
    hooks("the other way round", "weight, model in zip(weights, models)", "model", "accelerator.unwrap_model"),
    hooks(
        "and written",
        "model in models",
        "model",
        "accelerator.unwrap_model",
        "            zzz({model})\n            if isinstance({model}, A):\n                write({model})\n",
    ),
]

BARE, TOGETHER = "        bare = unwrap_model(net)\n", "        models = [unwrap_model(each) for each in models]\n"
ASKED = ASK.format(model="model", unwrap="unwrap_model")
APPLIED += [
    case(
        "another one unwrapped above, all of them below",
        f"{HOOK}{BARE}{LOOP}{ASKED}{TOGETHER}",
        f"{HOOK}{BARE}{LOOP}            model = unwrap_model(model)\n{ASKED}{TOGETHER}",
    ),
]
APPLIED += [
    hooks(
        f"looked up by its class: {key}",
        "model in models",
        "model",
        "accelerator.unwrap_model",
        f"            save({{model}}, {key})\n",
        unlike,
    )
    for key in ("names[type(model)]", "names.get(model.__class__)", "os.path.join(output_dir, type(model).__name__)")
]

REFUSED = [
    satisfied(
        "unwrapped together",
        f"{HOOK}{TOGETHER}{LOOP}            isinstance(model, A)\n",
    ),
    gone("its class is only said", f"{HOOK}{LOOP}            raise ValueError(f'{{model.__class__}}')\n"),
    gone(
        "of two other lists",
        f"{HOOK}        for name, model in zip(names, others):\n            isinstance(model, A)\n",
    ),
    satisfied(
        "asked of the unwrapped one",
        f"{HOOK}{LOOP}            isinstance(unwrap_model(model), A)\n",
    ),
    satisfied(
        "unwrapped under another name",
        f"{HOOK}{LOOP}            bare = accelerator.unwrap_model(model)\n            isinstance(bare, A)\n",
    ),
    satisfied(
        "a part of it, which DeepSpeed's engine passes on",
        f"{HOOK}{LOOP}            isinstance(model.base, A)\n",
    ),
    gone("never asked", f"{HOOK}{LOOP}            model.save_pretrained(output_dir)\n"),
    gone(
        "in the load hook",
        "def load_model_hook(models, input_dir):\n    for model in models:\n        isinstance(model, A)\n",
    ),
    gone("taken by number", f"{HOOK}        while weights:\n            isinstance(models[0], A)\n"),
    conflict(
        "no accelerator",
        "`accelerator` is not bound",
        2,
        "def save_model_hook(models, weights):\n    for model in models:\n        isinstance(model, A)\n",
    ),
    *(
        conflict(
            f"known by itself: {asked}",
            f"`{asked}` asks for the model as it is handed in",
            3,
            f"{HOOK}{LOOP}            if {asked}:\n                model.save_checkpoint(1)\n"
            "            elif isinstance(model, A):\n                model.save_pretrained(1)\n",
        )
        for asked in (
            "model is unet",
            "unet == model",
            "model in prepared",
            "names[model]",
            "names.get(model)",
            "prepared.remove(model)",
        )
    ),
    *(
        conflict(
            f"as it is handed in: {asked}",
            f"`{asked}` takes the model as it is handed in",
            3,
            f"{HOOK}{LOOP}            state = {asked}\n            if isinstance(model, A):\n"
            "                model.save_pretrained(1, state)\n",
        )
        for asked in (
            "accelerator.get_state_dict(model)",
            "accelerator.save_model(model, 1)",
            "hasattr(model, 'save_checkpoint')",
        )
    ),
    conflict(
        "of the engine",
        "`model._zero3_consolidated_16bit_state_dict` takes the model",
        3,
        f"{HOOK}{LOOP}            state = model._zero3_consolidated_16bit_state_dict()\n"
        "            isinstance(model, A)\n",
    ),
    *(
        conflict(
            f"what wraps it: {asked}",
            f"`{named}` {why}",
            3,
            f"{HOOK}{LOOP}            if {asked}:\n                save(model)\n        a, unet = a.prepare(a, net)\n",
        )
        for asked, named, why in (
            ("isinstance(model, FSDP)", "isinstance(model, FSDP)", "asks for what wraps the model"),
            ("isinstance(model, type(unet))", "type(unet)", "is the class of what `prepare` gives"),
            ("type(model) is type(unet)", "type(unet)", "is the class of what `prepare` gives"),
        )
    ),
    *(
        satisfied(
            f"what the wrapper holds, {asked}",
            f"{HOOK}{LOOP}            if {asked}:\n                model = model.module\n"
            "            isinstance(model, A)\n",
        )
        for asked in ("hasattr(model, 'module')", "isinstance(model, DeepSpeedEngine)")
    ),
    satisfied(
        "what the wrapper holds",
        f"{HOOK}{LOOP}            model = model.module if hasattr(model, 'module') else model\n"
        "            isinstance(model, A)\n",
    ),
    conflict(
        "two loops",
        "expected 1 place to fix, found 2 (lines 3, 5)",
        3,
        HOOK + 2 * f"{LOOP}            isinstance(model, A)\n",
    ),
    conflict(
        "on one line",
        "it stands on the line of what it is in",
        3,
        f"{HOOK}        for model in models: isinstance(model, A)\n",
    ),
    *(
        gone(f"of another list: {over}", f"{HOOK}        for {over}:\n            isinstance(model, A)\n")
        for over in ("model in others", "number, model in enumerate(others, 1)")
    ),
    gone(
        "told by a part of it",
        f"{HOOK}{LOOP}            if model.KIND == 1 or model.kind == 2 or isinstance(state, model.config_class):\n"
        "                model.save_pretrained(output_dir)\n",
    ),
    gone("of the list itself", f"{HOOK}        for model, name in models:\n            isinstance(model, A)\n"),
    gone("what is handed on", f"{HOOK}{LOOP}            write(model, A)\n"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_a_wrapped_model_is_known_after_and_not_before() -> None:
    given = APPLIED[0].values[0]
    transformer = object.__new__(type("Transformer", (), {}))
    engine = SimpleNamespace(module=transformer)
    for text, wanted in ((given.before, []), (given.after, [transformer])):
        saved: list[object] = []
        text = text.replace("def main(accelerator):\n    def save", "if True:\n    def save")
        names = {"transformer": transformer, "unwrap_model": lambda model: getattr(model, "module", model)}
        run(text, save=saved.append, **names)["save_model_hook"]([engine], [], "")
        assert saved == wanted
