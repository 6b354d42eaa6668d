"""`kit fix` on scripts of other shapes: LoRA layers, and what accelerate's own class asks of CUDA."""

from __future__ import annotations

import pytest
from situations import Given, check, left, looks

LAYERS = "from diffusers import AttnProcsLayers\ndef main(accelerator, unet, text):\n    {}\n"
GUARD = "import torch\nclass Accelerator:\n    def prepare(self):\n        {}\n"
RAISES = "raise ValueError('fp16 needs a GPU')"
LAYERED = [
    *(
        looks(how, "lora-layers-device", 3, "LoRA layers that are not placed where they are made", LAYERS.format(made))
        for how, made in (
            ("layers of two models", "a, b = AttnProcsLayers(unet.p), AttnProcsLayers(text.p)"),
            ("layers in a list", "layers = [AttnProcsLayers(each.p) for each in (unet, text)]"),
            ("layers for the optimizer alone", "optimizer = AdamW(AttnProcsLayers(unet.p).parameters())"),
            ("layers, or all of it", "layers = AttnProcsLayers(unet.p) if lora else unet"),
            ("layers given back", "return AttnProcsLayers(unet.p)"),
        )
    ),
    left(
        "layers by their module, placed below",
        "lora-layers-device",
        LAYERS.format("a = loaders.AttnProcsLayers(unet.p)\n    a.to(accelerator.device)"),
    ),
    left(
        "layers in a list, placed", "lora-layers-device", LAYERS.format("a = [AttnProcsLayers(u.p).to(d) for u in us]")
    ),
    left(
        "layers whose weights alone are taken",
        "lora-layers-device",
        LAYERS.format("accelerator.model.load_state_dict(AttnProcsLayers(unet.p).state_dict())"),
    ),
    *(
        looks(how, "fp16-guard", 4, "fp16 refused where there is no CUDA", GUARD.format(made))
        for how, made in (
            ("asserted", "assert torch.cuda.is_available(), 'fp16 needs a GPU'"),
            (
                "in an else",
                "if torch.cuda.is_available():\n            pass\n        else:\n            log(1)\n"
                f"            {RAISES}",
            ),
            ("or on the CPU", f"if not torch.cuda.is_available() or self.cpu:\n            {RAISES}"),
            ("of a list", f"if self.state.device.type not in KINDS:\n            {RAISES}"),
        )
    ),
    left("another dtype", "fp16-guard", GUARD.format("assert torch.cuda.is_available(), 'bf16 needs a GPU'")),
]
OWN = "import torch\nclass Accelerator:\n    def prepare(self, kwargs):\n        {}\n"
SCALERS = [
    *(
        looks(f"accelerate's own, {how}", "grad-scaler", 4, "a gradient scaler of CUDA alone", OWN.format(made))
        for how, made in (
            ("kept twice", "self.scaler = scaler = torch.cuda.amp.GradScaler(**kwargs)"),
            ("kept first", 'scaler = torch.amp.GradScaler("cuda", **kwargs)\n        self.scaler = scaler'),
            ("with more", "self.scaler = torch.cuda.amp.GradScaler(init_scale=2.0, **kwargs)"),
        )
    ),
    left("accelerate's own, of any device", "grad-scaler", OWN.format("self.scaler = torch.amp.GradScaler(self.kind)")),
    left("MS-AMP's", "grad-scaler", OWN.format("if fp8:\n            self.scaler = torch.cuda.amp.GradScaler()")),
    left(
        "accelerate's own, for CUDA",
        "grad-scaler",
        OWN.format('if self.device.type == "cuda":\n            a = b = torch.cuda.amp.GradScaler(**kwargs)'),
    ),
]


@pytest.mark.parametrize("given", [*LAYERED, *SCALERS])
def test_a_situation(given: Given) -> None:
    check(given)
