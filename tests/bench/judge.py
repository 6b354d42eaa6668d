"""Whether a fix is where it belongs, told without kit's own fixes: what they are checked by must not be made of them.

For each fix there is a way to take it out again (``STRIPPED``) and a way to find the places that lack it (``LACKING``).
A result is right where every place has the fix, where taking it out gives the file as it was, and where no name is used
that is not defined. A fix that landed anywhere else is not taken out, and shows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

import judge_accelerate
from judge_words import DEEPSPEED, MAIN, called, choices, is_, is_and, parse, places, terms, undefined

LIMIT = re.compile(r"if global_step >= ((args|cfg)\.)?max_train_steps:\n    break")


def wrong(fix: str, before: bytes, after: bytes) -> str:
    """What is wrong with ``after``, made from the script ``before`` by ``fix``; "" where nothing is."""
    try:
        new = parse(after)
    except SyntaxError as error:
        return f"not Python: line {error.lineno}: {error.msg}"
    if left := LACKING[fix](new):
        return f"line {left[0]} still lacks it"
    if ast.dump(STRIPPED[fix](new)) != ast.dump(STRIPPED[fix](parse(before))):
        return "something else changed, or it is in the wrong place"
    if loose := undefined(after) - undefined(before):
        return f"not defined: {', '.join(sorted(loose))}"
    return ""


def lacking(fix: str, content: bytes) -> list[int]:
    """The lines of the places that need ``fix`` and do not have it."""
    return LACKING[fix](parse(content))


# progress-print: a line of its own below each `break` at the step limit, but for the one that heads a loop over epochs.


def print_lacking(tree: ast.Module) -> list[int]:
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While)) and any_limit(node)]
    inner = [loop for loop in loops if not any(other is not loop and other in ast.walk(loop) for other in loops)]
    return sorted(
        block[index].lineno
        for loop in inner
        for _, block, index in places(loop)
        if at_limit(block[index]) and [called(s) for s in block[index + 1 :]][:1] != PRINT
    )


def any_limit(loop: ast.AST) -> bool:
    return any(map(at_limit, ast.walk(loop)))


PRINT = ["accelerator.print"]


def at_limit(node: ast.AST) -> bool:
    """Whether a statement is the break at the step limit."""
    return isinstance(node, ast.If) and len(node.body) == 1 and bool(LIMIT.fullmatch(ast.unparse(node)))


def in_batches(parent: ast.AST) -> bool:
    """Whether a block belongs to a loop that holds no loop with a limit of its own."""
    inside = [loop for loop in getattr(parent, "body", []) if isinstance(loop, (ast.For, ast.While))]
    return isinstance(parent, (ast.For, ast.While)) and not any(map(any_limit, inside))


def print_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        if is_(block[index], "accelerator.print('')") and index and at_limit(block[index - 1]):
            del block[index]
    return tree


# stop-at-max-steps: the same test heads each loop over epochs, or stands below the one over batches.


def stop_lacking(tree: ast.Module) -> list[int]:
    return [
        loop.lineno
        for loop in ast.walk(tree)
        if isinstance(loop, (ast.For, ast.While))
        and any(isinstance(s, (ast.For, ast.While)) and any(at_limit(t) for t in s.body) for s in loop.body)
        and not in_batches(loop)
        and not any(map(at_limit, loop.body))
    ]


def stop_stripped(tree: ast.Module) -> ast.Module:
    for parent, block, index in places(tree):
        heads = isinstance(parent, (ast.For, ast.While)) and index == 0 and block is parent.body
        if heads and at_limit(block[0]) and not in_batches(parent):
            del block[0]
    return tree


# weights-pop: under an `if` that asks whether there is one.

GUARDS = ("weights", "len(weights) > 0")


def pop_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []

    def visit(node: ast.AST, asked: bool) -> None:
        if called(node) == "weights.pop" and not node.value.args and not asked:
            found.append(node.lineno)
        for name, value in ast.iter_fields(node):
            inside = isinstance(node, (ast.If, ast.While)) and name == "body" and set(GUARDS) & {*terms(node.test)}
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, bool(inside) or (asked and not isinstance(node, ast.FunctionDef)))

    visit(tree, False)
    return found


def pop_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.If) and ast.unparse(node.test) in GUARDS and called(node.body[0]) == "weights.pop":
            block[index : index + 1] = node.body
    return tree


# checkpoint-rotation: what looks at the limit also looks who it is, unless only the main process comes there; it stands
# below the save, and looks at all folders but the one just saved.


def rotation_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []

    def visit(node: ast.AST, alone: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            alone = False
        if isinstance(node, ast.If):
            here = alone or MAIN in terms(node.test)
            if LIMITS & set(terms(node.test)) and not here:
                found.append(node.lineno)
            for child in node.body:
                visit(child, here)
            for child in node.orelse:
                visit(child, alone)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, alone)

    visit(tree, False)
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.If) and LIMITS & set(terms(node.test)):
            saved = "accelerator.save_state" in [called(other) for other in block[:index]]
            found += [node.lineno] * (not saved or OTHERS not in ast.unparse(node))
    return sorted(set(found))


OTHERS = " and d != os.path.basename(save_path)"
LIMITS = {"args.checkpoints_total_limit is not None", "args.checkpoints_total_limit"}


def rotation_stripped(tree: ast.Module) -> ast.Module:
    """Nobody is asked who they are, all folders are listed, and this before the folder to save to has its name."""
    for _, block, index in list(places(tree)):
        node = block[index]
        if isinstance(node, ast.If) and LIMITS & set(terms(node.test)) and OTHERS in ast.unparse(node):
            named = next((at for at, each in enumerate(block) if ast.unparse(each).startswith("save_path = ")), index)
            block.insert(named, parse(ast.unparse(block.pop(index)).replace(OTHERS, "").encode()).body[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and is_and(node.test) and LIMITS & set(terms(node.test)):
            node.test.values = [each for each in node.test.values if ast.unparse(each) != MAIN]
            if len(node.test.values) == 1:
                node.test = node.test.values[0]
    return tree


# deepspeed-checkpoint: the test around save_state() lets DeepSpeed's other ranks in, by an imported name.


def checkpoint_lacking(tree: ast.Module) -> list[int]:
    known = savers(tree)
    imported = any("DistributedType" in [alias.name for alias in getattr(node, "names", [])] for node in tree.body)
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and "main_process" in ast.unparse(node.test)
        and any(called(inner) in known for s in node.body for inner in ast.walk(s))
        and not (
            imported and any(DEEPSPEED in choices(part) for part in ast.walk(node.test) if isinstance(part, ast.expr))
        )
    ]


def checkpoint_stripped(tree: ast.Module) -> ast.Module:
    """Nobody is let in, and what is one process's work in there need not be told apart."""
    for node in [each for each in ast.walk(tree) if isinstance(each, ast.If)]:
        for part in [
            each for each in ast.walk(node.test) if isinstance(each, ast.expr) and {MAIN, DEEPSPEED} <= {*choices(each)}
        ]:
            part.values = [each for each in part.values if ast.unparse(each) != DEEPSPEED]  # type: ignore[attr-defined]
    tree = parse(ast.unparse(Simplified().visit(tree)).encode())
    known = savers(tree)
    hooks = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and "save_model_hook" in each.name]
    hooked = {id(node) for hook in hooks for node in ast.walk(hook)}
    for _, block, index in places(tree):
        node = block[index]
        asks = isinstance(node, ast.If) and MAIN in terms(node.test) and not node.orelse
        gated = asks and any(f"{name}(" in ast.unparse(gate) for name in known for gate in gates_around(tree, node))
        inside = gated or (asks and id(node) in hooked)
        if inside and ast.unparse(node.test) == MAIN:
            block[index : index + 1] = node.body
        elif inside:
            node.test.values = [each for each in node.test.values if ast.unparse(each) != MAIN]
    tree = Simplified().visit(tree)
    return without_import(tree)


