"""The part of a tiny Stable Diffusion 1.4 that no class of sd.toml makes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig


def safety_checker(folder: Path) -> None:
    """One that lets every picture through: its thresholds are above any cosine."""
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision |= {"image_size": 30, "patch_size": 6}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=32))
    for thresholds in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        torch.nn.init.constant_(thresholds, 2.0)
    checker.save_pretrained(folder)
