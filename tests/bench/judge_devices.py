"""The judge of the fixes about where a script trains: as `judge_scripts.py`, whose rules hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

import judge_words as judge
from judge_words import calls, functions, imported_by, rewritten, text

ANY = "torch.accelerator.is_available()"
CUDA = "torch.cuda.is_available()"
EMPTY = "torch.cuda.empty_cache()"
PACKAGE = "torch_npu"  # of the device that the bench fixes scripts for
GUARD = re.compile(r"^if __name__ ==", re.MULTILINE)


# accelerator-cache: below the branch for CUDA, or in place of a call without one.


def cache_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []
    for parent, block, index in judge.places(tree):
        node = block[index]
        alone = not (isinstance(parent, ast.If) and block is parent.body and CUDA in judge.terms(parent.test))
        if text(node) == EMPTY and alone:
            found.append(node.lineno)
        if isinstance(node, ast.If) and text(node.test) == CUDA and EMPTY in map(text, node.body):
            found += [node.lineno] * (f"elif {ANY}:" not in text(node))
    return found


def cache_stripped(tree: ast.Module) -> ast.Module:
    for parent, block, index in judge.places(tree):
        node = block[index]
        if isinstance(node, ast.If) and text(node.test) == ANY and "get_device_module().empty" in text(node.body[-1]):
            empties = [text(each).endswith(".empty_cache()") for each in getattr(parent, "body", [])]
            below = isinstance(parent, ast.If) and block is parent.orelse and any(empties)
            block[index : index + 1] = node.orelse if below else ast.parse(EMPTY).body
    return tree


# device-package: imported at the top, below torch.


def package_lacking(tree: ast.Module) -> list[int]:
    lines = [(alias.name, node) for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    torch = [node.lineno for name, node in lines if name == "torch" and node in tree.body][:1]
    run = GUARD.search(text(tree)) or any(name in text(tree) for name in ("ArgumentParser(", "sys.argv", "parse_args("))
    calls_itself = any(isinstance(node, ast.Expr) and text(node).startswith(("print(", "main(")) for node in tree.body)
    module = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and text(node.test).endswith("TYPE_CHECKING")]
    unrun = {line for node in types if not isinstance(node.test, ast.UnaryOp) for line in node.body}
    known = any(name == PACKAGE and node not in unrun for name, node in lines)
    return [] if module or known or not (run or calls_itself) else torch


def package_stripped(tree: ast.Module) -> ast.Module:
    tree.body = [node for node in tree.body if text(node) != f"import {PACKAGE}"]
    return tree


# device-placement: no call is given CUDA by name, or is a method of its name; nothing is on CUDA or else on the CPU.

AUTOCAST = ("enabled", "dtype", "cache_enabled")  # what torch.cuda.amp.autocast takes, in order
TAKING = ("torch.autocast", "torch.amp.autocast", "torch.device", "torch.Generator")


CHOICES = (
    "'cuda' if torch.cuda.is_available() else 'cpu'",
    "torch.device('cuda') if torch.cuda.is_available() else torch.device('cpu')",
    "torch.device(DEVICE) if torch.cuda.is_available() else torch.device('cpu')",
)
OWN = re.compile(r"((self\.)?acc(elerator)?|DEVICE)\.(device|type)")
INDEX = re.compile(r"\w+(\.\w+)*\.(local_process_index|local_rank)|local_rank")  # of the process's own card


def devices(call: ast.Call) -> list[ast.expr]:
    first = call.args[:1] if text(call.func) in TAKING or text(call.func).endswith(".to") else []
    first = [] if len(call.args) > 1 and text(call.func) == "torch.device" and not of_process(call) else first
    words = ("device", "device_type", "map_location")
    return [*first, *(each.value for each in call.keywords if each.arg in words)]


def of_process(call: ast.Call) -> bool:
    return bool(INDEX.fullmatch(text(call.args[1])))


def by_method(node: ast.Call) -> bool:
    """`.cuda()`, of the first card too."""
    return isinstance(node.func, ast.Attribute) and node.func.attr == "cuda" and [*map(text, node.args)] in ([], ["0"])


def placement_lacking(tree: ast.Module) -> list[int]:
    def names_cuda(call: ast.Call) -> bool:
        method = by_method(call) or text(call.func) == "torch.cuda.amp.autocast"
        return method or any(text(value) in ("'cuda'", "'cuda:0'") for value in devices(call))

    if not imported_by(tree, "accelerate", "Accelerator"):
        return []
    chosen = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assign) and text(n.value) in CHOICES]
    return [*chosen, *(c.lineno for c in calls(tree) if names_cuda(c))]


def placement_stripped(tree: ast.Module) -> ast.Module:
    def change(node: ast.AST) -> ast.AST:
        chosen = isinstance(node, ast.IfExp) and text(node) in CHOICES
        if chosen or (isinstance(node, ast.Attribute) and OWN.fullmatch(text(node))):
            return ast.Name("DEVICE")
        if isinstance(node, ast.Call):
            if text(node.func) == "torch.cuda.amp.autocast":
                placed = [ast.keyword(*pair) for pair in zip(AUTOCAST, node.args, strict=False)]
                node.keywords = placed + node.keywords
                node.func, node.args = ast.parse("torch.autocast", mode="eval").body, [ast.Name("DEVICE")]
            elif by_method(node):
                node = ast.Call(ast.Attribute(node.func.value, "to"), [ast.Name("DEVICE")], node.keywords)
            elif text(node.func) == "torch.device" and len(node.args) > 1 and of_process(node):
                del node.args[1:]
            for value in devices(node):
                if text(value) in ("'cuda'", "'cuda:0'"):
                    node.args = [ast.Name("DEVICE") if each is value else each for each in node.args]
                    for each in node.keywords:
                        each.value = ast.Name("DEVICE") if each.value is value else each.value
        return node

    return ast.parse(text(rewritten(tree, change)))  # what was made here and what was read is the same then


# device-scaler: told the kind of device.


def scaler_lacking(tree: ast.Module) -> list[int]:
    makers = {"torch.cuda.amp.GradScaler", "th.cuda.amp.GradScaler", *names_of(tree, "torch.cuda.amp")}
    told = {"torch.amp.GradScaler", "torch.GradScaler", *names_of(tree, "torch.amp")}
    makers, told = makers | given(tree, makers), told | given(tree, told)
    found = []
    for call in calls(tree):
        of_cuda = not call.args and "device" not in [each.arg for each in call.keywords]
        named = "'cuda'" in [*map(text, call.args[:1]), *(text(k.value) for k in call.keywords if k.arg == "device")]
        if text(call.func) in makers or (text(call.func) in told and (of_cuda or named)):
            found.append(call.lineno)
    its_own = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Accelerator"]
    inside = {call.lineno for each in its_own for call in calls(each)}
    return [line for line in found if line not in inside]


def names_of(tree: ast.Module, module: str) -> set[str]:
    """What a module's GradScaler is called."""
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return {alias.asname or alias.name for line in lines for alias in line.names if alias.name == "GradScaler"}


