"""`kit fix` on scripts of other shapes: what is worked out in float64."""

from __future__ import annotations

import pytest
from situations import Given, check, left, looks, mended

ROPE = "import torch\nMAC = torch.backends.mps.is_available()\ndef rope(x, is_mps=False):\n    {}\n    return d\n"


TRAINS = "import torch\ndef main():\n    for batch in loader:\n        {}\n        accelerator.backward(loss)\n"


def _angles(id: str, line: str, at: int = 4) -> object:
    return looks(id, "float32-rope", at, "a rotary embedding worked out in float64", ROPE.format(line))


DOUBLES = [
    mended(
        "asked right there",
        "float32-rope",
        ROPE.format('d = torch.float32 if x.device.type == "mps" else torch.float64'),
        'd = torch.float32 if x.device.type == \'mps\' or x.device.type in ("npu", "tpu") else torch.float64',
    ),
    mended(
        "of what becomes something else",
        "float32-rope",
        ROPE.format(
            'x = x[0]\n    mac = x.device.type == "mps"\n    d = torch.float32 if mac else torch.float64\n    x = 1'
        ),
        'd = torch.float32 if mac or x.device.type in ("npu", "tpu") else torch.float64',
    ),
    _angles("the other way round", 'd = torch.float64 if x.device.type != "mps" else torch.float32'),
    _angles("beside another", "d = x.to(torch.float64) * y.double()"),
    looks(
        "by default",
        "float32-rope",
        2,
        "a rotary embedding worked out in float64",
        "import torch\ndef rope(x, dtype=torch.float64):\n    return torch.arange(3, dtype=dtype, device=x.device)\n",
    ),
    looks(
        "not of angles, moved with its dtype",
        "float32-rope",
        3,
        "float64 on a device that may have none",
        "import torch\ndef schedule(sigmas, device):\n    return sigmas.to(device, torch.float64)\n",
    ),
    left(
        "an NPU is asked for",
        "float32-rope",
        ROPE.format("d = torch.float32 if x.device.type in ('mps', 'npu') else torch.float64"),
    ),
    left("another choice", "float32-rope", ROPE.format("d = 1 if is_mps else 2")),
    left(
        "around training",
        "float32-rope",
        "import torch\ndef main(x):\n    s = x.double()\n    for each in x:\n        s += each.double()\n"
        "    for batch in x:\n        accelerator.backward(batch)\n",
    ),
    _angles("by its type", "d = x.type(torch.float64)"),
    _angles("by its method", "d = torch.outer(x.double(), x)"),
    looks(
        "by a name of the module's",
        "float32-rope",
        4,
        "a rotary embedding worked out in float64",
        "import torch\nEXACT = torch.float64\ndef rope(x):\n    return torch.arange(3, dtype=EXACT, device=x.device)\n",
    ),
    _angles("asked of a function", "d = torch.float32 if on_mac(x) else torch.float64"),
    _angles("told", "d = torch.float32 if is_mps else torch.float64"),
    _angles("asked in the module", "d = torch.float32 if MAC else torch.float64"),
    _angles("by a branch", 'd = torch.float32\n    if x.device.type != "mps":\n        d = torch.float64', 6),
    _angles(
        "of what is something else by then",
        'mac = x.device.type == "mps"\n    x = x.tolist()\n    d = torch.float32 if mac else torch.float64',
        6,
    ),
    *(
        looks(
            f"not of angles: {line}", "float32-rope", 4, "float64 on a device that may have none", TRAINS.format(line)
        )
        for line in (
            "s = sigmas.to(accelerator.device, torch.float64)",
            "s = torch.zeros(3, device=device, dtype=torch.float64)",
            "s = prediction.double()",
            "s = prediction.to(torch.float64)",
        )
    ),
    *(
        left(f"not on a device: {line}", "float32-rope", TRAINS.format(line))
        for line in (
            "s = loss.cpu().double()",
            "s = torch.zeros(3, dtype=torch.float64)",
            "s = make(3, dtype=torch.float64, device=device)",
            "s = loss.clone().to(accelerator.device)",
            "s = np.double(loss)",
        )
    ),
    left(
        "with others",
        "float32-rope",
        ROPE.format('d = torch.float64\n    if x.device.type in ("mps", "npu"):\n        d = torch.float32'),
    ),
]


@pytest.mark.parametrize("given", DOUBLES)
def test_a_situation(given: Given) -> None:
    check(given)
