"""lora-layers-device: place the LoRA layers on the device where they are made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fixing import case, conflict, gone, run, satisfied, tables, unlike

from kit.codemod import Outcome

NAME = "lora-layers-device"

APPLIED = [
    case(
        "in the training script",
        """
        def main(unet, accelerator, optim):
            lora_layers = AttnProcsLayers(unet.attn_processors)

            optimizer = optim(lora_layers.parameters())
            return accelerator.prepare(lora_layers), optimizer
        """,
        """
        def main(unet, accelerator, optim):
            lora_layers = AttnProcsLayers(unet.attn_processors).to(accelerator.device)

            optimizer = optim(lora_layers.parameters())
            return accelerator.prepare(lora_layers), optimizer
        """,
    ),
    unlike(
        "by another name",
        "from diffusers.loaders import AttnProcsLayers as Layers\ndef main(accelerator):\n    a = Layers(x)\n",
        "from diffusers.loaders import AttnProcsLayers as Layers\n"
        "def main(accelerator):\n    a = Layers(x).to(accelerator.device)\n",
    ),
    case(
        "two of them, with a comment, over several lines",
        """
        def main(accelerator):
            unet_layers = AttnProcsLayers( unet.attn_processors )  # of the UNet
            text_layers = AttnProcsLayers(
                # of the text encoder
                text_encoder.attn_processors
            )
        """,
        """
        def main(accelerator):
            unet_layers = AttnProcsLayers( unet.attn_processors ).to(accelerator.device)  # of the UNet
            text_layers = AttnProcsLayers(
                # of the text encoder
                text_encoder.attn_processors
            ).to(accelerator.device)
        """,
        count=2,
    ),
    case(
        "what had its name was placed",
        "def f(accelerator, net):\n    net.to(accelerator.device)\n    net = AttnProcsLayers(net.p)\n",
        "def f(accelerator, net):\n    net.to(accelerator.device)\n"
        "    net = AttnProcsLayers(net.p).to(accelerator.device)\n",
    ),
    case(
        "annotated",
        "def f(accelerator):\n    a: Layers = AttnProcsLayers(b)\n",
        "def f(accelerator):\n    a: Layers = AttnProcsLayers(b).to(accelerator.device)\n",
    ),
]

REFUSED = [
    satisfied("placed", "def f(accelerator):\n    a = AttnProcsLayers(b).to( accelerator.device )\n"),
    *(
        satisfied(f"placed so: {place}", f"def f(accelerator):\n    a = AttnProcsLayers(b){place}\n")
        for place in (
            ".to(accelerator.device, dtype=torch.float32)",
            ".to(device=device)",
            "\n    a.requires_grad_(True)\n    a.to(accelerator.device)\n    o = AdamW(a.parameters())",
            "\n    return a.to(device)",
        )
    ),
    satisfied("placed by its other name", "self.a = a = AttnProcsLayers(a.processors())\na.to(device)\n"),
    gone("none are made", "from diffusers.loaders import AttnProcsLayers\na = Layers(b)\n"),
    gone("they are not kept", "AttnProcsLayers(b)\n"),
    conflict("no accelerator", "`accelerator` is not bound", 2, "def f(b):\n    a = AttnProcsLayers(b)\n"),
    conflict(
        "no device is named",
        "it calls `.to(…)` on what it makes: put `.to(accelerator.device)` before that",
        2,
        "def f(accelerator):\n    a = AttnProcsLayers(b).to(d)\n",
    ),
    conflict(
        "another method",
        "it calls `.eval(…)` on what it makes: put `.to(accelerator.device)` before that",
        2,
        "def f(accelerator):\n    a = AttnProcsLayers(b).eval()\n",
    ),
    conflict(
        "two where one is expected",
        "found 2 (lines 2, 3)",
        2,
        "def f(accelerator):\n    a = AttnProcsLayers(b)\n    c = AttnProcsLayers(d)\n",
    ),
    conflict(
        "the accelerator comes later",
        "`self.accelerator` is not bound there",
        4,
        "from accelerate import Accelerator\nclass T:\n    def __init__(self, b):\n"
        "        self.a = AttnProcsLayers(b)\n        self.accelerator = Accelerator()\n",
    ),
    conflict(
        "behind a semicolon",
        "several statements share the line",
        2,
        "def f(accelerator):\n    a = 1; c = AttnProcsLayers(d)\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


class Layers:
    """Layers whose move replaces their parameters."""

    def __init__(self, _: Any) -> None:
        self.values = [object()]
        self.device = "cpu"

    def parameters(self) -> list[object]:
        return list(self.values)

    def to(self, device: str) -> Layers:
        if device != self.device:
            self.values, self.device = [object()], device
        return self


def test_the_optimizer_has_the_layers_parameters_after_and_not_before() -> None:
    given = APPLIED[0].values[0]
    accelerator = SimpleNamespace(device="tpu:0", prepare=lambda layers: layers.to("tpu:0"))
    for text, right in ((given.before, False), (given.after, True)):
        main = run(text, AttnProcsLayers=Layers)["main"]
        layers, optimizer = main(SimpleNamespace(attn_processors={}), accelerator, list)
        assert (layers.parameters() == optimizer) is right


def test_outcomes_are_told_apart() -> None:
    assert {param.values[0].outcome for param in REFUSED} == {Outcome.satisfied, Outcome.gone, Outcome.conflict}
