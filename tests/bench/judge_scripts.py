"""The judge of the fixes about any script, beside `judge.py`, whose words and whose rules hold: told without kit's own
fixes, each result is right where no place lacks the fix, and where taking it out gives the script as it was.

What a fix writes in place of something else is taken out by writing that again, in both scripts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TypeGuard

import judge
import judge_data

ANY = "torch.accelerator.is_available()"
CUDA = "torch.cuda.is_available()"
EMPTY = "torch.cuda.empty_cache()"
PACKAGE = "torch_npu"  # of the device that the bench fixes scripts for
UNDER_DEEPSPEED = f"if {judge.DEEPSPEED}:\n    return"
HANDED_OUT, HANDING_OUT = "train_batches", "ResumableBatches"
GUARD = re.compile(r"^if __name__ ==", re.MULTILINE)
NAME = "'pytorch_lora_weights.safetensors'"


def wrong(fix: str, before: bytes, after: bytes) -> str:
    """As `judge.wrong`, of every fix."""
    if fix in judge.LACKING:
        return judge.wrong(fix, before, after)
    if left := lacking(fix, after):
        return f"line {left[0]} still lacks it"
    if ast.dump(STRIPPED[fix](judge.parse(after))) != ast.dump(STRIPPED[fix](judge.parse(before))):
        return "something else changed, or it is in the wrong place"
    if loose := judge.undefined(after) - judge.undefined(before):
        return f"not defined: {', '.join(sorted(loose))}"
    return ""


def lacking(fix: str, content: bytes) -> list[int]:
    """As `judge.lacking`, of every fix."""
    return judge.lacking(fix, content) if fix in judge.LACKING else LACKING[fix](judge.parse(content))


class Rewritten(ast.NodeTransformer):
    """A tree with nodes replaced, the inner ones first."""

    def __init__(self, change: Callable[[ast.AST], ast.AST | None]) -> None:
        self.change = change

    def generic_visit(self, node: ast.AST) -> ast.AST | None:
        return self.change(super().generic_visit(node))


def rewritten(tree: ast.Module, change: Callable[[ast.AST], ast.AST | None]) -> ast.Module:
    changed: ast.Module = Rewritten(change).visit(tree)
    return changed


def text(node: ast.AST | None) -> str:
    return ast.unparse(node) if node else ""


def functions(tree: ast.Module, name: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith(name)]


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported_by(tree: ast.AST, module: str, name: str) -> bool:
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return any(alias.name == name for line in lines for alias in line.names)


def without_names(tree: ast.Module) -> ast.Module:
    """What fixes import: DistributedType of accelerate's, and copy."""
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [alias for alias in node.names if alias.name not in ("DistributedType", "copy")]
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom)) or node.names]
    return tree


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


# deepspeed-resume: a hook that loads a LoRA leaves at once under DeepSpeed.


def resume_lacking(tree: ast.Module) -> list[int]:
    hooks = functions(tree, "load_model_hook")
    return [h.lineno for h in hooks if ".lora_state_dict(" in text(h) and judge.DEEPSPEED not in text(h)]


def resume_stripped(tree: ast.Module) -> ast.Module:
    for hook in functions(tree, "load_model_hook"):
        hook.body = hook.body[1:] if text(hook.body[0]) == UNDER_DEEPSPEED else hook.body
    return without_names(tree)


# device-package: imported at the top, below torch.


def package_lacking(tree: ast.Module) -> list[int]:
    lines = [(alias.name, node) for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    torch = [node.lineno for name, node in lines if name == "torch" and node in tree.body][:1]
    run = GUARD.search(text(tree)) or any(name in text(tree) for name in ("ArgumentParser(", "sys.argv", "parse_args("))
    calls_itself = any(isinstance(node, ast.Expr) and text(node).startswith(("print(", "main(")) for node in tree.body)
    module = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    known = any(name == PACKAGE for name, _ in lines)
    return [] if module or known or not (run or calls_itself) else torch


def package_stripped(tree: ast.Module) -> ast.Module:
    tree.body = [node for node in tree.body if text(node) != f"import {PACKAGE}"]
    return tree


# device-placement: no call is given CUDA by name, or is a method of its name.

TAKING = ("torch.autocast", "torch.amp.autocast", "torch.device", "torch.Generator")


def devices(call: ast.Call) -> list[ast.expr]:
    first = call.args[:1] if text(call.func) in TAKING or text(call.func).endswith(".to") else []
    return [*first, *(each.value for each in call.keywords if each.arg in ("device", "device_type"))]


def placement_lacking(tree: ast.Module) -> list[int]:
    def names_cuda(call: ast.Call) -> bool:
        method = text(call).endswith(".cuda()") or (text(call.func) == "torch.cuda.amp.autocast" and not call.args)
        return method or any(text(value) in ("'cuda'", "'cuda:0'") for value in devices(call))

    return [c.lineno for c in calls(tree) if names_cuda(c)] if imported_by(tree, "accelerate", "Accelerator") else []


def placement_stripped(tree: ast.Module) -> ast.Module:
    def change(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call):
            if text(node.func) == "torch.cuda.amp.autocast":
                node.func, node.args = ast.parse("torch.autocast", mode="eval").body, [ast.Name("DEVICE")]
            elif text(node).endswith(".cuda()"):
                node = ast.Call(ast.Attribute(node.func.value, "to"), [ast.Name("DEVICE")], [])
            for value in devices(node):
                if text(value) in ("'cuda'", "'cuda:0'", "accelerator.device", "accelerator.device.type"):
                    node.args = [ast.Name("DEVICE") if each is value else each for each in node.args]
                    for each in node.keywords:
                        each.value = ast.Name("DEVICE") if each.value is value else each.value
        return node

    return ast.parse(text(rewritten(tree, change)))  # what was made here and what was read is the same then


# device-scaler: told the kind of device.


def scaler_lacking(tree: ast.Module) -> list[int]:
    makers = {"torch.cuda.amp.GradScaler", "th.cuda.amp.GradScaler", *names_of(tree, "torch.cuda.amp")}
    told = {"torch.amp.GradScaler", "torch.GradScaler", *names_of(tree, "torch.amp")}
    found = []
    for call in calls(tree):
        of_cuda = not call.args and "device" not in [each.arg for each in call.keywords]
        named = bool(call.args) and text(call.args[0]) == "'cuda'"
        if text(call.func) in makers or (text(call.func) in told and (of_cuda or named)):
            found.append(call.lineno)
    its_own = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Accelerator"]
    inside = {call.lineno for each in its_own for call in calls(each)}
    return [line for line in found if line not in inside]


def names_of(tree: ast.Module, module: str) -> set[str]:
    """What a module's GradScaler is called."""
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module]
    return {alias.asname or alias.name for line in lines for alias in line.names if alias.name == "GradScaler"}


