"""What processes that draw other random numbers would no longer do or have alike: see `rank_noise`."""

from __future__ import annotations

import ast
import re

from kit.fixes._ast import children, every, handed, statements, stored, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import dotted, last, own

MADE = ("random_split", "add_adapter", "get_peft_model", "inject_adapter_in_model", "Linear", "Embedding", "Conv2d")
DRAWS = ("rand", "randn", "randint", "bernoulli", "randperm")
NOISE = ("randn_like", "rand_like", "randint_like", "randn_tensor", "normal", "normal_", "multinomial")
_GATHERS = ("gather", "gather_for_metrics", "reduce", "all_gather", "all_reduce")
# What makes a tensor of the size that it is given, and what makes one number, or one a sample, of a tensor.
_SIZED = re.compile(
    r"randn?|zeros|ones|empty|full|arange|linspace|randn_tensor|view|reshape|expand|repeat\w*|tile|narrow|split|chunk"
    r"|interpolate|resize|randperm|topk"
)
_ONE = re.compile(r"mean|sum|norm|item|mse_loss|l1_loss|cross_entropy|max|min|amax|amin|len|size|numel")
_ALL = (*DRAWS, *NOISE, "uniform_", "bernoulli_", "random_", "exponential_")
_JOINT = ("gather", "gather_for_metrics", "reduce", "broadcast", "wait_for_everyone", "save_state", "backward")
_ORDERS = ("randperm", "random_split")
# What gives a model's weights other values.
_ANEW = re.compile(
    r"(kaiming|xavier|trunc|orthogonal)_(uniform_|normal_)?|reset_(lora_)?parameters|init_weights|random_split"
    r"|add_adapter|get_peft_model|inject_adapter_in_model"
)
_WEIGHTS = re.compile(r"\.(data|weight|bias)\b")
# What a number or a tensor is still drawn by, once these are done to it.
_STILL = re.compile(
    r"int|bool|float|round|item|tolist|any|all|sum|max|min|mean|to|cpu|long|squeeze|unsqueeze|abs|argmax|range|clamp"
)


def called(node: ast.AST) -> str:
    return last(node.func) if isinstance(node, ast.Call) else ""


def _draws(node: ast.AST, draws: set[str]) -> bool:
    """Whether a call draws: not from Python's or numpy's random numbers, which stay alike, unless `random` is meant."""
    base = dotted(node.func).partition(".")[0] if isinstance(node, ast.Call) else ""
    return called(node) in draws and (base not in ("random", "np", "numpy") or "random" in draws)


def by_chance(tree: ast.Module, function: ast.FunctionDef) -> str:
    """Why random numbers of its own would part a process from the others: by them it joins in what all must do, which
    a step of a prepared model is, too."""
    script = read(tree)
    helpers = [node for node, _ in script.statements if isinstance(node, ast.FunctionDef) and node is not function]
    draws = {*_ALL, *(each.name for each in helpers if any(_draws(part, {*DRAWS}) for part in every(each)))}
    joint = {*_JOINT, *(name for names, value in _given(function) if _prepares(value) for name in names)}
    found = _by_chance(function, draws, joint, (ast.Continue, ast.Break))
    must = {"backward", "wait_for_everyone", "save_state"}
    come = {script.function(line) for name in must for _, line in script.calls.get(name, ())}
    for each in helpers:  # a sampler or a data set may leave a sample out
        found = found or (_by_chance(each, draws, must, ()) if each in come else "")
    return f"{found}, and must be by all processes: draw otherwise" if found else ""


def _by_chance(function: ast.FunctionDef, draws: set[str], joint: set[str], jumps: tuple[type[ast.stmt], ...]) -> str:
    """What a function does by chance of ``joint``, or where it leaves a round (``jumps``); "" where nothing."""
    drawn, single = _drawn(function, draws)
    for node in every(function):
        asked = getattr(node, "iter", None) or getattr(node, "test", None) or node
        names = single if isinstance(node, ast.For) else drawn
        if isinstance(node, (ast.If, ast.While, ast.For)) and any(
            _draws(part, draws) or (isinstance(part, ast.Name) and part.id in names) for part in _values(asked)
        ):
            parts = [each for part in [*node.body, *node.orelse] for each in every(part)]
            found = next((word for each in parts if (word := called(each)) in joint), "")
            found = found or next((text(each) for each in parts if isinstance(each, jumps)), "")
            if found:
                return f"`{found}` is reached by chance (line {node.lineno})"
    return ""


