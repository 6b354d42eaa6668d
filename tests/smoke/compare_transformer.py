"""Compare transformer_patches.py with diffusers' own HiDream modules, number by number, and print one JSON object.

    python compare_transformer.py path/to/transformer_patches.py [--branch cpu|npu|grouped] [--mutants]

Runs in an environment with torch, peft and the prepared diffusers. Upstream's source is imported a second time under
another name before anything is patched, so patched and upstream modules run side by side, on the same weights, inputs
and routing. Errors of a tensor a against b:

- float32: max|a - b| / max|b|, for the output and the gradient of every input and weight; limit 1e-5;
- bfloat16 and autocast: the root-mean-square of a - b over that of b, where b is upstream in float32 on the same
  (bfloat16) weights and inputs. Rounding is a matter of luck, so several draws of weights and inputs are made, and the
  ratio of the patched error to upstream's own, in the geometric mean over the draws, must be at most 1.05 over all of a
  case's tensors and at most 1.5 for each of them. (2e-4, a twentieth of bfloat16's unit 2^-8, is added to both errors,
  for tensors that come out all but exact.)

--branch npu takes the NPU branch on CPU tensors, with the kernels of kit's stand-in; --branch grouped the experts'
grouped product, PyTorch's own where it has the public one, else one that asks for what PyTorch's asks for. --mutants
also breaks the file in small ways, one at a time, and lists the first checks that notice.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import itertools
import json
import math
import statistics
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model

FLOAT32_LIMIT = 1e-5
BFLOAT16_MEAN, BFLOAT16_EACH, BFLOAT16_SLACK = 1.05, 1.5, 2e-4
DRAWS = 12
WIDTH, HEADS, BATCH, IMAGE, TEXT, EXPERTS = 64, 4, 2, 30, 13, 4
NAME = "diffusers.models.transformers.transformer_hidream_image"

KERNELS = Path(__file__).resolve().parents[2] / "kit" / "smoke" / "standins" / "torch_npu" / "_kernels.py"

# what to break -> (text in transformer_patches.py, text in its place)
MUTANTS = {
    "rotation turned backwards": ("torch.complex(cos, sin)", "torch.complex(cos, -sin)"),
    "gradient rotated forwards": ("_spin_(grad, spin.conj())", "_spin_(grad, spin)"),
    "gradient rotated forwards, behind a hook": ("(table.mT if back else table)", "table"),
    "rotation keeps its input": ("else _Rotate.apply(joined, table)", "else _turn(joined, table)"),
    "angles made for each layer": ('if not hasattr(table, "_angles")', "if True"),
    "no epsilon in the norm": (".add_(eps).rsqrt_()", ".rsqrt_()"),
    "norm gradient without its projection": (".addcmul_(wide, slope)", ""),
    "norm weight gradient unscaled": ("(grad * wide).mul_(scale).sum((0, 1))", "(grad * wide).sum((0, 1))"),
    "key mask dropped": ("key = key * F.pad(hidden_states_masks, (0, text), value=1)[:, :, None, None]", "key = key"),
    "text masked": ("(0, text), value=1)", "(0, text), value=0)"),
    "text before image": ("_join(values)", "_join(values[::-1])"),
    "tokens left sorted": ("out.index_select(0, place)", "out.index_select(0, order)"),
    "routing weight ignored": ("chosen * weight.unsqueeze(-1)", "chosen * weight.unsqueeze(-1).detach()"),
    "shared experts left out": ("y.view(x.shape) + self.shared_experts(x)", "y.view(x.shape)"),
    "norm rounded once more": ("(x * scale)", "(x * scale.to(x.dtype).to(scale.dtype))"),
    "weighted sum in the experts' dtype": (".unflatten(0, (tokens, k)).to(dtype)", ".unflatten(0, (tokens, k))"),
    "gradients in inference": ("set_grad_enabled(training and torch.is_grad_enabled())", "enable_grad()"),
    "idle expert without gradient": ("if training or part.shape[0]", "if part.shape[0]"),
}
NPU_MUTANTS = {
    "attention unscaled": ("scale=dim**-0.5, ", ""),
    "another epsilon": (", epsilon=norm.eps", ""),
    "sine negated": ("table._angles = cos, sin, -sin", "table._angles = cos, -sin, sin"),
    "gradient rotated forwards": ("sines[back]", "sines[0]"),
    "groups where gradients are recorded": ("if torch.is_grad_enabled() or rows.dtype", "if rows.dtype"),
}
GROUPED_MUTANTS = {
    "gate and up exchanged": (
        'product(rows, "w1")).mul_(product(rows, "w3")',
        'product(rows, "w3")).mul_(product(rows, "w1")',
    ),
    "groups around LoRA layers": ("_is_plain(x, nn.Linear) and x.weight", "x.weight"),
    "sizes for ends": ("sizes.cumsum(0, dtype=torch.int32)", "sizes.int()"),
    "neighbours taken for granted": ("if len(places) == 1 and all(", "if all("),
    "weights copied at each call": ("            weight.data = part", "            pass"),
    "slices of another tensor moved": (
        "if all(weight.untyped_storage().nbytes() == weight.nbytes for weight in weights)",
        "if True",
    ),
}
BRANCHES = {"cpu": MUTANTS, "npu": NPU_MUTANTS, "grouped": GROUPED_MUTANTS}


def load(name: str, source: str, origin: str, package: str = "") -> types.ModuleType:
    """A module of its own from source text."""
    module = types.ModuleType(name)
    module.__file__, module.__package__ = origin, package
    sys.modules[name] = module
    exec(compile(source, origin, "exec"), module.__dict__)
    return module


def stand_in(kernels: Counter[str]) -> None:
    """Make `import torch_npu` give the kernels of kit's stand-in, for CPU tensors, and count their calls by name."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            kernels[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    package = types.ModuleType("kit_standin")
    package.counted = counted  # type: ignore[attr-defined]
    sys.modules["kit_standin"] = package
    module = load("torch_npu", KERNELS.read_text(), str(KERNELS))
    module._on_one_device = lambda name, **tensors: None