def scaler_stripped(tree: ast.Module) -> ast.Module:
    makers = {"torch.cuda.amp.GradScaler", "torch.amp.GradScaler", "torch.GradScaler"}
    makers |= names_of(tree, "torch.cuda.amp") | names_of(tree, "torch.amp")

    def change(node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call) and text(node.func) in makers:
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


# offline-lora: what was written here is loaded by its name.


def loads(call: ast.Call, folders: set[str]) -> bool:
    named = text(call.func).endswith((".lora_state_dict", ".load_lora_weights"))
    return named and bool(call.args) and text(call.args[0]) in folders


def folders(tree: ast.Module) -> set[str]:
    """Where the script saves a LoRA, and what a load hook is handed."""
    saves = [call for call in calls(tree) if text(call.func).endswith(".save_lora_weights")]
    given = [[*call.args[:1], *(k.value for k in call.keywords if k.arg == "save_directory")] for call in saves]
    return {"input_dir", *(text(each) for some in given for each in some)} if saves else set()


def lora_lacking(tree: ast.Module) -> list[int]:
    known = folders(tree)
    return [c.lineno for c in calls(tree) if loads(c, known) and "weight_name" not in [k.arg for k in c.keywords]]


def lora_stripped(tree: ast.Module) -> ast.Module:
    known = folders(tree)
    for call in calls(tree):
        if loads(call, known):
            call.keywords = [k for k in call.keywords if (k.arg, text(k.value)) != ("weight_name", NAME)]
    return tree


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


# unwrap-save-hook: what the loop goes through is unwrapped before its class is asked for.


def hook_loops(tree: ast.Module) -> list[ast.For]:
    hooks = functions(tree, "save_model_hook")
    return [node for hook in hooks for node in ast.walk(hook) if isinstance(node, ast.For)]


def unwraps(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and "unwrap_model(" in text(node.value)


def hook_lacking(tree: ast.Module) -> list[int]:
    return [
        loop.lineno
        for loop in hook_loops(tree)
        for call in calls(loop)
        if text(call.func) == "isinstance"
        and text(call.args[0]) in text(loop.target).strip("()").split(", ")
        and not any(unwraps(node) and text(node.targets[0]) == text(call.args[0]) for node in loop.body)
    ]


def hook_stripped(tree: ast.Module) -> ast.Module:
    for loop in hook_loops(tree):
        own = unwraps(loop.body[0]) and text(loop.body[0].targets[0]) in text(loop.target).strip("()").split(", ")
        loop.body = loop.body[own:]
    return tree


# validation-cast and validation-dtype: what log_validation does with its pipeline, under autocast and without.


def moves(tree: ast.Module, autocast: bool) -> list[tuple[ast.FunctionDef, ast.Call]]:
    return [
        (function, node.value)
        for function in functions(tree, "log_validation")
        for node in ast.walk(function)
        if isinstance(node, (ast.Assign, ast.Expr)) and isinstance(node.value, ast.Call)
        if text(node.value.func) in ("pipeline.to", "pipe.to") and "device" in text(node.value)
        if any(text(call.func).endswith("autocast") for call in calls(function)) == autocast
    ]


def casts(call: ast.Call) -> bool:
    return len(call.args) > 1 or any(keyword.arg == "dtype" for keyword in call.keywords)


ALONE = re.compile(r"(pipeline = )?pipe(line)?\.to\(dtype=\w+\)")


def cast_alone(tree: ast.Module) -> list[tuple[list[ast.stmt], ast.stmt]]:
    """The casts of a pipeline that is offloaded, in a validation under autocast."""
    validate = [each for each in functions(tree, "log_validation") if "autocast(" in text(each)]
    offloaded = [each for each in validate if "enable_model_cpu_offload(" in text(each)]
    return [(each.body, line) for each in offloaded for line in each.body if ALONE.fullmatch(text(line))]


def cast_lacking(tree: ast.Module) -> list[int]:
    moved = [call.lineno for _, call in moves(tree, True) if casts(call)]
    return moved + [line.lineno for _, line in cast_alone(tree)]


def cast_stripped(tree: ast.Module) -> ast.Module:
    for body, line in cast_alone(tree):
        body.remove(line)
    for _, call in moves(tree, True):
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != "dtype"]
    return tree


