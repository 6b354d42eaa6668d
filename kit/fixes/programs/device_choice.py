"""Let kohya's image generation run on an NPU."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "generate images on the device there is"
WHY = """\
The script knows CUDA and the CPU: on an NPU it draws on the CPU, minutes an image, or fails for want of CUDA."""
LINKS = ()
NEEDS = ("torch",)


def _row(scope: str, name: str, old: str) -> Put:
    code = f"from library.device import best_device\n\n{name} = best_device()"
    return Put(scope, f"{name} = {old}", code, how="replace", to=f"{name} = {old}")


sites, edits = table(
    _row("main", "device", "torch.device('cuda' if torch.cuda.is_available() else 'cpu')"),
    _row("", "DEVICE", "'cuda'"),
)
