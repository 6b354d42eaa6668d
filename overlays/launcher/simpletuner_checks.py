"""What SimpleTuner's settings may be: each check says what is wrong before anything is loaded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from launcher import checks, data, model
from launcher.mistake import Mistake, nearest
from launcher.options import Option
from launcher.simpletuner_data import check_whole

QUOTED = re.compile(r"""["']([A-Za-z][\w.-]*)["']""")
SECTIONS = "simpletuner/simpletuner_sdk/server/services/field_registry/sections"
TRAINING = "simpletuner/helpers/training"
# Where SimpleTuner's source says which values there are (v4.0.6): a value that is not spelled out there is none.
VALUES = {
    "optimizer": f"{TRAINING}/optimizer_param.py",
    "lr_scheduler": f"{SECTIONS}/training.py",
    "mixed_precision": f"{SECTIONS}/*.py",
    **dict.fromkeys(
        ("base_model_precision", *(f"text_encoder_{number}_precision" for number in range(1, 5))),
        f"{TRAINING}/__init__.py",
    ),
}
LLAMA = ("text_encoder_4", "tokenizer_4")  # parts of the model that may come from elsewhere
CUDA_ONLY = re.compile(r"nf4|fp8|bnb-|.*-bnb$")


def read(path: Path, kind: type = dict) -> Any:
    """A JSON file that is an object, or a list of them. Raises Mistake with file and line."""
    try:
        found: Any = json.loads(data.text(path))
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}: run it from the folder with config/") from None
    except json.JSONDecodeError as error:
        raise Mistake(f"{path}:{error.lineno}: not JSON: {error.msg} (a comma too many, or one missing?)") from None
    items = found if isinstance(found, list) else []
    if not isinstance(found, kind) or not all(isinstance(each, dict) for each in items):
        raise Mistake(f"{path}: not {'a list of objects' if kind is list else 'an object'}, as JSON calls it")
    return found


def spelled_out(root: Path, pattern: str) -> set[str]:
    """Every word that stands in quotes in files of SimpleTuner's source; none where there is no such file."""
    return {word for path in root.glob(pattern) for word in QUOTED.findall(path.read_text(encoding="utf-8"))}


def check_values(config: dict[str, Any], backends: list[dict[str, Any]], root: Path, file: Path) -> None:
    """Values and keys that SimpleTuner's source does not know. Raises Mistake."""
    for key, pattern in VALUES.items():
        known = spelled_out(root, pattern)
        item = config.get(key)
        if isinstance(item, str) and known and item not in known and not CUDA_ONLY.match(item):
            raise Mistake(f'"{key}": SimpleTuner has no {item!r}{nearest(item, sorted(known))}')
    known = spelled_out(root, "simpletuner/helpers/**/*.py")
    for each in backends if known else []:
        for key in each:
            if key not in known:
                raise Mistake(f'{file}: {each.get("id")}: SimpleTuner reads no "{key}"{nearest(key, sorted(known))}')
    for key in ("resolution", "num_train_epochs", "learning_rate"):
        item = config.get(key, 1)
        if not isinstance(item, (int, float)) or isinstance(item, bool) or item < 0:
            raise Mistake(f'"{key}": {item!r} is no number from 0')


def check_config(config: dict[str, Any], device: str, file: Path) -> None:
    """What can be said of the options alone. Raises Mistake."""
    for key, item in config.items():
        if isinstance(item, str) and item.strip().lower() == "false":
            raise Mistake(f'{file}: "{key}": "{item}" in quotes would be dropped: write false, without quotes')
    precisions = {key: item for key, item in config.items() if key.endswith("_precision")}
    for key, item in (*precisions.items(), ("optimizer", config.get("optimizer"))):
        if CUDA_ONLY.match(str(item)) and device != "cuda":
            better = "optimi-lion" if key == "optimizer" else "int8-quanto"
            raise Mistake(f'"{key}": {item} needs CUDA (bitsandbytes, or its 8-bit floats), this is {device}: {better}')
    if config.get("base_model_precision") == "fp8-quanto":
        raise Mistake('"base_model_precision": SimpleTuner does not take fp8-quanto for HiDream: fp8-torchao')
    if config.get("enable_group_offload") and device != "cuda":
        raise Mistake(f'"enable_group_offload": SimpleTuner has it for CUDA only, this is {device}: false')
    if config.get("optimizer_release_gradients"):
        if config.get("model_type") == "lora" and config.get("lora_type") == "lycoris":
            raise Mistake('"optimizer_release_gradients": SimpleTuner updates no weight of a LyCORIS so: false')
        if config.get("gradient_accumulation_steps", 1) != 1:
            raise Mistake('"optimizer_release_gradients" keeps none to accumulate: "gradient_accumulation_steps": 1')
    if config.get("mixed_precision") == "fp16" and device == "cpu":
        raise Mistake('"mixed_precision": a CPU does not train in fp16: bf16')
    if config.get("model_type") == "full" and config.get("base_model_precision", "no_change") != "no_change":
        raise Mistake('"model_type": full trains the very weights that "base_model_precision" quantises: no_change')
    for key in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "vae_batch_size"):
        check_whole(config, key, 1)
    if not config.get("output_dir"):
        raise Mistake(f'{file}: no "output_dir": where the adapter, checkpoints and logs go')
    checks.writable("output_dir", os.path.expanduser(str(config["output_dir"])))
    option = Option("pretrained_model_name_or_path", "model", "", pipelines=("HiDreamImagePipeline",), apart=LLAMA)
    model.check(option, os.path.expanduser(str(config.get(option.name, ""))))


def check_adapter(config: dict[str, Any]) -> None:
    """The LyCORIS file is there, and is for LoKr on some modules. Raises Mistake."""
    if config.get("model_type") != "lora" or config.get("lora_type") != "lycoris":
        return
    file = Path(str(config.get("lycoris_config", "config/lycoris_config.json")))
    table = read(file)
    preset = table.get("apply_preset", {})
    if not preset.get("target_module") and not preset.get("name_algo_map"):
        raise Mistake(f'{file}: neither "target_module" nor "name_algo_map" in "apply_preset" names a module to train')
    if preset.get("name_algo_map") and "target_module" not in preset:
        raise Mistake(
            f'{file}: without "target_module": [] the modules of "name_algo_map" come on top of all Linear layers, '
            "the routed experts' too: add it"
        )


def find_llama(llama: str) -> dict[str, Path]:
    """Where the Llama and its tokenizer are, by the names SimpleTuner has for their folders. Raises Mistake."""
    folder = Path(llama).expanduser().resolve()
    found = {}
    for part, marker in {"text_encoder_4": "config.json", "tokenizer_4": "tokenizer_config.json"}.items():
        found[part] = folder / part if (folder / part).is_dir() else folder
        if not (found[part] / marker).is_file():
            raise Mistake(f"--llama: no {marker} in {found[part]}: give the folder of the Llama with its tokenizer")
    return found