COPY = "pipeline.vae = copy.deepcopy(pipeline.vae).float()"
CAST = f"if is_final_validation or {judge.DEEPSPEED}:\n    pipeline = pipeline.to(dtype=torch_dtype)"


def dtype_lacking(tree: ast.Module) -> list[int]:
    lines = []
    for function, call in moves(tree, False):
        for _, block, index in judge.places(function):
            if getattr(block[index], "value", None) is call:
                above = judge.texts_above(block, index)
                lines += [call.lineno] if casts(call) or above != [COPY, CAST] else []
    return lines


def dtype_stripped(tree: ast.Module) -> ast.Module:
    for function, call in moves(tree, False):
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != "dtype"]
        function.body = [node for node in function.body if text(node) not in (COPY, CAST)]
        function.args.args = [each for each in function.args.args if each.arg != "torch_dtype"]
    for call in calls(tree):
        if text(call.func).startswith("log_validation"):
            call.keywords = [keyword for keyword in call.keywords if keyword.arg != "torch_dtype"]
    return without_names(tree)


# resume-order: what trains goes over the batches that a class hands out, made above where the checkpoint is loaded.


def order_lacking(tree: ast.Module) -> list[int]:
    resumed = [each for each in functions(tree, "") if ".load_state(" in text(each)]
    loops = [node for each in resumed for node in ast.walk(each) if trains(node)]
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return sorted({each.lineno for each in loops if text(each.iter) != HANDED_OUT or HANDING_OUT not in classes})


def trains(node: ast.AST) -> TypeGuard[ast.For]:
    """Whether a node is the innermost loop that trains."""
    if not isinstance(node, ast.For) or ".backward(" not in text(node):
        return False
    return not any(
        isinstance(each, ast.For) and ".backward(" in text(each) for part in node.body for each in ast.walk(part)
    )


def order_stripped(tree: ast.Module) -> ast.Module:
    made = [
        block[index]
        for _, block, index in judge.places(tree)
        if text(block[index]).startswith(f"{HANDED_OUT} = {HANDING_OUT}(")
        and any(".load_state(" in text(below) for below in block[index + 1 : index + 2])
    ]
    loaders = [call.args[1] for each in made for call in calls(each)]

    def change(node: ast.AST) -> ast.AST | None:
        if node in made or (isinstance(node, ast.ClassDef) and node.name == HANDING_OUT):
            return None
        if isinstance(node, ast.If) and "resume_step" in text(node.test) and isinstance(node.body[-1], ast.Continue):
            return None
        if isinstance(node, ast.Import):
            node.names = [alias for alias in node.names if alias.name not in ("os", "random")]
            return node if node.names else None
        if trains(node):
            over = node.iter.args[0] if text(node.iter).startswith("enumerate(") else node.iter  # type: ignore[attr-defined]
            node.iter = loaders[0] if loaders and text(over) == HANDED_OUT else over
            node.target = node.target.elts[-1] if isinstance(node.target, ast.Tuple) else node.target
        return node

    return rewritten(tree, change)


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    **judge_data.LACKING,
    "accelerator-cache": cache_lacking,
    "autocast-device": switch_lacking,
    "deepspeed-resume": resume_lacking,
    "device-package": package_lacking,
    "device-placement": placement_lacking,
    "device-scaler": scaler_lacking,
    "float32-rope": rope_lacking,
    "lora-layers-device": layers_lacking,
    "offline-lora": lora_lacking,
    "pin-memory-guard": pin_lacking,
    "resume-order": order_lacking,
    "unwrap-save-hook": hook_lacking,
    "validation-cast": cast_lacking,
    "validation-dtype": dtype_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    **judge_data.STRIPPED,
    "accelerator-cache": cache_stripped,
    "autocast-device": switch_stripped,
    "deepspeed-resume": resume_stripped,
    "device-package": package_stripped,
    "device-placement": placement_stripped,
    "device-scaler": scaler_stripped,
    "float32-rope": rope_stripped,
    "lora-layers-device": layers_stripped,
    "offline-lora": lora_stripped,
    "pin-memory-guard": pin_stripped,
    "resume-order": order_stripped,
    "unwrap-save-hook": hook_stripped,
    "validation-cast": cast_stripped,
    "validation-dtype": dtype_stripped,
}
