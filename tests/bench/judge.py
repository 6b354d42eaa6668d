"""Whether a fix is where it belongs, told without kit's own fixes: what they are checked by must not be made of them.

For each fix there is a way to take it out again (``STRIPPED``) and a way to find the places that lack it (``LACKING``).
A result is right where every place has the fix, where taking it out gives the file as it was, and where no name is used
that is not defined. A fix that landed anywhere else is not taken out, and shows.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

Place = tuple[ast.AST, list[ast.stmt], int]  # a statement's parent, the list it is in, and where in it

LIMIT = "if global_step >= args.max_train_steps:\n    break"
MAIN = "accelerator.is_main_process"
DEEPSPEED = "accelerator.distributed_type == DistributedType.DEEPSPEED"


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


def parse(content: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(content)


def undefined(content: bytes) -> Counter[str]:
    """The names that functions and the module read from the module's scope, where nothing defines them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = symtable.symtable(ast.unparse(ast.parse(content)), "judged", "exec")
    known = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    known |= {table.get_name() for table in top.get_children()} | set(dir(builtins)) | {"__file__", "__name__"}

    def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        yield table
        for child in table.get_children():
            yield from tables(child)

    every = list(tables(top))
    symbols = [symbol for table in every for symbol in table.get_symbols()]
    known |= {symbol.get_name() for symbol in symbols if symbol.is_declared_global() and symbol.is_assigned()}
    used = (symbol.get_name() for symbol in symbols if symbol.is_referenced() and symbol.is_global())
    return Counter(name for name in used if name not in known)


def places(tree: ast.AST) -> Iterator[Place]:
    """Every statement in its list, inner lists first, so that a list may be edited while it is gone through."""
    for _, value in list(ast.iter_fields(tree)):
        if isinstance(value, list):
            for index in range(len(value) - 1, -1, -1):
                if isinstance(value[index], ast.AST):
                    yield from places(value[index])
                if isinstance(value[index], ast.stmt):
                    yield tree, value, index


def is_(node: ast.AST, code: str) -> bool:
    """Whether a statement reads like ``code``; a long one is not written out to see that it does not."""
    model = template(code)
    short = len(getattr(node, "body", ())) == len(getattr(model, "body", ()))
    return type(node) is type(model) and short and ast.unparse(node) == code


@cache
def template(code: str) -> ast.stmt:
    return ast.parse(code).body[0]


def called(node: ast.AST) -> str:
    """What a statement that is a call, and nothing else, calls."""
    return ast.unparse(node.value.func) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else ""


# progress-print: a line of its own below each `break` at the step limit, but for the one that heads a loop over epochs.


def print_lacking(tree: ast.Module) -> list[int]:
    return [
        block[index].lineno
        for parent, block, index in places(tree)
        if is_(block[index], LIMIT) and in_batches(parent) and [called(s) for s in block[index + 1 :]][:1] != PRINT
    ]


PRINT = ["accelerator.print"]


def in_batches(parent: ast.AST) -> bool:
    """Whether a block belongs to a loop that holds no loop with a limit of its own."""
    inside = [loop for loop in getattr(parent, "body", []) if isinstance(loop, (ast.For, ast.While))]
    return isinstance(parent, (ast.For, ast.While)) and not any(is_(s, LIMIT) for loop in inside for s in loop.body)


def print_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        if is_(block[index], "accelerator.print('')") and index and is_(block[index - 1], LIMIT):
            del block[index]
    return tree


# stop-at-max-steps: the same test heads each loop over epochs.


def stop_lacking(tree: ast.Module) -> list[int]:
    return [
        loop.lineno
        for loop in ast.walk(tree)
        if isinstance(loop, (ast.For, ast.While))
        and any(isinstance(s, (ast.For, ast.While)) and any(is_(t, LIMIT) for t in s.body) for s in loop.body)
        and not in_batches(loop)
        and not is_(loop.body[0], LIMIT)
    ]


def stop_stripped(tree: ast.Module) -> ast.Module:
    for parent, block, index in places(tree):
        heads = isinstance(parent, (ast.For, ast.While)) and index == 0 and block is parent.body
        if heads and is_(block[0], LIMIT) and not in_batches(parent):
            del block[0]
    return tree


# weights-pop: under an `if` that asks whether there is one.

GUARDS = ("weights", "len(weights) > 0")


def pop_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []

    def visit(node: ast.AST, asked: bool) -> None:
        if called(node) == "weights.pop" and not asked:
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


# checkpoint-rotation: what looks at the limit also looks who it is, unless only the main process comes there.


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
    return found


LIMITS = {"args.checkpoints_total_limit is not None", "args.checkpoints_total_limit"}


def terms(test: ast.expr) -> list[str]:
    """What a test asks for, all of it."""
    return [ast.unparse(each) for each in test.values] if is_and(test) else [ast.unparse(test)]


def is_and(test: ast.expr) -> bool:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)


def rotation_stripped(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and is_and(node.test) and LIMITS & set(terms(node.test)):
            node.test.values = [each for each in node.test.values if ast.unparse(each) != MAIN]
            if len(node.test.values) == 1:
                node.test = node.test.values[0]
    return tree


# deepspeed-checkpoint: the test around save_state() lets DeepSpeed's other ranks in, by an imported name.


OPEN = (f"{MAIN} or {DEEPSPEED}", f"{DEEPSPEED} or {MAIN}")


def checkpoint_lacking(tree: ast.Module) -> list[int]:
    imported = any("DistributedType" in [alias.name for alias in getattr(node, "names", [])] for node in tree.body)
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and "main_process" in ast.unparse(node.test)
        and any(called(inner) == "accelerator.save_state" for s in node.body for inner in ast.walk(s))
        and not (ast.unparse(node.test) in OPEN and imported)
    ]


def checkpoint_stripped(tree: ast.Module) -> ast.Module:
    for _, block, index in places(tree):
        node = block[index]
        if isinstance(node, ast.If) and ast.unparse(node.test) == OPEN[0]:
            node.test = node.test.values[0]
        if isinstance(node, ast.ImportFrom) and node.module == "accelerate":
            node.names = [alias for alias in node.names if alias.name != "DistributedType"]
            if not node.names:
                del block[index]
    return tree


# offline-model-card: under `if args.push_to_hub`, the card before the upload.


def card_lacking(tree: ast.Module) -> list[int]:
    found: list[int] = []

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
    "checkpoint-rotation": rotation_lacking,
    "deepspeed-checkpoint": checkpoint_lacking,
    "offline-model-card": card_lacking,
    "progress-print": print_lacking,
    "stop-at-max-steps": stop_lacking,
    "transformer-patches": patches_lacking,
    "weights-pop": pop_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    "checkpoint-rotation": rotation_stripped,
    "deepspeed-checkpoint": checkpoint_stripped,
    "offline-model-card": card_stripped,
    "progress-print": print_stripped,
    "stop-at-max-steps": stop_stripped,
    "transformer-patches": patches_stripped,
    "weights-pop": pop_stripped,
}
