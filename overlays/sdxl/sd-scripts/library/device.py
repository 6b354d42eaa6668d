"""The device to run on, where upstream's scripts know CUDA and the CPU only."""

import contextlib

import torch

with contextlib.suppress(ImportError):
    import torch_npu  # noqa: F401  (registers the device)


def best_device() -> torch.device:
    """An NPU, a GPU or the CPU, whichever is there first."""
    for name in ("npu", "cuda", "xpu"):
        if hasattr(torch, name) and getattr(torch, name).is_available():
            return torch.device(name)
    return torch.device("cpu")
