"""Compare HiDream's transformer_patches.py with upstream's modules, as compare_family.py says.

    python compare_hidream.py path/to/transformer_patches.py [--branch cpu|npu|grouped] [--mutants]

Routing is given, so that rounding cannot flip a token to another expert. --branch grouped is the experts' grouped
product, PyTorch's own where it has the public one, else one that asks for what PyTorch's asks for.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from compare_family import Family, main
from comparing import FLOAT32_LIMIT, Suite, leaf, lora, max_error, run

WIDTH, HEADS, BATCH, IMAGE, TEXT, EXPERTS = 64, 4, 2, 30, 13, 4

# What to break in transformer_patches.py, by branch -> (its text, the text in its place).
MUTANTS = {
    "cpu": {
        "angles made for each layer": ('if not hasattr(table, "_rotation")', "if True"),
        "key mask dropped": (
            "key = key * F.pad(hidden_states_masks, (0, text), value=1)[:, :, None, None]",
            "key = key",
        ),
        "text masked": ("(0, text), value=1)", "(0, text), value=0)"),
        "text before image": ("attend(query, key, join(values)", "attend(query, key, join(values[::-1])"),
        "tokens left sorted": ("out.index_select(0, place)", "out.index_select(0, order)"),
        "routing weight ignored": ("chosen * weight.unsqueeze(-1)", "chosen * weight.unsqueeze(-1).detach()"),
        "shared experts left out": ("y.view(x.shape) + self.shared_experts(x)", "y.view(x.shape)"),
        "weighted sum in the experts' dtype": (".unflatten(0, (tokens, k)).to(dtype)", ".unflatten(0, (tokens, k))"),
        "gradients in inference": ("set_grad_enabled(training and torch.is_grad_enabled())", "enable_grad()"),
        "idle expert without gradient": ("if training or part.shape[0]", "if part.shape[0]"),
    },
    "npu": {
        "groups where gradients are recorded": ("if torch.is_grad_enabled() or rows.dtype", "if rows.dtype"),
    },
    "grouped": {
        "gate and up exchanged": (
            'product(rows, "w1")).mul_(product(rows, "w3")',
            'product(rows, "w3")).mul_(product(rows, "w1")',
        ),
        "groups around LoRA layers": ("is_plain(x, nn.Linear) and x.weight", "x.weight"),
        "sizes for ends": ("sizes.cumsum(0, dtype=torch.int32)", "sizes.int()"),
        "neighbours taken for granted": ("if len(places) == 1 and all(", "if all("),
        "weights copied at each call": ("            weight.data = part", "            pass"),
        "slices of another tensor moved": (
            "if all(weight.untyped_storage().nbytes() == weight.nbytes for weight in weights)",
            "if True",
        ),
    },
}


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


def ids(image: int = IMAGE, text: int = TEXT) -> torch.Tensor:
    """Positions as upstream makes them, image tokens in rows, then text at the origin; the second image elsewhere."""
    positions = torch.zeros(BATCH, image + text, 3)
    positions[:, :image, 1] = torch.arange(image) // 6
    positions[:, :image, 2] = torch.arange(image) % 6
    positions[1, :image, 2] += 40
    return positions


def check_rotary(suite: Suite) -> None:
    table = suite.reference.HiDreamImageEmbedND(10000, (8, 4, 4))(ids())
    suite.note(
        "angles are made once a table", suite.patches._rotation(table).spin is suite.patches._rotation(table).spin
    )
    query, key = torch.randn(2, BATCH, IMAGE + TEXT, HEADS, 16)
    for x, want in zip((query, key), suite.reference.apply_rope(query, key, table), strict=True):
        error = max_error(suite.patches._rotation(table).turn(x), want)
        suite.note("rotation", error <= FLOAT32_LIMIT, error=error)
    kept: list[torch.Tensor] = []
    x = leaf(BATCH, IMAGE + TEXT, WIDTH).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        suite.patches._norm_rotate([(x, nn.Identity())], table, HEADS, torch.bfloat16)
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


def _early(module: Any) -> dict[str, Any]:
    """Inputs of a single-stream attention."""
    table = module.HiDreamImageEmbedND(10000, (8, 4, 4))(ids())
    return {"norm_hidden_states": leaf(BATCH, IMAGE + TEXT, WIDTH), "image_rotary_emb": table}


FAMILY = Family(
    module="diffusers.models.transformers.transformer_hidream_image",
    checks=(check_rotary, check_attention, check_experts, check_transformer),
    early=(_attention(True), _early),
    mutants=MUTANTS,
    branches={
        "grouped": (
            ("return _GROUPED is not None and tensor.is_cuda and ", "return True or "),
            lambda kernels: setattr(F, "grouped_mm", grouped_mm(kernels)),
        )
    },
)

if __name__ == "__main__":
    sys.exit(main(FAMILY))
