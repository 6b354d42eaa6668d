"""`kit fix` on scripts of other shapes: autocast that is switched off, and the package that registers a device."""

from __future__ import annotations

import pytest
from situations import Given, check, left, looks

AUTOCAST = [
    looks(
        "autocast switched off around what nobody knows",
        "autocast-device",
        3,
        "autocast switched off on CUDA alone",
        """
        import torch
        def f(n):
            with torch.autocast("cuda", enabled=False):
                g(n)
        """,
    ),
    left(
        "autocast on a device that is handed in, and switched on",
        "autocast-device",
        """
        import torch
        @torch.compile
        @torch.no_grad()
        @torch.autocast("cuda")
        def f(n, device):
            with torch.autocast(device, enabled=False):
                g(n)
        """,
    ),
    left(
        "autocast switched off with an Accelerator, which says where",
        "autocast-device",
        """
        import torch
        from accelerate import Accelerator
        @torch.autocast("cuda", enabled=False)
        def f(n):
            return g(n)
        """,
    ),
    looks(
        "autocast switched off by a decorator",
        "autocast-device",
        4,
        "autocast switched off on CUDA alone",
        """
        import torch
        class Rope(torch.nn.Module):
            @torch.amp.autocast("cuda", enabled=False)
            def forward(self, x):
                return x.float()
        """,
    ),
    left(
        "CUDA's own, as it is set",
        "autocast-device",
        "import torch\ndef f(x):\n    with torch.cuda.amp.autocast(AMP), torch.cuda.amp.autocast(enabled=fp16):\n"
        "        return x.float()\n",
    ),
    looks(
        "CUDA's own",
        "autocast-device",
        4,
        "autocast switched off on CUDA alone",
        "import torch\nfrom torch.cuda.amp import autocast\ndef f(x):\n    with autocast(enabled=False):\n"
        "        return x.float()\n",
    ),
    *(
        looks(
            f"in float32: {autocast}",
            "autocast-device",
            3,
            "autocast switched off on CUDA alone",
            f"import torch\ndef f(x):\n    with {autocast}dtype=torch.float32):\n        return x.float()\n",
        )
        for autocast in ("torch.cuda.amp.autocast(", "torch.autocast('cuda', ")
    ),
    left(
        "in float32, elsewhere",
        "autocast-device",
        "import torch\ndef f(x):\n    with torch.autocast('npu', dtype=torch.float32):\n        return x.float()\n",
    ),
]


def _package(id: str, at: int, text: str) -> object:
    return looks(id, "device-package", at, "does not import the device's package", text)


MAIN = 'if __name__ == "__main__":\n    main()\n'
PACKAGE = [
    _package("a part of torch alone", 1, f"from torch import nn\n{MAIN}"),
    _package("tried", 2, f"try:\n    import torch\nexcept ImportError:\n    raise SystemExit(1)\n{MAIN}"),
    _package("in a function", 2, f"def main():\n    import torch\n{MAIN}"),
    left("its package", "device-package", f"from torch import nn\nimport torch_npu\n{MAIN}"),
    left("accelerate does", "device-package", f"from torch import nn\nfrom accelerate import Accelerator\n{MAIN}"),
]


@pytest.mark.parametrize("given", [*AUTOCAST, *PACKAGE])
def test_a_situation(given: Given) -> None:
    check(given)
