"""The judge of the fixes of accelerate itself: as `judge.py`, whose rules hold."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from judge_words import functions, is_and, places, terms, texts_above

# fp16-guard and grad-scaler: a device that a package registered is let through, and gets the scaler of its own.

OWN = "torch._C._get_privateuse1_backend_name()"


def guard_lacking(tree: ast.Module) -> list[int]:
    return [node.lineno for node in fp16_guards(tree) if f"self.device.type != {OWN}" not in terms(node.test)]


def fp16_guards(tree: ast.Module) -> list[ast.If]:
    """The `if`s that end in an error about fp16 and the kind of device."""
    ends = [node for node in ast.walk(tree) if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)]
    said = [(node, ast.unparse(node.body[-1])) for node in ends]
    return [node for node, text in said if "fp16" in text and ("a GPU" in text or "a device" in text)]


def guard_stripped(tree: ast.Module) -> ast.Module:
    for node in fp16_guards(tree):
        if is_and(node.test):
            node.test.values = [each for each in node.test.values if ast.unparse(each) != f"self.device.type != {OWN}"]
            node.test = node.test.values[0] if len(node.test.values) == 1 else node.test
    return tree


# How accelerate took CUDA's scaler over the years, and what the registered device's own one is given instead.
SCALERS = {
    "torch.cuda.amp.GradScaler()": "",  # where it is for fp16; elsewhere it is MS-AMP's, for CUDA alone
    "torch.cuda.amp.GradScaler(**kwargs)": "**kwargs",
    "torch.amp.GradScaler('cuda', **kwargs)": "**kwargs",
    "get_grad_scaler(self.distributed_type, **kwargs)": "**kwargs",
}
MINE = f"self.device.type == {OWN}"
UNSHARDED = ["self.distributed_type != DistributedType.FSDP", MINE]  # get_grad_scaler shards under FSDP


def scaler_lacking(tree: ast.Module) -> list[int]:
    """CUDA's scalers for fp16. bf16 has the range of float32, and CUDA's switches itself off there: it needs none."""

    def visit(node: ast.AST, tests: list[str], own: str | None, sharding: bool) -> Iterator[int]:
        text = ast.unparse(node.value) if isinstance(node, ast.Assign) else ""
        elsewhere = {"torch.cuda.is_available()", "self.state.mixed_precision == 'bf16'"} & set(tests)
        for_fp16 = text != "torch.cuda.amp.GradScaler()" or {"fp16", "self.state.use_fp16"} & set(tests)
        right = own == SCALERS.get(text) and sharding is text.startswith("get_grad_scaler")
        if text in SCALERS and for_fp16 and not elsewhere and not right:
            yield node.lineno
        for name, value in ast.iter_fields(node):
            inner, mine, shards = tests, own, sharding
            if isinstance(node, ast.If) and name == "body":
                inner = [*tests, *terms(node.test)]
            elif isinstance(node, ast.If) and name == "orelse" and terms(node.test) in ([MINE], UNSHARDED):
                mine, shards = own_scaler(node.body), len(terms(node.test)) > 1
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child, inner, mine, shards)

    return list(visit(tree, [], None, False))


def own_scaler(body: list[ast.stmt]) -> str | None:
    """What the registered device's own scaler is given, where a block takes that and does nothing else."""
    before, text = "self.scaler = getattr(torch, self.device.type).amp.GradScaler(", ast.unparse(body[0])
    return text[len(before) : -1] if len(body) == 1 and text.startswith(before) else None


def scaler_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.If) and terms(node.test) in ([MINE], UNSHARDED) and own_scaler(node.body) is not None:
            block[index : index + 1] = node.orelse
    return tree


# oss-prepare: right above the first thing `prepare` decides, where it can be told what the overlay tells it.

PAIR = [
    "from .sharded import find_oss, prepare_sharded",
    "if find_oss(args) is not None:\n    return prepare_sharded(self, args, device_placement)",
]


def prepare_lacking(tree: ast.Module) -> list[int]:
    return [block[index].lineno for block, index in decisions(tree) if texts_above(block, index) != PAIR]


def decisions(tree: ast.Module) -> Iterator[tuple[list[ast.stmt], int]]:
    takes = {node.name: [word.arg for word in node.args.kwonlyargs + node.args.args] for node in functions(tree)}
    if "device_placement" in takes.get("prepare", ()) and "evaluation_mode" in takes.get("prepare_model", ()):
        for parent, block, index in places(tree):
            decides = ast.unparse(block[index]).startswith("tpu_should_fix_optimizer = ")
            if decides and isinstance(parent, ast.FunctionDef) and parent.name == "prepare":
                yield block, index


def prepare_stripped(tree: ast.Module) -> ast.Module:
    for block, index in decisions(tree):
        if texts_above(block, index) == PAIR:
            del block[index - len(PAIR) : index]
    return tree


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    "fp16-guard": guard_lacking,
    "grad-scaler": scaler_lacking,
    "oss-prepare": prepare_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    "fp16-guard": guard_stripped,
    "grad-scaler": scaler_stripped,
    "oss-prepare": prepare_stripped,
}