def savers(tree: ast.Module) -> set[str]:
    """What saves the state: the accelerator, and functions that do nothing about who calls them."""
    texts = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    helpers = {name for name, code in texts.items() if "accelerator.save_state(" in code and "main_process" not in code}
    return {"accelerator.save_state", *helpers}


class Simplified(ast.NodeTransformer):
    """A tree in which an `or` of one is that one."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        return node.values[0] if len(node.values) == 1 else node


def gates_around(tree: ast.Module, node: ast.AST) -> list[ast.If]:
    """The `if`s of the main process that a statement is in."""
    tests = [each for each in ast.walk(tree) if isinstance(each, ast.If) and MAIN in ast.unparse(each.test)]
    return [each for each in tests if each is not node and node in ast.walk(each)]


def without_import(tree: ast.Module) -> ast.Module:
    """DistributedType is not imported."""
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.ImportFrom) and node.module == "accelerate":
            node.names = [alias for alias in node.names if alias.name != "DistributedType"]
            if not node.names:
                del block[index]
    return tree


# offline-model-card: under `if args.push_to_hub`, the card before the upload.


def card_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []
    own = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "save_model_card"]
    if own and not any(
        re.search(r"(hub|model_?card)\w*\(", "\n".join(map(ast.unparse, node.body)), re.I) for node in own
    ):
        return []

    def visit(node: ast.AST, pushed: bool) -> None:
        if called(node) == "save_model_card" and not pushed:
            found.append(node.lineno)
        for name, value in ast.iter_fields(node):
            inside = isinstance(node, ast.If) and name == "body" and PUSH in terms(node.test)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, inside or (pushed and not isinstance(node, ast.FunctionDef)))

    visit(tree, False)
    return found


PUSH = "args.push_to_hub"


def card_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.If) and ast.unparse(node.test) == PUSH and called(node.body[0]) == "save_model_card":
            block.insert(index, node.body.pop(0))
            if not node.body and not node.orelse:
                del block[index + 1]
    return tree


# transformer-patches: imported and called right above `if is_wandb_available():`.

IMPORT, CALL = "from transformer_patches import apply_patches", "apply_patches()"


def patches_lacking(tree: ast.Module) -> list[int]:
    return [
        block[index].lineno
        for parent, block, index in places(tree)
        if parent is tree
        and isinstance(block[index], ast.If)
        and ast.unparse(block[index].test) == "is_wandb_available()"
        and [ast.unparse(above) for above in block[max(index - 2, 0) : index]] != [IMPORT, CALL]
    ]


def patches_stripped(tree: ast.Module) -> ast.Module:
    for parent, block, index in places(tree):
        wandb = index + 2 < len(block) and ast.unparse(block[index + 2]).startswith("if is_wandb_available():")
        if parent is tree and is_(block[index], IMPORT) and is_(block[index + 1], CALL) and wandb:
            del block[index : index + 2]
    return tree


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    **judge_accelerate.LACKING,
    "checkpoint-rotation": rotation_lacking,
    "deepspeed-checkpoint": checkpoint_lacking,
    "offline-model-card": card_lacking,
    "progress-print": print_lacking,
    "stop-at-max-steps": stop_lacking,
    "transformer-patches": patches_lacking,
    "weights-pop": pop_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    **judge_accelerate.STRIPPED,
    "checkpoint-rotation": rotation_stripped,
    "deepspeed-checkpoint": checkpoint_stripped,
    "offline-model-card": card_stripped,
    "progress-print": print_stripped,
    "stop-at-max-steps": stop_stripped,
    "transformer-patches": patches_stripped,
    "weights-pop": pop_stripped,
}
