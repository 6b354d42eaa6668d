"""`kit fix` on scripts of other shapes: what takes a device."""

from __future__ import annotations

import pytest
from situations import HEAD, MADE, Given, check, left, looks, mended, refused

# A device is given to what takes a device; a branch for CUDA is CUDA's.
DEVICES = [
    mended(
        "safetensors wants a string",
        "device-placement",
        HEAD
        + """\
from safetensors.torch import load_file
def main(path):
    accelerator = Accelerator()
    weights = load_file(path, device="cuda")
""",
        "load_file(path, device=str(accelerator.device))",
    ),
    looks(
        "nobody knows what it takes",
        "device-placement",
        8,
        "something placed on CUDA by name",
        HEAD
        + """\
from whisper_fast import Model
def main(path):
    accelerator = Accelerator()
    return Model("base", device="cuda")
""".replace("    accelerator", "    accelerator"),
    ),
    looks(
        "a card, and more by place",
        "device-placement",
        7,
        "something placed on CUDA by name",
        f"{HEAD}def main(x):\n{MADE}    x.cuda(0, False)\n",
    ),
    left(
        "a branch that only CUDA takes",
        "device-placement",
        HEAD
        + """\
def main(model):
    accelerator = Accelerator()
    if accelerator.device.type == "cuda":
        model.to("cuda")
    elif accelerator.device.type == "npu":
        model.to("npu")
""",
    ),
    left(
        "a cache emptied by kind of device",
        "accelerator-cache",
        """
        import torch
        def empty(device):
            if device.type == "cuda":
                torch.cuda.empty_cache()
            elif device.type == "npu":
                torch.npu.empty_cache()
        """,
    ),
    looks(
        "a map location, and a device with a number",
        "device-placement",
        7,
        "something placed on CUDA by name",
        HEAD
        + """\
def main(path, rank):
    accelerator = Accelerator()
    return torch.load(path, map_location=f"cuda:{rank}")
""",
    ),
    looks(
        "moved to a device with a number",
        "device-placement",
        7,
        "something placed on CUDA by name",
        HEAD
        + """\
def main(model, rank):
    accelerator = Accelerator()
    return model.to(f"cuda:{rank}")
""",
    ),
    left(
        "a call that is only told the word",
        "device-placement",
        HEAD
        + """\
def main(rank):
    accelerator = Accelerator()
    print(f"cuda:{rank}")
""",
    ),
    mended(
        "a map location by name, and cuda(0)",
        "device-placement",
        HEAD
        + """\
def main(path, model):
    accelerator = Accelerator()
    model.cuda(0)
    return torch.load(path, map_location="cuda")
""",
        "    model.to(accelerator.device)\n    return torch.load(path, map_location=accelerator.device)",
    ),
    mended(
        "torch under another name",
        "accelerator-cache",
        "import torch as th\ndef free():\n    th.cuda.empty_cache()\n",
        "    if th.accelerator.is_available():\n        th.get_device_module().empty_cache()",
    ),
    mended(
        "scalers of a class, in a choice, and told CUDA",
        "device-scaler",
        """
        import torch
        from torch.cuda.amp import GradScaler
        class Trainer:
            def __init__(self, device, fp16):
                self.scaler = torch.cuda.amp.GradScaler()
                self.other = GradScaler(enabled=fp16)
        def train(device, fp16):
            scaler = torch.cuda.amp.GradScaler() if fp16 else None
            told = torch.amp.GradScaler("cuda", enabled=fp16)
        """,
        "self.scaler = torch.amp.GradScaler(torch.device(device).type)",
        "self.other = torch.amp.GradScaler(torch.device(device).type, enabled=fp16)",
        "scaler = torch.amp.GradScaler(torch.device(device).type) if fp16 else None",
        "told = torch.amp.GradScaler(torch.device(device).type, enabled=fp16)",
    ),
    left(
        "settings that happen to have the name",
        "pin-memory-guard",
        """
        import torch
        def load(settings, data):
            pin = settings.pin_memory()
            if settings.pin_memory():
                print(pin)
            return torch.utils.data.DataLoader(data, pin_memory=settings.pin_memory())
        """,
    ),
]