def given(tree: ast.Module, makers: set[str]) -> set[str]:
    """The names at the module's top that are given one of some classes."""
    return {text(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign) and text(node.value) in makers}


def scaler_stripped(tree: ast.Module) -> ast.Module:
    makers = {"torch.cuda.amp.GradScaler", "torch.amp.GradScaler", "torch.GradScaler"}
    makers |= names_of(tree, "torch.cuda.amp") | names_of(tree, "torch.amp")
    makers |= given(tree, makers)

    def change(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call) and text(node.func) in makers:
            for each in node.keywords:
                each.value = ast.Constant("cuda") if each.arg == "device" else each.value
            told = bool(node.args) and text(node.args[0]) in ("torch.device(device).type", "'cuda'")
            node.func, node.args = ast.Name("GradScaler"), node.args[told:]
        return node

    return ast.parse(text(rewritten(tree, change)))


# float32-rope: an NPU is asked for, too, where a Mac is: by what machine it is, or by where a tensor is.

MAC = "torch.backends.mps.is_available()"
WITHOUT = "str(torch.accelerator.current_accelerator()) in ('mps', 'npu', 'tpu')"
OR_THERE = re.compile(r"torch\.float32 if (\w+) or [\w.]+\.device\.type in \('npu', 'tpu'\) else")


