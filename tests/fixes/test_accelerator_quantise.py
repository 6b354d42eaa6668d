"""accelerator-quantise: before and after, and what it refuses."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "accelerator-quantise"

APPLIED = [
    case(
        "an elif",
        """
        import torch

        def quantise(quantize_via):
            if quantize_via == "cpu":
                quantization_device = "cpu"
            elif quantize_via == "accelerator" and torch.cuda.is_available():
                # fast
                quantization_device = "cuda"
                return_device = None
            else:
                quantization_device = None
        """,
        """
        import torch

        def quantise(quantize_via):
            if quantize_via == "cpu":
                quantization_device = "cpu"
            elif quantize_via == "accelerator" and torch.accelerator.is_available():
                # fast
                quantization_device = torch.accelerator.current_accelerator().type
                return_device = None
            else:
                quantization_device = None
        """,
    ),
    case(
        "an if",
        """
        import torch
        quantize_via = "accelerator"
        if torch.cuda.is_available():
            quantization_device = "cuda"
        """,
        """
        import torch
        quantize_via = "accelerator"
        if torch.accelerator.is_available():
            quantization_device = torch.accelerator.current_accelerator().type
        """,
    ),
]

REFUSED = [
    satisfied(
        "any",
        "if quantize_via and torch.accelerator.is_available():\n"
        "    quantization_device = torch.accelerator.current_accelerator().type\n",
    ),
    gone("other devices", "if torch.cuda.is_available():\n    device = 'cuda'\n"),
    conflict(
        "no way to choose",
        "`quantize_via` is not bound",
        2,
        "import torch\nif torch.cuda.is_available():\n    quantization_device = 'cuda'\n",
    ),
    conflict(
        "on one line",
        "does not have the effect it wants",
        3,
        "import torch\nquantize_via = ''\nif torch.cuda.is_available(): quantization_device = 'cuda'\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