def grouped_mm(kernels: Counter[str]) -> Callable[..., torch.Tensor]:
    """torch.nn.functional.grouped_mm for CPU tensors, which counts its calls: PyTorch's own, or, in a version that has
    none, rows [tokens, k] of all groups by weights [groups, k, n], the form that is used, with what PyTorch 2.13 asks
    of dtypes and strides (_meta_registrations.py, _meta_grouped_mm_common)."""
    own = getattr(F, "grouped_mm", None)

    def call(rows: torch.Tensor, weights: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:
        kernels["grouped_mm"] += 1
        if own is not None:
            return own(rows, weights, offs=offs)
        strides = rows.stride(0), *sorted(weights.stride())[1:]
        if rows.dtype != torch.bfloat16 or weights.dtype != torch.bfloat16 or offs.dtype != torch.int32:
            raise RuntimeError("grouped_mm: bfloat16 operands and int32 offsets")
        if rows.stride(1) != 1 or min(weights.stride()) != 1 or any(stride % 8 for stride in strides):
            raise RuntimeError(
                f"grouped_mm: strides {rows.stride()} and {weights.stride()} are no multiples of 16 bytes"
            )
        parts = rows.tensor_split(offs.tolist()[:-1])
        return torch.cat([part @ weight for part, weight in zip(parts, weights, strict=True)])

    return call


def max_error(a: torch.Tensor, b: torch.Tensor) -> float:
    scale = b.abs().max().item() if b.numel() else 0.0
    return (a - b).abs().max().item() / scale if scale else (a.abs().max().item() if a.numel() else 0.0)


def rms_error(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    scale = b.square().mean().sqrt().item()
    return (a - b).square().mean().sqrt().item() / scale if scale else a.abs().max().item()


class FixedGate(nn.Module):
    """Upstream's gate with its choice of experts given: rounding cannot flip a token to another expert."""

    def __init__(self, weight: torch.Tensor, choice: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.choice = choice

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        scores = F.linear(x.reshape(-1, x.shape[-1]), self.weight).softmax(-1)
        return self.choice, scores.gather(1, self.choice), None


def choose(tokens: int, k: int, experts: list[int]) -> torch.Tensor:
    """[tokens, k] numbers of distinct experts out of `experts`, at random."""
    return torch.tensor(experts)[torch.rand(tokens, len(experts)).topk(k).indices]


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


def ids(image: int = IMAGE, text: int = TEXT) -> torch.Tensor:
    """Positions as upstream makes them, image tokens in rows, then text at the origin; the second image elsewhere."""
    positions = torch.zeros(BATCH, image + text, 3)
    positions[:, :image, 1] = torch.arange(image) // 6
    positions[:, :image, 2] = torch.arange(image) % 6
    positions[1, :image, 2] += 40
    return positions


def lora(module: nn.Module, targets: list[str]) -> nn.Module:
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False), module)
    return module


def check_rotary(suite: Suite) -> None:
    table = suite.reference.HiDreamImageEmbedND(10000, (8, 4, 4))(ids())
    suite.note("angles are made once a table", suite.patches._angles(table)[0] is suite.patches._angles(table)[0])
    query, key = torch.randn(2, BATCH, IMAGE + TEXT, HEADS, 16)
    for x, want in zip((query, key), suite.reference.apply_rope(query, key, table), strict=True):
        error = max_error(suite.patches._turn(x, table), want)
        suite.note("rotation", error <= FLOAT32_LIMIT, error=error)
    kept: list[torch.Tensor] = []
    x = leaf(BATCH, IMAGE + TEXT, WIDTH).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        suite.patches.norm_rotate([(x, nn.Identity())], table, HEADS, torch.bfloat16)
    suite.note("rotation keeps no input for backward", not kept, kept=[str(tensor.dtype) for tensor in kept])


def check_attention(suite: Suite) -> None:
    for single, masked, half in itertools.product((True, False), (False, True), (False, True)):
        ours, theirs = suite.pair(_attention(single))
        tokens = IMAGE + TEXT if single else IMAGE
        table = suite.reference.HiDreamImageEmbedND(10000, (4, 2, 2) if half else (8, 4, 4))
        inputs = {"norm_hidden_states": leaf(BATCH, tokens, WIDTH), "image_rotary_emb": table(ids())}
        if not single:
            inputs["norm_encoder_hidden_states"] = leaf(BATCH, TEXT, WIDTH)
        if masked:
            inputs["hidden_states_masks"] = (torch.arange(tokens) < tokens - 7).float().repeat(BATCH, 1)
        name = f"attention, {'single' if single else 'double'}{', mask' * masked}{', half table' * half}"
        suite.compare(name, ours, theirs, inputs)

    ours, theirs = suite.pair(lambda m: lora(_attention(False)(m), ["to_q", "to_k", "to_v", "to_out", "to_q_t"]))
    inputs = {
        "norm_hidden_states": leaf(BATCH, IMAGE, WIDTH),
        "norm_encoder_hidden_states": leaf(BATCH, TEXT, WIDTH),
        "image_rotary_emb": suite.reference.HiDreamImageEmbedND(10000, (8, 4, 4))(ids()),
    }
    suite.compare("attention, LoRA", ours, theirs, inputs)
    ours, theirs = suite.pair(_attention(False))
    for parameter in (
        p for module in (ours, theirs) for n, p in module.named_parameters() if n[:4] in ("to_q", "to_k")
    ):
        parameter.data *= 1e-3
    suite.float32("attention, epsilon matters", ours, theirs, inputs)
    inputs["image_rotary_emb"] = inputs["image_rotary_emb"].requires_grad_()
    ours, theirs = suite.pair(_attention(False))
    suite.float32("attention, gradient of the table", ours, theirs, inputs)
    inputs["image_rotary_emb"] = inputs["image_rotary_emb"].detach()
    seen = []
    ours.q_rms_norm.register_forward_hook(lambda *_: seen.append(1))
    suite.float32("attention, hook on the norm", ours, theirs, inputs)
    suite.note("attention, hook on the norm runs", len(seen) == 1)


def _attention(single: bool) -> Callable[[Any], nn.Module]:
    return lambda m: m.HiDreamAttention(WIDTH, HEADS, WIDTH // HEADS, processor=m.HiDreamAttnProcessor(), single=single)


def check_experts(suite: Suite) -> None:
    def moe(m: Any, k: int = 2, force: bool = False) -> nn.Module:
        return m.MOEFeedForwardSwiGLU(WIDTH, 2 * WIDTH, EXPERTS, k, _force_inference_output=force)

    tokens = BATCH * IMAGE
    alone = choose(tokens, 2, [0, 3])
    alone[17, 1] = 1
    routings = {
        "": choose(tokens, 2, [0, 1, 2, 3]),
        ", idle experts": choose(tokens, 2, [0, 2]),
        ", one token": alone,
        ", one expert each": choose(tokens, 1, [0, 1, 2, 3]),
        ", three experts each": choose(tokens, 3, [0, 1, 2, 3]),
    }
    x = leaf(BATCH, IMAGE, WIDTH)
    for (routing, choice), mode, force in itertools.product(routings.items(), ("train", "eval"), (False, True)):
        ours, theirs = suite.pair(lambda m, k=choice.shape[1], f=force: moe(m, k, f), mode)
        for module in (ours, theirs):
            module.gate = FixedGate(module.gate.weight, choice)
        name = f"experts, {mode}{', force_inference_output' * force}{routing}"
        suite.compare(name, ours, theirs, {"x": x}, draws=2, mean=1.01)  # the same operations as upstream's
        if mode == "train" and not force and routing == ", idle experts":
            gradient = run(ours, {"x": x})["grad of experts.1.w1.weight"]
            suite.note("idle expert has a gradient of zeros", gradient is not None and not gradient.any())

    for force in (False, True):
        ours, theirs = suite.pair(lambda m, f=force: moe(m, force=f))
        suite.float32(f"experts, own gate{', force_inference_output' * force}", ours, theirs, {"x": x})
        ours, theirs = suite.pair(lambda m, f=force: lora(moe(m, force=f), ["w1", "w2", "w3"]))
        for module in (ours, theirs):
            module.gate = FixedGate(module.gate.weight, routings[""])
        suite.compare(f"experts, LoRA{', force_inference_output' * force}", ours, theirs, {"x": x})
    one = x[:, :1].detach().requires_grad_()
    suite.float32("experts, one token an image", *suite.pair(moe), {"x": one})
    check_neighbours(suite, moe)


def check_neighbours(suite: Suite, moe: Callable[..., nn.Module]) -> None:
    """Weights that lie side by side are the same parameters with the same values, and are copied once."""
    experts = moe(suite.patched).experts
    before, weights = copy.deepcopy(experts.state_dict()), [expert.w1.weight for expert in experts]
    whole = suite.patches._stacked(weights)
    suite.note("neighbours: values", all(torch.equal(a, b) for a, b in zip(whole, weights, strict=True)))
    after = experts.state_dict()
    suite.note("neighbours: state dict", all(torch.equal(before[name], after[name]) for name in before))
    same = all(expert.w1.weight is weight for expert, weight in zip(experts, weights, strict=True))
    suite.note("neighbours: parameters", same)
    again = suite.patches._stacked(weights)
    suite.note("neighbours: no second copy", again.data_ptr() == weights[0].data_ptr() and torch.equal(again, whole))
    loaded = {name: torch.randn_like(value) for name, value in after.items()}
    experts.load_state_dict(loaded)
    stacked = torch.stack([loaded[f"{i}.w1.weight"] for i in range(EXPERTS)])
    suite.note("neighbours: loaded values", torch.equal(suite.patches._stacked(weights), stacked))
    flat = torch.randn(2, 3, 8, 8)
    parts = [nn.Parameter(part) for part in flat[:, 0]]
    places = [part.data_ptr() for part in parts]
    kept = torch.equal(suite.patches._stacked(parts), flat[:, 0]) and places == [part.data_ptr() for part in parts]
    suite.note("neighbours: slices of another tensor stay", kept)


CONFIG: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "caption_channels": [32, 16],
    "text_emb_dim": 64,
    "num_routed_experts": EXPERTS,
    "num_activated_experts": 2,
    "axes_dims_rope": (8, 4, 4),
    "max_resolution": (16, 16),
    "llama_layers": (0, 1),
}


class Whole(nn.Module):
    """The transformer with tensors in and out; llama's layers as one tensor [layers, batch, tokens, 16]."""

    def __init__(self, module: Any, force: bool) -> None:
        super().__init__()
        self.model = module.HiDreamImageTransformer2DModel(**CONFIG, force_inference_output=force)

    def forward(self, llama: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(encoder_hidden_states_llama3=list(llama), **inputs, return_dict=False)[0]


def check_transformer(suite: Suite) -> None:
    sizes = {"square": (16, 16), "not square": (16, 12)}
    for shape, mode, force in itertools.product(sizes, ("train", "eval"), (False, True)):
        ours, theirs = suite.pair(lambda m, f=force: Whole(m, f), mode)
        suite.note("state dict", list(ours.state_dict()) == list(theirs.state_dict()))
        inputs = {
            "hidden_states": leaf(BATCH, 4, *sizes[shape]),
            "timesteps": torch.tensor([300, 700]),
            "encoder_hidden_states_t5": leaf(BATCH, 5, 32),
            "llama": leaf(2, BATCH, 5, 16),
            "pooled_embeds": leaf(BATCH, 64),
        }
        fix_routing(theirs, ours, inputs)
        name = f"transformer, {shape}, {mode}{', force_inference_output' * force}"
        if mode == "train":
            suite.compare(name, ours, theirs, inputs)
            ours.model.enable_gradient_checkpointing()
            suite.float32(f"{name}, gradient checkpointing", ours, theirs, inputs)
        else:
            suite.float32(name, ours, theirs, inputs)
        if mode == "train" and shape == "square":
            lora_ours, lora_theirs = suite.pair(
                lambda m, f=force: lora(
                    Whole(m, f).requires_grad_(False), ["to_q", "to_k", "to_v", "to_out", "w1", "w2"]
                )
            )
            fix_routing(lora_theirs, lora_ours, inputs)
            suite.compare(f"{name}, LoRA", lora_ours, lora_theirs, inputs)


def fix_routing(theirs: nn.Module, ours: nn.Module, inputs: dict[str, Any]) -> None:
    """Record which experts upstream's gates choose in float32, and let both models choose those from now on."""
    chosen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: chosen.__setitem__(name, out[0]))
        for name, module in theirs.named_modules()
        if name.endswith(".gate")
    ]
    with torch.no_grad():
        theirs(**inputs)
    for handle in handles:
        handle.remove()
    for model, (name, choice) in itertools.product((theirs, ours), chosen.items()):
        parent = model.get_submodule(name.rpartition(".")[0])
        parent.gate = FixedGate(parent.gate.weight, choice).requires_grad_(parent.gate.weight.requires_grad)


