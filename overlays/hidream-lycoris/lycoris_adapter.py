"""LyCORIS adapters (LoKr and others) for HiDream in diffusers, with SimpleTuner's configurations and files.

Training: the training script calls `use_lycoris` where it would add a LoRA (`--lycoris_config FILE`). Inference: run
the LoRA script through this file, which makes it load LyCORIS files:

    python lycoris_adapter.py infer_hidream_text2img_lora_bf16.py --lora=OUTPUT_DIR …

A file trained here is drawn with by SimpleTuner, one of SimpleTuner's is drawn with here, and both go on training in
either. The routed experts train here too where the configuration names them: diffusers' script loads the transformer so
that their outputs carry no gradient (`force_inference_output`), which `use_lycoris` takes back.
"""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

WEIGHTS = "pytorch_lora_weights.safetensors"
CONFIG = "lycoris_config.json"
STATE = "lycoris_parameters.safetensors"  # what a checkpoint is gone on from: the scalar is not multiplied in
CLASSES = {"Attention": "HiDreamAttention", "FeedForward": "HiDreamImageFeedForwardSwiGLU"}  # SimpleTuner's, diffusers'


def read_config(file: str) -> dict[str, Any]:
    """A LyCORIS configuration, its classes by diffusers' names. Raises ValueError with file and line."""
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--lycoris_config: {file}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"--lycoris_config: {file}:{error.lineno}: not JSON: {error.msg}") from None
    preset = config.setdefault("apply_preset", {})
    if preset.get("name_algo_map") and "target_module" not in preset:
        preset["target_module"] = []  # else all Linear layers are added to the modules named
    preset["target_module"] = [CLASSES.get(name, name) for name in preset.get("target_module", [])]
    preset["module_algo_map"] = {
        CLASSES.get(name, name): part for name, part in preset.get("module_algo_map", {}).items()
    }
    return config


def use_lycoris(transformer: Any, config_file: str, script: dict[str, Any]) -> Any:
    """Train the adapter of ``config_file`` in ``transformer``; ``script`` are the training script's globals, where the
    functions that save and load a LoRA are replaced by ones for this. Returns the network.

    Raises ValueError for a configuration that is no JSON, or that names no module of the transformer.
    """
    import torch
    from lycoris import LycorisNetwork, create_lycoris
    from safetensors.torch import load_file, save_file

    config = read_config(config_file)
    LycorisNetwork.apply_preset(config.pop("apply_preset"))
    multiplier = config.pop("multiplier", 1.0)
    network = create_lycoris(transformer, multiplier, **config)
    if not network.loras:
        raise ValueError(f"--lycoris_config: {config_file}: it names no module of {type(transformer).__name__}")
    network.apply_to()
    device = next(transformer.parameters()).device
    transformer.lycoris = network.to(device, torch.float32)  # moved, wrapped and optimised with the transformer
    if any("_experts_" in lora.lora_name and "shared" not in lora.lora_name for lora in network.loras):
        for module in transformer.modules():
            if hasattr(module, "_force_inference_output"):
                module._force_inference_output = False

    # LyCORIS multiplies the scalar into what a state dict holds, and sets it to 1 when it loads one. DeepSpeed saves,
    # and loads, the model by state dicts: there the parameters are as they are, detached from what cannot be saved.
    exact: dict[str, torch.Tensor] = {}

    def keep(module: Any, tensors: dict[str, torch.Tensor], prefix: str, metadata: Any) -> None:
        tensors.update({f"{prefix}{name}": each.detach() for name, each in network.named_parameters()})

    def find(module: Any, tensors: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
        found = {name: tensors.get(f"{prefix}{name}") for name, _ in network.named_parameters()}
        exact.clear()
        exact.update({} if None in found.values() else found)

    def restore(module: Any, incompatible: Any) -> None:
        for name, parameter in network.named_parameters():
            if name in exact:
                parameter.data.copy_(exact[name])
        exact.clear()

    network.register_state_dict_post_hook(keep)
    network.register_load_state_dict_pre_hook(find)
    network.register_load_state_dict_post_hook(restore)

    def state(model: Any) -> dict[str, torch.Tensor]:
        """The adapter's tensors, each with the scalar multiplied in."""
        parts = [(lora.lora_name, lora.state_dict()) for lora in network.loras]
        return {
            f"{name}.{key}": value.detach().contiguous().cpu() for name, part in parts for key, value in part.items()
        }

    def save(directory: Any = None, transformer_lora_layers: Any = None, save_directory: Any = None, **_: Any) -> None:
        folder = Path(directory or save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(transformer_lora_layers, folder / WEIGHTS)
        save_file({name: each.detach().cpu() for name, each in network.named_parameters()}, folder / STATE)
        shutil.copyfile(config_file, folder / CONFIG)

    def read(folder: str, **_: Any) -> dict[str, torch.Tensor]:
        """The training's own file, or, from SimpleTuner, the adapter's."""
        file = Path(folder) / STATE
        tensors = load_file(file if file.is_file() else Path(folder) / WEIGHTS)
        return {f"transformer.{key}": value for key, value in tensors.items()}

    def load(model: Any, tensors: dict[str, torch.Tensor], **_: Any) -> None:
        """Into the network that is trained: the parameters as they were, or, of SimpleTuner's file, a scalar of 1."""
        network.load_state_dict(tensors, strict=False)

    pipeline = script["HiDreamImagePipeline"]
    pipeline.save_lora_weights = save
    pipeline.lora_state_dict = read
    pipeline.load_lora_weights = load_lycoris
    script["get_peft_model_state_dict"] = state
    script["convert_unet_state_dict_to_peft"] = dict
    script["set_peft_model_state_dict"] = load
    print(f"LyCORIS: {len(network.loras)} modules of {type(transformer).__name__}")
    return network


def load_lycoris(pipeline: Any, folder: str, weight_name: str | None = None, **_: Any) -> None:
    """Merge a LyCORIS file into the pipeline's transformer, in place of HiDreamImagePipeline.load_lora_weights.

    Raises ValueError where a module of the file is none of the transformer's.
    """
    from lycoris import create_lycoris_from_weights

    file = Path(folder) / (weight_name or WEIGHTS)
    network, weights = create_lycoris_from_weights(1.0, str(file), pipeline.transformer)
    named = {key.partition(".")[0] for key in weights}
    if len(network.loras) < len(named) or not named:
        what = f"{len(network.loras)} of its {len(named)} modules fit {type(pipeline.transformer).__name__}"
        raise ValueError(f"{file}: {what}: is it a LyCORIS file for HiDream?")
    network.merge_to()
    print(f"merged {len(network.loras)} modules of {file}")


if __name__ == "__main__":
    from diffusers import HiDreamImagePipeline

    HiDreamImagePipeline.load_lora_weights = load_lycoris
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
