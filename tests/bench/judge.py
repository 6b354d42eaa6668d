"""Whether a fix is where it belongs, told without kit's own fixes: what they are checked by must not be made of them.

For each fix there is a way to take it out again (``STRIPPED``) and a way to find the places that lack it (``LACKING``).
A result is right where every place has the fix, where taking it out gives the file as it was, and where no name is used
that is not defined. A fix that landed anywhere else is not taken out, and shows.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache

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


@lru_cache(maxsize=4)
def is_python(content: bytes) -> bool:
    try:
        return bool(parse(content).body)
    except (SyntaxError, ValueError):
        return False


def lines(before: bytes, after: bytes) -> tuple[set[bytes], set[bytes]]:
    """The lines that went, and those that came, of a file that is not Python."""
    old, new = before.splitlines(), after.splitlines()
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    return set(gone), set(come)


@lru_cache(maxsize=4)  # of what one fix made, and the next one got
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


def terms(test: ast.expr) -> list[str]:
    """What a test asks for, all of it."""
    return [ast.unparse(each) for each in test.values] if is_and(test) else [ast.unparse(test)]


def is_and(test: ast.expr) -> bool:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)


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


def choices(test: ast.expr) -> list[str]:
    """What a test asks for, any of it."""
    either = isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)
    return [ast.unparse(each) for each in (test.values if either else [test])]


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


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def texts_above(block: list[ast.stmt], index: int) -> list[str]:
    return [ast.unparse(node) for node in block[max(index - len(PAIR), 0) : index]]


def prepare_stripped(tree: ast.Module) -> ast.Module:
    for block, index in decisions(tree):
        if texts_above(block, index) == PAIR:
            del block[index - len(PAIR) : index]
    return tree


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    "checkpoint-rotation": rotation_lacking,
    "deepspeed-checkpoint": checkpoint_lacking,
    "fp16-guard": guard_lacking,
    "grad-scaler": scaler_lacking,
    "offline-model-card": card_lacking,
    "oss-prepare": prepare_lacking,
    "progress-print": print_lacking,
    "stop-at-max-steps": stop_lacking,
    "transformer-patches": patches_lacking,
    "weights-pop": pop_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    "checkpoint-rotation": rotation_stripped,
    "deepspeed-checkpoint": checkpoint_stripped,
    "fp16-guard": guard_stripped,
    "grad-scaler": scaler_stripped,
    "offline-model-card": card_stripped,
    "oss-prepare": prepare_stripped,
    "progress-print": print_stripped,
    "stop-at-max-steps": stop_stripped,
    "transformer-patches": patches_stripped,
    "weights-pop": pop_stripped,
}


# Any other fix is judged by what it does at the pin, which people have read and which runs there: the same statements
# must go and come, in the same functions, beside the same neighbours.


@dataclass(frozen=True)
class Change:
    """Statements that went and came at one place: in which classes and functions, between which neighbours."""

    scope: str
    gone: tuple[str, ...]
    come: tuple[str, ...]
    above: str  # at the beginning of a block, what opens it; "" for the module
    below: str  # at its end, END and what opens it
    test: str = ""  # where a block got another test, the old one; what went and came are words of it then
    value: str = ""  # where a simple statement about the same got another value, what it is about; words of it, too

    @property
    def reads(self) -> set[str]:
        """The names that what comes reads and does not bind itself."""
        if self.test or self.value:
            return set()
        trees = [ast.parse(text) for text in self.come]
        found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
        loaded = {node.id for node in found if isinstance(node.ctx, ast.Load)}
        return loaded - set(dir(builtins)) - set.union(set(), *map(bound, trees))

    def like(self, other: Change) -> bool:
        """Whether it is the same change: the same comes, in a function of that name, for statements that begin alike
        (:func:`other_text` tells whether they go on alike). Where nothing goes, one of its neighbours is about the same
        too; an import at the top of the module may stand among others."""
        function, others = (each.scope.rpartition(".")[2] for each in (self, other))
        words = bool(self.test or self.value)
        gone = [list(each.gone if words else map(begins, each.gone)) for each in (self, other)]
        same = (function, self.value, gone[0], self.come) == (others, other.value, gone[1], other.come)
        beside = key(self.above) == key(other.above) or key(self.below) == key(other.below)
        return same and (words or bool(self.gone) or beside or other.is_import)

    @property
    def is_import(self) -> bool:
        """Whether all that comes are imports, beside imports, in the module itself."""
        words = ("import ", "from ")
        beside = self.above.startswith(words) or self.below.startswith(words)
        return not self.scope and beside and all(each.startswith(words) for each in self.come)

    def wanted_in(self, tree: ast.Module) -> bool:
        """Whether a script has the place and lacks the change: what goes is there, or else both neighbours (one, for a
        test); and what comes is not. A place with one neighbour left is told from others only once something came.
        Where what comes would read a name that nothing binds, this is no place: it builds on what is not there."""
        texts = texts_of(tree, self.scope.rpartition(".")[2])
        if self.value:
            lines = [text for text in texts if key(text) == self.value]
            came = any(words in text for text in lines for words in self.come)
            return not came and any(all(words in text for words in self.gone) for text in lines)
        if self.reads - bound(tree):
            return False
        texts |= {key(text) for text in texts} | set(map(begins, texts))
        beside = {key(self.above), key(self.below.removeprefix(END))} - {""}
        if self.test:
            return bool((beside | {self.test}) & texts) and not any(new in text for text in texts for new in self.come)
        there = set(map(begins, self.gone)) <= texts if self.gone else bool(beside) and beside <= texts
        return there and not set(self.come) <= texts


END = "the end of "


@lru_cache(maxsize=256)  # the pin's, again and again
def changes(before: bytes, after: bytes) -> tuple[Change, ...]:
    """How one script differs from another, statement by statement. Raises SyntaxError."""
    return tuple(_changes(parse(before), parse(after), ""))


def _changes(old: ast.AST, new: ast.AST, scope: str) -> Iterator[Change]:
    inner = f"{scope}.{old.name}" if isinstance(old, (ast.ClassDef, ast.FunctionDef)) else scope
    for field in ("body", "orelse", "handlers", "finalbody"):
        left, right = getattr(old, field, []), getattr(new, field, [])
        if not isinstance(left, list):
            continue
        texts = ([head(node) for node in left], [head(node) for node in right])
        for kind, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
            pairs = list(zip(left[a:b], right[c:d], strict=False))
            if kind != "equal":
                opens = "" if isinstance(new, ast.Module) else head(new)
                above = short(texts[1][c - 1]) if c else opens
                below = short(texts[1][d]) if d < len(right) else END + opens
                other = b - a == d - c and all(type(x) is type(y) and about(x) == about(y) for x, y in pairs)
                if not other:
                    gone, come = ([ast.unparse(node) for node in some] for some in (left[a:b], right[c:d]))
                    yield Change(inner, tuple(gone), tuple(come), above, below)
                    continue
                for x, y in pairs:  # the same under another test or with another value: what of that went and came
                    words = (head(x).split(), head(y).split())
                    codes = [code for code in SequenceMatcher(None, *words).get_opcodes() if code[0] != "equal"]
                    gone = [" ".join(words[0][i:j]) for _, i, j, _, _ in codes]
                    come = [" ".join(words[1][k:m]) for _, _, _, k, m in codes]
                    test, value = (head(x), "") if hasattr(x, "body") else ("", about(x))
                    yield Change(inner, tuple(gone), tuple(come), above, below, test, value)
            for x, y in pairs:
                yield from _changes(x, y, inner)


def about(node: ast.AST) -> str:
    """What a simple statement is about; "" for a compound one."""
    return "" if hasattr(node, "body") else key(ast.unparse(node))


def bound(tree: ast.AST) -> set[str]:
    """The names that something in a tree binds, anywhere."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def head(node: ast.AST) -> str:
    """A simple statement; the first line of a compound one."""
    text = ast.unparse(node)
    return short(text) if hasattr(node, "body") else text