def check_patching(suite: Suite, early: nn.Module) -> None:
    """The patches are in place, upstream's copy is untouched, a second call and a foreign upstream are handled."""
    names = suite.patches.apply_patches()
    before = {name: _lookup(suite.patched, name) for name in names}
    again = suite.patches.apply_patches()
    suite.note(
        "second call changes nothing", again == names and before == {n: _lookup(suite.patched, n) for n in names}
    )
    for name, function in before.items():
        suite.note(f"in place: {name}", function.__module__ == suite.patches.__name__)
        suite.note(f"upstream: {name}", _lookup(suite.reference, name).__module__ == suite.reference.__name__)
    theirs = _attention(True)(suite.reference)
    theirs.load_state_dict(early.state_dict())
    inputs = {
        "norm_hidden_states": leaf(BATCH, IMAGE + TEXT, WIDTH),
        "image_rotary_emb": suite.reference.HiDreamImageEmbedND(10000, (8, 4, 4))(ids()),
    }
    suite.float32("instance older than the patches", early, theirs, inputs)
    suite.note("instance older than the patches is patched", "Rotate" in _graph(early(**inputs)))

    for what, change in {
        "missing": lambda cls: delattr(cls, "forward"),
        "other signature": lambda cls: setattr(cls, "forward", lambda self, x, y: x),
        "other attributes": lambda cls: setattr(cls, "forward", lambda self, x: x),
    }.items():
        foreign = load(f"{NAME}_foreign", Path(suite.patched.__file__).read_text(), suite.patched.__file__, PACKAGE)
        change(foreign.MOEFeedForwardSwiGLU)
        untouched = foreign.HiDreamAttnProcessor.__call__
        original, suite.patches.UPSTREAM = suite.patches.UPSTREAM, foreign.__name__
        try:
            suite.patches.apply_patches()
            message = ""
        except RuntimeError as error:
            message = str(error)
        finally:
            suite.patches.UPSTREAM = original
        clear = "MOEFeedForwardSwiGLU." in message and "check out diffusers at" in message and "\n" not in message
        suite.note(f"refuses: {what}", clear and foreign.HiDreamAttnProcessor.__call__ is untouched, message=message)


