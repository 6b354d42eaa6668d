"""Compare patched modules with upstream's, number by number.

Errors of a tensor a against b:

- float32: max|a - b| / max|b|, for the output and the gradient of every input and weight; limit 1e-5;
- bfloat16 and autocast: the root-mean-square of a - b over that of b, where b is upstream in float32 on the same
  (bfloat16) weights and inputs. Rounding is a matter of luck, so several draws of weights and inputs are made, and the
  ratio of the patched error to upstream's own, in the geometric mean over the draws, must be at most 1.05 over all of a
  case's tensors and at most 1.5 for each of them. (2e-4, a twentieth of bfloat16's unit 2^-8, is added to both errors,
  for tensors that come out all but exact.)
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn as nn
from peft import LoraConfig, inject_adapter_in_model

FLOAT32_LIMIT = 1e-5
BFLOAT16_MEAN, BFLOAT16_EACH, BFLOAT16_SLACK = 1.05, 1.5, 2e-4
DRAWS = 12


def max_error(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = b.abs().max().item() if b.numel() else 0.0
    return (a - b).abs().max().item() / scale if scale else (a.abs().max().item() if a.numel() else 0.0)


def rms_error(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    scale = b.square().mean().sqrt().item()
    return (a - b).square().mean().sqrt().item() / scale if scale else a.abs().max().item()


def randomise(module: nn.Module) -> nn.Module:
    """Random values in every parameter, norms and LoRA included, at a scale that keeps activations near 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape) * fan_in**-0.5 + (parameter.ndim == 1))
    return module


def run(module: nn.Module, inputs: dict[str, Any], cast: bool = False) -> dict[str, torch.Tensor | None]:
    """Forward and backward once: {name: output or gradient}; a fixed random vector is the loss's gradient."""
    inputs = {
        name: value.detach().clone().requires_grad_(value.requires_grad) if torch.is_tensor(value) else value
        for name, value in inputs.items()
    }
    module.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        outputs = module(**inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(7)
    loss = sum((out.float() * torch.randn(out.shape, generator=generator)).sum() for out in outputs)
    loss.backward()
    found: dict[str, torch.Tensor | None] = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
    found |= {f"grad of input {n}": v.grad for n, v in inputs.items() if torch.is_tensor(v) and v.requires_grad}
    found |= {f"grad of {n}": p.grad for n, p in module.named_parameters() if p.requires_grad}
    return found


Case = tuple[str, Callable[[Any], nn.Module], dict[str, Any], dict[str, Any]]


class Suite:
    """Cases built alike from upstream's module and from the patched one, and the checks on them."""

    def __init__(
        self, reference: types.ModuleType, patched: types.ModuleType, patches: types.ModuleType, rounding: bool = True
    ) -> None:
        self.reference, self.patched, self.patches = reference, patched, patches
        self.rounding = rounding  # whether to compare in bfloat16 and under autocast too
        self.checks: list[dict[str, Any]] = []

    def note(self, name: str, ok: bool, **facts: Any) -> None:
        self.checks.append({"name": name, "ok": bool(ok), **facts})

    def pair(self, build: Callable[[Any], nn.Module], mode: str = "train") -> tuple[nn.Module, nn.Module]:
        """Upstream's module and the patched one, with the same random weights."""
        torch.manual_seed(0)
        ours, theirs = build(self.patched), build(self.reference)
        theirs.load_state_dict(randomise(ours).state_dict())
        return ours.train(mode == "train"), theirs.train(mode == "train")

    def compare(
        self,
        name: str,
        ours: nn.Module,
        theirs: nn.Module,
        inputs: dict[str, Any],
        draws: int = DRAWS,
        mean: float = BFLOAT16_MEAN,
    ) -> None:
        """float32 against upstream; then bfloat16 and autocast against upstream in float32, beside upstream's own."""
        self.float32(name, ours, theirs, inputs)
        ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
        errors: dict[str, dict[str, list[tuple[float, float]]]] = {"autocast": {}, "bfloat16": {}}
        for draw in range(draws if self.rounding else 0):
            torch.manual_seed(draw)
            wide = {n: _redraw(v) if _is_float(n, v) else v for n, v in inputs.items()}
            half = {
                n: v.detach().bfloat16().requires_grad_(v.requires_grad) if _is_float(n, v) else v
                for n, v in wide.items()
            }
            theirs.load_state_dict(randomise(ours.float()).bfloat16().state_dict())
            ours, theirs = ours.float(), theirs.float()
            exact = run(theirs, wide)
            pairs = {"autocast": (run(ours, wide, cast=True), run(theirs, wide, cast=True))}
            ours, theirs = ours.bfloat16(), theirs.bfloat16()
            pairs["bfloat16"] = run(ours, half), run(theirs, half)
            for (how, (a, b)), key in itertools.product(pairs.items(), exact):
                if _kind(a[key]) != _kind(b[key]):
                    self.note(f"{name}, {how}", False, where=f"{key}: {_kind(a[key])}, upstream {_kind(b[key])}")
                    return
                if exact[key] is not None:
                    both = rms_error(a[key], exact[key]), rms_error(b[key], exact[key])
                    errors[how].setdefault(key, []).append(both)
        for how, found in errors.items() if self.rounding else ():
            self.rounded(f"{name}, {how}", found, mean)

    def float32(self, name: str, ours: nn.Module, theirs: nn.Module, inputs: dict[str, Any]) -> None:
        a, b = run(ours, inputs), run(theirs, inputs)
        odd = [key for key in a.keys() | b.keys() if _kind(a.get(key)) != _kind(b.get(key))]
        errors = {key: max_error(a[key], b[key]) for key in b if key not in odd and b[key] is not None}
        where = max(errors, key=errors.__getitem__)
        ok = not odd and errors[where] <= FLOAT32_LIMIT and not any(map(math.isnan, errors.values()))
        self.note(
            name, ok, error=errors[where], limit=FLOAT32_LIMIT, where=where, **({"not_alike": odd} if odd else {})
        )

    def rounded(self, name: str, errors: dict[str, list[tuple[float, float]]], mean_limit: float) -> None:
        """Judge {tensor: (patched error, upstream's error) of each draw}."""
        ratios = {
            key: geometric((ours + BFLOAT16_SLACK) / (own + BFLOAT16_SLACK) for ours, own in pairs)
            for key, pairs in errors.items()
        }
        where, mean = max(ratios, key=ratios.__getitem__), geometric(ratios.values())
        ok = mean <= mean_limit and ratios[where] <= BFLOAT16_EACH
        self.note(name, ok, mean_ratio=mean, worst_ratio=ratios[where], where=where)


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _is_float(name: str, value: Any) -> bool:
    """Whether an input follows the module's dtype: the rotary table stays float32 in every precision."""
    return torch.is_tensor(value) and value.is_floating_point() and name not in ("image_rotary_emb", "ids")


def _kind(value: torch.Tensor | None) -> str:
    return "none" if value is None else str(value.dtype)


def _redraw(value: torch.Tensor) -> torch.Tensor:
    """New random numbers that bfloat16 holds exactly, in place of an input; a mask of zeros and ones stays."""
    return torch.randn(value.shape).bfloat16().float().requires_grad_() if value.requires_grad else value


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def lora(module: nn.Module, targets: list[str]) -> nn.Module:
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False), module)
    return module
