"""The transforms that upstream's training script makes, on PIL images; torchvision's names and meanings."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy
import torch
from PIL import Image, ImageOps


class InterpolationMode(Enum):
    BILINEAR = Image.Resampling.BILINEAR


def Resize(size: int, interpolation: InterpolationMode) -> Callable[[Image.Image], Image.Image]:
    """The shorter side to ``size`` pixels."""

    def resize(image: Image.Image) -> Image.Image:
        scale = size / min(image.size)
        return image.resize((round(image.width * scale), round(image.height * scale)), interpolation.value)

    return resize


def CenterCrop(size: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageOps.fit(image, (size, size))


class RandomCrop:
    def __init__(self, size: int) -> None:
        self.size = size

    @staticmethod
    def get_params(image: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a crop at random."""
        top, left = (int(torch.randint(0, room + 1, ())) for room in (image.height - size[0], image.width - size[1]))
        return top, left, *size

    def __call__(self, image: Image.Image) -> Image.Image:
        top, left, height, width = self.get_params(image, (self.size, self.size))
        return image.crop((left, top, left + width, top + height))


def RandomHorizontalFlip(p: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageOps.mirror(image) if torch.rand(()) < p else image


def ToTensor() -> Callable[[Image.Image], torch.Tensor]:
    """To [channels, height, width] in 0 to 1."""
    return lambda image: torch.from_numpy(numpy.array(image)).movedim(-1, 0).float() / 255


def Normalize(mean: list[float], std: list[float]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: (tensor - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def Compose(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(image: Any) -> Any:
        for step in steps:
            image = step(image)
        return image

    return run