def _lookup(module: types.ModuleType, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _graph(tensor: torch.Tensor) -> str:
    """The names of the autograd nodes that made a tensor."""
    todo, names = [tensor.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None:
            names.append(type(node).__name__)
            todo += [parent for parent, _ in node.next_functions]
    return " ".join(names)


PACKAGE = NAME.rpartition(".")[0]
CHECKS = (check_rotary, check_attention, check_experts, check_transformer)


def mutants(
    suite: Suite, changes: dict[str, tuple[str, str]], source: str, origin: str
) -> Iterator[tuple[str, list[str]]]:
    """(what was broken, the checks on modules that noticed)."""
    for what, (old, new) in changes.items():
        if source.count(old) != 1:
            raise SystemExit(f"compare_transformer: {old!r} is not once in {origin}; update the mutant {what!r}")
        fresh = load(f"{NAME}_mutant", Path(suite.patched.__file__).read_text(), suite.patched.__file__, PACKAGE)
        broken = load("broken_patches", source.replace(old, new), origin)
        broken.UPSTREAM = fresh.__name__
        broken.apply_patches()
        trials = itertools.product((False, True), (check_rotary, check_attention, check_experts))
        noticed: list[str] = []
        while not noticed and (trial := next(trials, None)):
            rounding, check = trial
            suite_of_one = Suite(suite.reference, fresh, broken, rounding)
            try:
                check(suite_of_one)
            except Exception as error:  # a mutant may also fail outright
                suite_of_one.note(f"{check.__name__}: {type(error).__name__}", False)
            noticed = [check["name"] for check in suite_of_one.checks if not check["ok"]]
        yield what, noticed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", type=Path, help="the transformer_patches.py to test")
    parser.add_argument(
        "--branch", choices=list(BRANCHES), default="cpu", help="what runs, on CPU tensors in each case"
    )
    parser.add_argument("--mutants", action="store_true", help="also break the file in small ways and see who notices")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny, and threads wait for each other on a busy machine

    patched = importlib.import_module(NAME)
    source = Path(patched.__file__).read_text()
    reference = load(f"{NAME}_reference", source, patched.__file__, PACKAGE)
    torch.manual_seed(1)
    early = _attention(True)(patched)

    text, origin = arguments.patches.read_text(), str(arguments.patches)
    kernels: Counter[str] = Counter()
    if arguments.branch == "npu":
        stand_in(kernels)
        text = text.replace('return tensor.device.type == "npu"', "return True")
    elif arguments.branch == "grouped":
        F.grouped_mm = grouped_mm(kernels)
        text = text.replace("return _GROUPED is not None and tensor.is_cuda and ", "return True or ")
    patches = load("transformer_patches", text, origin)
    patches.apply_patches()
    suite = Suite(reference, patched, patches)
    check_patching(suite, early)
    for check in CHECKS:
        check(suite)
    report: dict[str, Any] = {"torch": torch.__version__, "checks": suite.checks, "kernels": dict(kernels)}
    if arguments.mutants:
        report["mutants"] = dict(mutants(suite, BRANCHES[arguments.branch], text, origin))
    print(json.dumps(report, indent=1))
    return 0 if all(check["ok"] for check in suite.checks) and all(report.get("mutants", {}).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