def sized(tree: ast.Module, function: ast.FunctionDef, loops: list[ast.For]) -> str:
    """Why processes that draw other numbers would wait for ever: what they gather has a size that is drawn; "" where it
    has not."""
    gathered = [node for loop in loops for node in every(loop) if called(node) in _GATHERS]
    if not gathered:
        return ""
    helpers = [node for node, _ in read(tree).statements if isinstance(node, ast.FunctionDef) and node is not function]
    draws = {*_ALL, *(each.name for each in helpers if any(_draws(part, {*DRAWS}) for part in every(each)))}
    single, masks = _singles(function, draws)
    tainted: dict[str, str] = {}
    for loop in loops if (drawn := next(filter(None, map(_batch_size, helpers)), "")) else ():
        tainted |= dict.fromkeys(stored(loop.target), drawn)
    evened = {name for names, value in _given(function) if called(value) == "pad_across_processes" for name in names}
    for _ in range(4):
        for names, value in _given(function):
            if found := _size(value, single, masks) or _carried(value, tainted):
                tainted |= dict.fromkeys(names - tainted.keys() - evened, found)
    losses = _losses(function)
    for call in gathered:
        place = (call.lineno, call.col_offset)  # type: ignore[attr-defined]
        sizes = {name: by for name, by in tainted.items() if losses.get(name, place) >= place}
        for value in [*call.args, *(each.value for each in call.keywords)]:  # type: ignore[attr-defined]
            if found := _size(value, single, masks) or _carried(value, sizes):
                where = f"`{text(call.func)}(…)` (line {call.lineno})"  # type: ignore[attr-defined]
                return f"{where} takes what has a size drawn by chance (`{found}`): draw that alike on all processes"
    return ""


def _losses(function: ast.FunctionDef) -> dict[str, tuple[int, int]]:
    """The names of what a backward pass starts from, which is one number, and where each is given last."""
    starts = [part for node in every(function) if called(node) == "backward" for part in children(node)]
    places: dict[str, tuple[int, int]] = {}
    for names, value in _given(function):
        place = (value.lineno, value.col_offset)
        places |= {
            n.id: max(place, places.get(n.id, place)) for n in starts if isinstance(n, ast.Name) and n.id in names
        }
    return places


def _singles(function: ast.FunctionDef, draws: set[str]) -> tuple[set[str], set[str]]:
    """The names of numbers that are drawn; and those of comparisons of them, which choose rows."""
    single = _drawn(function, draws)[1]
    return single, {
        name for names, value in _given(function) if isinstance(value, ast.Compare) for name in names & single
    }


def _batch_size(helper: ast.FunctionDef) -> str:
    """The number by which what makes the batches draws their size, in a loader's worker by Python's numbers, too, which
    torch's seed there; "" where it does not."""
    if not re.match(r"_*(collate|getitem|iter|call)", helper.name):
        return ""
    drawn = _drawn(helper, {*_ALL, "random", "choice", "choices", "randrange"})[0]
    return next(filter(None, (_size(value, drawn, set()) for _, value in _given(helper))), "")


def _size(value: ast.expr, single: set[str], masks: set[str]) -> str:
    """The number by which an expression makes a tensor of a size drawn by chance; "" where it does not."""
    for node in _whole(value):
        inside: list[ast.AST] = []
        if isinstance(node, ast.Subscript):
            at = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if chosen := next((each.id for each in at if isinstance(each, ast.Name) and each.id in masks), ""):
                return chosen
            bounds = [part for part in every(node.slice) if isinstance(part, ast.Slice)]
            inside = [
                each for part in bounds if not (part.lower and part.upper) for each in (part.lower, part.upper) if each
            ]
        elif isinstance(node, ast.Call) and _SIZED.fullmatch(called(node)):
            inside = [*node.args[: 1 if called(node) == "full" else None], *(each.value for each in node.keywords)]
        names = (part.id for each in inside for part in every(each) if isinstance(part, ast.Name))
        if found := next((name for name in names if name in single), ""):
            return found
    return ""


def _carried(value: ast.expr, tainted: dict[str, str]) -> str:
    """The number that an expression owes its size to, by a name in it; "" where none is known."""
    names = (node.id for node in _whole(value) if isinstance(node, ast.Name))
    return next((tainted[name] for name in names if name in tainted), "")


def _whole(node: ast.AST) -> list[ast.AST]:
    """An expression's parts, but for what is made one number, or as long on all processes."""
    reduces = _ONE.fullmatch(called(node)) and "'none'" not in text(node)
    reduces = reduces or called(node) == "pad_across_processes"
    if reduces or (isinstance(node, ast.Attribute) and node.attr in ("shape", "ndim", "device", "dtype")):
        return []
    return [node, *(part for child in children(node) for part in _whole(child))]


def _given(function: ast.AST) -> list[tuple[set[str], ast.expr]]:
    """What the names of a function are given."""
    found = []
    for node in every(function):
        if isinstance(node, ast.Assign):
            found.append((stored(*node.targets), node.value))
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value:
            found.append((stored(node.target), node.value))
    return found


def _prepares(value: ast.expr) -> bool:
    return any(called(part) == "prepare" for part in every(value))


