"""Are SimpleTuner's LyCORIS files and diffusers' the same? python compare_lokr.py MODEL CONFIG...

Runs in the reference environment of hidream-lokr, with lycoris_adapter.py on the path. For each configuration: a
network made as SimpleTuner makes it, with random weights, saved; read by what lycoris_adapter puts into diffusers'
script, saved again; merged into the transformers of both. Prints one JSON object: for each configuration how many
modules there are, whether both files hold the same tensors, how many tensors of the transformer a merge changed, and
the largest difference between the two transformers afterwards.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import HiDreamImagePipeline
from diffusers import HiDreamImageTransformer2DModel as Diffusers
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from lycoris_adapter import WEIGHTS, load_lycoris, use_lycoris
from safetensors.torch import load_file, save_file
from simpletuner.helpers.models.hidream.transformer import HiDreamImageTransformer2DModel as SimpleTuner


def transformer(kind: Any, model: str) -> Any:
    return kind.from_pretrained(model, subfolder="transformer", torch_dtype=torch.float32)


def simpletuners(model: str, config_file: str, file: Path) -> int:
    """Write a file as SimpleTuner's training does (trainer.py, init_trainable_peft_adapter), every tensor random."""
    config = json.loads(Path(config_file).read_text("utf-8"))
    LycorisNetwork.apply_preset(config.pop("apply_preset"))
    network = create_lycoris(transformer(SimpleTuner, model), config.pop("multiplier"), **config)
    network.apply_to()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.data, std=0.1)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return len(network.loras)


def compare(model: str, config_file: str, folder: Path) -> dict[str, Any]:
    first, second = folder / "simpletuner" / WEIGHTS, folder / "diffusers" / WEIGHTS
    first.parent.mkdir()
    count = simpletuners(model, config_file, first)
    script = {"HiDreamImagePipeline": type("Pipeline", (HiDreamImagePipeline,), {})}
    trained = transformer(Diffusers, model)
    use_lycoris(trained, config_file, script)
    read = script["HiDreamImagePipeline"].lora_state_dict(str(first.parent))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in read.items()}
    script["set_peft_model_state_dict"](trained, tensors, adapter_name="default")
    state = script["get_peft_model_state_dict"](trained)
    script["HiDreamImagePipeline"].save_lora_weights(str(second.parent), transformer_lora_layers=state)
    one, other = load_file(first), load_file(second)
    same = one.keys() == other.keys() and all(torch.allclose(one[name], other[name]) for name in one)

    ours, theirs = transformer(Diffusers, model), transformer(SimpleTuner, model)
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    load_lycoris(SimpleNamespace(transformer=ours), str(first.parent))
    network, _ = create_lycoris_from_weights(1.0, str(second), theirs)
    network.merge_to()
    after, others = ours.state_dict(), theirs.state_dict()
    changed = sum(not torch.equal(before[name], others[name]) for name in before)
    difference = max(float((after[name] - others[name]).abs().max()) for name in before)
    return {"modules": count, "same": same, "changed": changed, "difference": difference}


if __name__ == "__main__":
    found = {}
    for config in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as name:
            found[Path(config).stem] = compare(sys.argv[1], config, Path(name))
    print(json.dumps(found))
