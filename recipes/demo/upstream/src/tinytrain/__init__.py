"""What a training script needs, in the standard library alone."""

import enum
import importlib.util
import json
import os
from pathlib import Path


class DistributedType(enum.Enum):
    NO = "NO"
    DEEPSPEED = "DEEPSPEED"


class Accelerator:
    """One process. TINYTRAIN_DISTRIBUTED=DEEPSPEED makes it behave as one rank of several under DeepSpeed does."""

    def __init__(self):
        self.distributed_type = DistributedType(os.environ.get("TINYTRAIN_DISTRIBUTED", "NO"))
        self.is_main_process = os.environ.get("RANK", "0") == "0"
        self.state = {}
        self._hooks = []

    def print(self, *words):
        if self.is_main_process:
            print(*words, flush=True)

    def register_save_state_pre_hook(self, hook):
        self._hooks.append(hook)

    def save_state(self, folder):
        """Under DeepSpeed the weights are not the hooks' business: they get an empty list."""
        weights = [] if self.distributed_type == DistributedType.DEEPSPEED else [dict(self.state)]
        Path(folder).mkdir(parents=True, exist_ok=True)
        for hook in self._hooks:
            hook([self.state], weights, folder)
        (Path(folder) / "state.json").write_text(json.dumps(self.state))

    def load_state(self, folder):
        self.state.update(json.loads((Path(folder) / "state.json").read_text()))


def predict(state, x):
    return state["slope"] * x + state["offset"]


def ask_hub(name):
    """There is no hub here: every question to it fails, as on a machine without network."""
    raise ConnectionError(f"the hub cannot be reached: {name}/resolve/main/README.md")


def is_wandb_available():
    return importlib.util.find_spec("wandb") is not None