def _drawn(function: ast.AST, draws: set[str]) -> tuple[set[str], set[str]]:
    """The names that are drawn, or worked out of those alone; and those of them that are one number or word."""
    drawn: set[str] = set()
    single: set[str] = set()
    given = [(names, _values(value)) for names, value in _given(function)]
    for _ in range(4):
        for names, parts in given:
            calls = [part for part in parts if isinstance(part, ast.Call)]
            known = [part for part in parts if isinstance(part, ast.Name) and part.id in drawn]
            ours = [call for call in calls if _draws(call, draws)]
            if not (ours or known):
                continue
            if any(_single(part, draws, drawn) for part in parts) or any(part.id in single for part in known):
                single |= names
            if all(call in ours or _STILL.fullmatch(called(call)) for call in calls):
                drawn |= names
    return drawn | single, single


def _values(node: ast.AST) -> list[ast.AST]:
    """An expression's parts, but not what is only asked for its shape, or whether it is None."""
    if isinstance(node, ast.Attribute) and node.attr in ("shape", "ndim", "device", "dtype"):
        return []
    if isinstance(node, ast.Call) and called(node) in ("len", "isinstance", "gather", "reduce", "broadcast", "size"):
        return []
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
        return []
    return [node, *(part for child in children(node) for part in _values(child))]


def _single(node: ast.AST, draws: set[str], drawn: set[str]) -> bool:
    """Whether what is drawn is made one number: what a process does may depend on it."""
    made = isinstance(node, ast.Call) and text(node.func) in ("int", "bool", "float")  # not `noise.float()`
    if isinstance(node, ast.Compare) or made or called(node) == "item":
        return any(_draws(part, draws) or (isinstance(part, ast.Name) and part.id in drawn) for part in _values(node))
    return False


def own_order(tree: ast.Module) -> str:
    """Why each process would have other batches: a sampler of the script draws their order; "" where none does."""
    script = read(tree)
    for owner in (node for node, _ in script.statements if isinstance(node, ast.ClassDef)):
        methods = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
        if not any(each.name == "__iter__" for each in methods):
            continue
        bases = [last(getattr(base, "value", base)) or last(base) for base in owner.bases]
        if not any(base.endswith("Sampler") for base in bases) and owner.name not in _samplers(script):
            continue
        for method in methods:
            calls = [node for node in every(method) if called(node) in _ALL and method.name != "__init__"]
            if any(_torchs(call) for call in calls):
                return f"`{owner.name}` draws the order of the batches, alike on all processes: give it a generator"
    return ""


def _torchs(call: ast.AST) -> bool:
    """Whether a draw is of torch's own random numbers."""
    plain = isinstance(call, ast.Call) and not handed(call, "generator", at=None)
    return plain and dotted(call.func).partition(".")[0] not in ("random", "np", "numpy", "self", "rng")  # type: ignore


def _samplers(script: Script) -> set[str]:
    """What makes the samplers of the loaders."""
    calls = [call for call, _ in script.calls.get("DataLoader", ())]
    given = [value for call in calls for value in handed(call, "sampler", "batch_sampler", at=None)]
    made = [each for value in given if isinstance(value, ast.Name) for each in script.assigned.get(value.id, ())]
    return {called(value) for value in (*given, *made)} - {""}


def anew(tree: ast.Module, function: ast.FunctionDef, training: list[ast.For]) -> str:
    """Why the processes would train other weights, or other batches: the loops draw either anew; "" where not."""
    helpers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    outer = [node for node in every(function) if isinstance(node, (ast.For, ast.While))]
    outer = [loop for loop in outer if any(each in every(loop) for each in training)]
    inner = [loop for loop in training if not any(each in every(loop) for each in training if each is not loop)]
    for line, above in statements(function):
        loops = [node for node in above if node in outer]
        if not loops or line in outer:
            continue
        calls = [part for part in own(line) if isinstance(part, ast.Call)]
        seeds = [call for call in calls if text(call.func) in ("set_seed", "torch.manual_seed")]
        if again := next((call for call in seeds if "process_index" not in text(call)), None):
            where = f"`{called(again)}` (line {line.lineno})"
            return f"{where} makes all draw alike again: take that out, or skip the fix"
        orders = _ORDERS if not any(node in inner for node in above) else ()
        name = next((called(call) for call in calls if _ANEW.fullmatch(called(call)) or called(call) in orders), "")
        name = name or next((called(call) for call in calls if _remakes(helpers.get(called(call)))), "")
        name = name or _weights(line)
        if name:
            return f"`{name}` (line {line.lineno}) must come out alike on all processes: move it above, or skip the fix"
    return ""


def _remakes(helper: ast.FunctionDef | None) -> bool:
    return helper is not None and any(_ANEW.fullmatch(called(part)) for part in every(helper))


def _weights(line: ast.stmt) -> str:
    """The weights that a statement gives numbers that it draws; "" for other statements."""
    if isinstance(line, ast.Assign) and any(called(part) in _ALL for part in every(line.value)):
        return next((text(target) for target in line.targets if _WEIGHTS.search(text(target))), "")
    call = line.value if isinstance(line, ast.Expr) else None
    if isinstance(call, ast.Call) and (called(call) in _ALL or any(called(part) in _ALL for part in every(call))):
        owner = text(call.func).rpartition(".")[0]
        return owner if called(call).endswith("_") and _WEIGHTS.search(owner) else ""
    return ""