def rope_lacking(tree: ast.Module) -> list[int]:
    found = []
    for function in [tree, *functions(tree, "")]:
        asked = [text(n.targets[0]) for n in ast.walk(function) if re.search(r"\.device\.type == 'mps'$", text_of(n))]
        tests = [MAC, *(name for name in asked if asked.count(name) == 1 and function is not tree)]
        chosen = [node for node in ast.walk(function) if isinstance(node, ast.IfExp)]
        choices = [f"torch.float32 if {test} else torch.float64" for test in tests]
        found += [node.lineno for node in chosen if text(node) in choices]
    return sorted(set(found))


def text_of(node: ast.AST) -> str:
    return text(node) if isinstance(node, ast.Assign) else ""


def rope_stripped(tree: ast.Module) -> ast.Module:
    return ast.parse(OR_THERE.sub(r"torch.float32 if \1 else", text(tree).replace(WITHOUT, MAC)))


# autocast-device: what a module switches off is not CUDA's autocast, but its tensors'.

SWITCH = re.compile(r"autocast\((device_type=)?'cuda', enabled=False\)")
TOLD = re.compile(r"autocast\((device_type=)?\w+\.device\.type, enabled=False\)")


def switch_lacking(tree: ast.Module) -> list[int]:
    run = imported_by(tree, "accelerate", "Accelerator") or GUARD.search(text(tree))
    withs = [] if run else [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    handed = {id(inner): each for each in functions(tree, "") for inner in ast.walk(each)}
    return [
        node.lineno
        for node in withs
        if SWITCH.search(text(node).partition("\n")[0])
        and id(node) in handed
        and any(
            re.search(rf"\b{each.arg}(\.float|\.device|\.shape|\.reshape|\[)", text(node))
            for each in handed[id(node)].args.args
        )
    ]


def switch_stripped(tree: ast.Module) -> ast.Module:
    return ast.parse(TOLD.sub(r"autocast(\1'cuda', enabled=False)", text(tree)))


# lora-layers-device: placed where they are made.


def layers_lacking(tree: ast.Module) -> list[int]:
    made = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value]
    return [n.lineno for n in made if isinstance(n.value, ast.Call) and text(n.value.func) == "AttnProcsLayers"]


def layers_stripped(tree: ast.Module) -> ast.Module:
    def change(node: ast.AST) -> ast.AST:
        placed = isinstance(node, ast.Call) and text(node).endswith(").to(accelerator.device)")
        return node.func.value if placed and text(node).startswith("AttnProcsLayers(") else node

    return rewritten(tree, change)


# pin-memory-guard: only where there is an accelerator.


def pin_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []

    def visit(node: ast.AST, there: bool) -> None:
        pins = isinstance(node, ast.Call) and text(node).endswith(".pin_memory()")
        if pins and not there:
            found.append(node.lineno)
        for name, value in ast.iter_fields(node):
            asks = isinstance(node, (ast.If, ast.IfExp)) and name == "body" and {ANY, CUDA} & {*judge.terms(node.test)}
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    unused = isinstance(node, ast.Expr)
                    visit(child, bool(asks) or unused or (there and not isinstance(node, ast.FunctionDef)))

    visit(tree, False)
    return found


def pin_stripped(tree: ast.Module) -> ast.Module:
    def change(node: ast.AST) -> ast.AST:
        guarded = isinstance(node, ast.IfExp) and text(node.test) == ANY
        return node.body if guarded and text(node.body) == f"{text(node.orelse)}.pin_memory()" else node

    return rewritten(tree, change)


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    "accelerator-cache": cache_lacking,
    "autocast-device": switch_lacking,
    "device-package": package_lacking,
    "device-placement": placement_lacking,
    "device-scaler": scaler_lacking,
    "float32-rope": rope_lacking,
    "lora-layers-device": layers_lacking,
    "pin-memory-guard": pin_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    "accelerator-cache": cache_stripped,
    "autocast-device": switch_stripped,
    "device-package": package_stripped,
    "device-placement": placement_stripped,
    "device-scaler": scaler_stripped,
    "float32-rope": rope_stripped,
    "lora-layers-device": layers_stripped,
    "pin-memory-guard": pin_stripped,
}