DEVICES += [
    mended(
        "moved without waiting",
        "device-placement",
        HEAD
        + """\
def main(x):
    accelerator = Accelerator()
    return x.cuda(non_blocking=True)
""",
        "return x.to(accelerator.device, non_blocking=True)",
    ),
    refused(
        "what is called so is a device",
        "device-placement",
        7,
        "`accelerator` is no Accelerator there",
        HEAD
        + """\
def main(model):
    accelerator = torch.accelerator.current_accelerator()
    model.to("cuda")
""",
    ),
    left(
        "settings further in",
        "pin-memory-guard",
        "import torch\ndef f(cfg):\n    return cfg.data.pin_memory()\n",
    ),
    refused(
        "a pipeline that is handed images",
        "validation-dtype",
        3,
        "handed images (`StableDiffusion3Img2ImgPipeline`)",
        """
        from accelerate import Accelerator
        def log_validation(pipeline, accelerator, given, torch_dtype, is_final_validation=False):
            pipeline = pipeline.to(accelerator.device)
            return pipeline(**given)
        pipeline = StableDiffusion3Img2ImgPipeline.from_pretrained("x")
        """,
    ),
    mended(
        "angles in float64 on a tensor's device",
        "float32-rope",
        """
        import torch
        def get_1d_sincos_pos_embed_from_grid(dim, pos):
            omega = torch.arange(dim // 2, device=pos.device, dtype=torch.float64)
            return omega
        """,
        'dtype=torch.float32 if pos.device.type in ("mps", "npu", "tpu") else torch.float64)',
    ),
    mended(
        "torch under another name",
        "float32-rope",
        """
        import torch as th
        def rope(ids):
            is_mps = ids.device.type == "mps"
            kind = th.float32 if is_mps else th.float64
            other = th.float32 if th.backends.mps.is_available() else th.double
            return th.arange(3, dtype=th.float64, device=ids.device)
        """,
        'kind = th.float32 if is_mps or ids.device.type in ("npu", "tpu") else th.float64',
        'other = th.float32 if str(th.accelerator.current_accelerator()) in ("mps", "npu", "tpu") else th.double',
        'dtype=th.float32 if ids.device.type in ("mps", "npu", "tpu") else th.float64, device=ids.device)',
    ),
    mended(
        "by the helper that upstream has",
        "float32-rope",
        """
        import torch
        from ..utils.torch_utils import maybe_adjust_dtype_for_device
        def rope(pos, dim):
            return torch.arange(0, dim, 2, dtype=torch.float64, device=pos.device)
        """,
        "dtype=maybe_adjust_dtype_for_device(torch.float64, pos.device), device=pos.device)",
    ),
    looks(
        "a rotary embedding whose parts are moved to float64",
        "float32-rope",
        3,
        "a rotary embedding worked out in float64",
        """
        import torch
        def rope(pos):
            return torch.outer(pos, pos).to(torch.float64)
        """,
    ),
    looks(
        "a rotary embedding whose dtype is named",
        "float32-rope",
        3,
        "a rotary embedding worked out in float64",
        """
        import torch
        def rope(pos):
            dtype = wanted = torch.double
            return pos.view(torch.float64)
        """,
    ),
    left(
        "a rotary embedding in float32, and a score in float64",
        "float32-rope",
        """
        import torch
        def rope(pos):
            return torch.outer(pos, pos).to(torch.float32)
        def score(x):
            return torch.outer(x, x).to(torch.float64)
        """,
    ),
    looks(
        "a rotary embedding in float64, nobody knows where",
        "float32-rope",
        3,
        "a rotary embedding worked out in float64",
        """
        import torch
        def rope(pos, dim, device):
            return torch.arange(0, dim, 2, dtype=torch.float64, device=device)
        """,
    ),
    mended(
        "cast alone, and offloaded",
        "validation-cast",
        """
        def log_validation(pipeline, args, torch_dtype):
            pipeline = pipeline.to(dtype=torch_dtype)
            pipeline.enable_model_cpu_offload()
            with torch.autocast("npu"):
                return pipeline()
        """,
        "def log_validation(pipeline, args, torch_dtype):\n    pipeline.enable_model_cpu_offload()",
        gone=("dtype=torch_dtype)",),
    ),
]


DEVICES += [
    left(
        "a cache emptied on either device, by a choice",
        "accelerator-cache",
        "import torch\ntorch.npu.empty_cache() if torch_npu else torch.cuda.empty_cache()\n",
    )
]
DEVICES += [
    left(
        "an object of the script's, pinned in its place",
        "pin-memory-guard",
        "import torch\nclass A:\n    def pin_memory(self):\n        return self\nb = A()\nb = b.pin_memory()\n",
    )
]


@pytest.mark.parametrize("given", DEVICES)
def test_a_situation(given: Given) -> None:
    check(given)