def short(text: str) -> str:
    """The line a statement begins with."""
    return text.partition("\n")[0]


def key(text: str) -> str:
    """What a statement is about: what it calls or assigns, not with what."""
    return text if text.startswith(("if ", "for ", "while ", "with ")) else text.partition("(")[0].partition(" = ")[0]


def begins(text: str) -> str:
    """What the first line of a statement is about, and what it calls for that."""
    line = short(text)
    target, equals, value = line.partition(" = ")
    calls = equals and "(" in value and key(line) == target
    return f"{target} = {value.partition('(')[0]}" if calls else key(line)


def texts_of(tree: ast.Module, function: str) -> set[str]:
    """The statements of the functions or classes of that name ("": the module's own), not those of functions inside
    them, whole and by their first line."""
    found: set[str] = set()

    def visit(node: ast.AST, here: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.excepthandler)):
                if here == function and isinstance(child, ast.stmt):
                    text = ast.unparse(child)
                    found.update((text, short(text)))
                visit(child, child.name if isinstance(child, (ast.ClassDef, ast.FunctionDef)) else here)

    visit(tree, "")
    return found


def differs(wanted: Sequence[Change], before: bytes, after: bytes) -> str:
    """How what was done to a script differs from the changes ``wanted``; "" where it does not."""
    try:
        made = changes(before, after)
    except SyntaxError as error:
        return f"not Python: line {error.lineno}: {error.msg}"
    for change in wanted:
        if not any(change.like(other) for other in made):
            return f"not done in {change.scope or 'the module'}: {short((*change.come, *change.gone)[0])}"
    for other in made:
        if not any(change.like(other) for change in wanted):
            return f"also done in {other.scope or 'the module'}: {short((*other.come, *other.gone)[0])}"
    if loose := undefined(after) - undefined(before):
        return f"not defined: {', '.join(sorted(loose))}"
    return ""


def other_text(wanted: Sequence[Change], before: bytes, after: bytes) -> bool:
    """Whether statements went that begin as those at the pin, and go on otherwise: whoever relies on the fix there
    should read what they did."""
    return {each.gone for each in changes(before, after)} != {each.gone for each in wanted}
