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
import judge_devices
from judge_words import (
    DEEPSPEED,
    calls,
    functions,
    parse,
    places,
    rewritten,
    text,
    texts_above,
    undefined,
    without_names,
)

UNDER_DEEPSPEED = f"if {DEEPSPEED}:\n    return"
HANDED_OUT, HANDING_OUT = "train_batches", "ResumableBatches"
NAME = "'pytorch_lora_weights.safetensors'"


def wrong(fix: str, before: bytes, after: bytes) -> str:
    """As `judge.wrong`, of every fix."""
    if fix in judge.LACKING:
        return judge.wrong(fix, before, after)
    if left := lacking(fix, after):
        return f"line {left[0]} still lacks it"
    if ast.dump(STRIPPED[fix](parse(after))) != ast.dump(STRIPPED[fix](parse(before))):
        return "something else changed, or it is in the wrong place"
    if loose := undefined(after) - undefined(before):
        return f"not defined: {', '.join(sorted(loose))}"
    return ""


def lacking(fix: str, content: bytes) -> list[int]:
    """As `judge.lacking`, of every fix."""
    return judge.lacking(fix, content) if fix in judge.LACKING else LACKING[fix](parse(content))


# deepspeed-resume: a hook that loads a LoRA leaves at once under DeepSpeed, or takes a model there that is not loaded.


def resume_lacking(tree: ast.Module) -> list[int]:
    hooks = [hook for hook in functions(tree, "load_model_hook") if ".lora_state_dict(" in text(hook)]
    return [h.lineno for h in hooks if not leaves(h) and (DEEPSPEED not in text(h) or second(h))]


def leaves(hook: ast.FunctionDef) -> bool:
    """Whether a hook leaves under DeepSpeed before it does anything; what it says of itself may stand above."""
    said = ast.get_docstring(hook) is not None
    return UNDER_DEEPSPEED in map(text, hook.body[said : said + 1])


def second(hook: ast.FunctionDef) -> bool:
    """Whether a hook that asks for DeepSpeed loads a model on one side of the question."""
    return any(
        isinstance(node, ast.If) and DEEPSPEED in text(node.test) and ".from_pretrained(" in text(node)
        for node in ast.walk(hook)
    )


def resume_stripped(tree: ast.Module) -> ast.Module:
    for hook in functions(tree, "load_model_hook"):
        said = ast.get_docstring(hook) is not None
        hook.body = [*hook.body[:said], *hook.body[said + 1 :]] if leaves(hook) else hook.body
    return without_names(tree)


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


FINAL = " else None"  # what casts only where autocast is off


def casts(call: ast.Call) -> bool:
    given = [text(keyword.value) for keyword in call.keywords if keyword.arg == "dtype"]
    return len(call.args) > 1 or any(not each.endswith(FINAL) for each in given)


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
        call.args, call.keywords = call.args[:1], [each for each in call.keywords if each.arg != "dtype"]
    return tree


COPY = "pipeline.vae = copy.deepcopy(pipeline.vae).float()"
CAST = f"if is_final_validation or {DEEPSPEED}:\n    pipeline = pipeline.to(dtype=torch_dtype)"


def dtype_lacking(tree: ast.Module) -> list[int]:
    lines = []
    for function, call in moves(tree, False):
        for _, block, index in places(function):
            if getattr(block[index], "value", None) is call:
                above = texts_above(block, index)
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
        for _, block, index in places(tree)
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


# validation-seed: what a seed makes is asked for by the seed's absence, which a seed of 0 is not.


def seeded(tree: ast.Module) -> list[tuple[ast.IfExp, str]]:
    """The choices between what a seed makes and None, and the seed."""
    choices = [node for node in ast.walk(tree) if isinstance(node, ast.IfExp) and text(node.orelse) == "None"]
    found = [(each, re.search(r"\.manual_seed\(([\w.]+)\)$", text(each.body))) for each in choices]
    return [(each, match[1]) for each, match in found if match]


def seed_lacking(tree: ast.Module) -> list[int]:
    return [choice.lineno for choice, seed in seeded(tree) if text(choice.test) == seed]


def seed_stripped(tree: ast.Module) -> ast.Module:
    for choice, seed in seeded(tree):
        if text(choice.test) == f"{seed} is not None":
            choice.test = ast.parse(seed, mode="eval").body
    return tree


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    **judge_data.LACKING,
    **judge_devices.LACKING,
    "deepspeed-resume": resume_lacking,
    "offline-lora": lora_lacking,
    "resume-order": order_lacking,
    "unwrap-save-hook": hook_lacking,
    "validation-cast": cast_lacking,
    "validation-dtype": dtype_lacking,
    "validation-seed": seed_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    **judge_data.STRIPPED,
    **judge_devices.STRIPPED,
    "deepspeed-resume": resume_stripped,
    "offline-lora": lora_stripped,
    "resume-order": order_stripped,
    "unwrap-save-hook": hook_stripped,
    "validation-cast": cast_stripped,
    "validation-dtype": dtype_stripped,
    "validation-seed": seed_stripped,
}
