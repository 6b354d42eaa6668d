"""Unwrap what DeepSpeed hands the save hook."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, same, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last, own
from kit.fixes._roles.holders import accelerator
from kit.fixes._roles.hooks import Hook, save_hooks, save_lambdas

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "unwrap the models the save hook is handed"
WHY = """\
The save hook tells the models it is handed apart by their class. Under DeepSpeed that is the DeepSpeedEngine around
the model, so the first checkpoint ends with `ValueError: unexpected save model`, or with a NameError where the hook
then asks about a text encoder that is deleted by now; a hook that chooses a folder by the class writes to the wrong
one. Unwrapped, the model also has its own names for its parameters, which `get_peft_model_state_dict` takes over."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/9393",
    "https://github.com/huggingface/diffusers/pull/6628",
    "https://github.com/huggingface/diffusers/pull/10378",
)
NEEDS = ()
GENERAL = True
UPSTREAM = "taken in scripts of #6628 and #10378"
EXAMPLE = """\
def main(accelerator, Unet):
    def save_model_hook(models, weights, output_dir):
        for model in models:
            if isinstance(model, Unet):
                model.save_pretrained(output_dir)
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops of a save hook over the models it is handed that ask for the class of one; in order where it is
    unwrapped first."""
    script = read(tree)
    found = []
    for loop, model in script.once(_loops).items():
        why = _unwrap(script, loop)[1]
        why = (
            f"{why}: bind it above, or skip the fix" if why else _known_by_itself(loop, model) or _wrapped(script, loop)
        )
        done = (
            _unwrapped(loop, model)
            or _all_unwrapped(script, loop)
            or not any(_asks(node, model) for node in every(loop))
        )
        found.append(Site(loop.lineno, done, refuses=why if not done else ""))
    return found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """A class asked of one of the models a save hook is handed, which nothing there unwraps, otherwise than in a loop
    over them by name."""
    script = read(tree)
    lines = [line for hook in save_hooks(script) for line in sorted(_told_otherwise(script, hook))]
    for made, given in save_lambdas(script):
        if made.args.args and _told_in(made.body, made.args.args[0].arg):
            lines.append(given.lineno)
    for line in dict.fromkeys(lines):
        yield Sign(line, "a model of a save hook told by its class, which under DeepSpeed is DeepSpeedEngine")


def _told_otherwise(script: Script, hook: Hook) -> Iterator[int]:
    known = script.once(_loops)
    for line in script.inside(hook.function):
        around = (line, *script.above[line])
        tests = [node.test for node in around if isinstance(node, (ast.If, ast.While))]
        if any(loop in known for loop in around) or any(hook.weights in text(test) for test in tests):
            continue  # DeepSpeed has no weights
        if _told_in(line, hook.models) and "unwrap" not in text(line):
            yield line.lineno
        name = _model(line, hook.models) if isinstance(line, ast.For) else ""
        if name and "unwrap" not in text(line) and any(_told_there(script, node, name) for node in every(line)):
            yield line.lineno
        if not isinstance(line, ast.Assign) or not _of(line.value, hook.models):
            continue
        beside = script.block(line)
        names = {text(target) for target in line.targets}
        nodes = [node for each in beside for node in every(each)]
        if any(_asks_of(node, names) for node in nodes) and not any("unwrap" in text(each) for each in beside):
            yield line.lineno


def _told_in(line: ast.AST, models: str) -> bool:
    """Whether a statement's own expressions ask the class of one of ``models``: of `models[0]`, or of each in turn."""
    for node in own(line) if isinstance(line, ast.stmt) else every(line):
        if any(_of(asked, models) for asked in _classed(node)):
            return True
        for each in getattr(node, "generators", ()):
            name = text(each.target)
            parts = every(node) if same(each.iter, models) else []
            if any(_asks(part, name) or text(part) in (f"type({name})", f"{name}.__class__") for part in parts):
                return True
        lambdas = [each for each in getattr(node, "args", ()) if isinstance(each, ast.Lambda)]
        for made in lambdas if models in map(text, getattr(node, "args", ())) else ():
            if any(_asks(part, each.arg) for each in made.args.args for part in every(made)):
                return True
    return False


def _told_there(script: Script, node: ast.AST, name: str) -> bool:
    """Whether a call hands a model to a function of the script that asks for its class."""
    made = script.called(node) if isinstance(node, ast.Call) else None
    names = [each.arg for each in made.args.args if each.arg != "self"] if made else []
    given = [inner for inner, value in zip(names, getattr(node, "args", ()), strict=False) if same(value, name)]
    plain = made is not None and "unwrap" not in text(made)
    return plain and any(_asks(part, inner) for inner in given for part in every(made))  # type: ignore[arg-type]


def _of(value: ast.expr, models: str) -> bool:
    """Whether an expression is one of the models: `models.pop()`, `models[0]`."""
    of = value.func if isinstance(value, ast.Call) else value
    return isinstance(of, (ast.Attribute, ast.Subscript)) and same(of.value, models)


def _loops(script: Script) -> dict[ast.For, str]:
    """The loops over the models of a save hook that ask for a class of theirs, each with the name of a model."""
    found = {}
    for hook in save_hooks(script):
        for loop in script.inside(hook.function):
            name = _model(loop, hook.models) if isinstance(loop, ast.For) else ""
            if name and any(_asks_of(node, {name, *_made_of(loop, name)}) for node in every(loop)):
                found[loop] = name
    return found  # type: ignore[return-value]


# What a DeepSpeedEngine or an FSDP module has, and not the model in it.
_WRAPPERS = re.compile(r"_?zero\w*|save_(checkpoint|16bit_model|fp16_model)|summon_full_params|state_dict_type")
_NUMBERS = {"enumerate": 1, "zip": 0}  # how many numbers come first


def _model(loop: ast.For, models: str) -> str:
    """What a loop calls a model: `for model in models`, numbered or beside its weights or not; "" for other loops."""
    over, target = loop.iter, loop.target
    if isinstance(over, ast.Call) and isinstance(target, (ast.Tuple, ast.List)) and last(over.func) in _NUMBERS:
        names = target.elts[_NUMBERS[last(over.func)] :]
        inner = next((each for given, each in zip(over.args, names, strict=False) if same(given, models)), None)
        return inner.id if isinstance(inner, ast.Name) else ""
    plain = text(over) in (models, f"list({models})", f"reversed({models})", f"{models}[::-1]")
    return target.id if plain and isinstance(target, ast.Name) else ""


def _made_of(loop: ast.stmt, name: str) -> set[str]:
    """What a loop makes of a model by unwrapping it."""
    lines = [line for line in every(loop) if isinstance(line, ast.Assign) and "unwrap" in text(line.value)]
    return {text(target) for line in lines for target in line.targets if f"({name}" in text(line.value)}


def _asks_of(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression asks for the class of one of ``names``, as it is or of what it holds."""
    return any(isinstance(part, ast.Name) and part.id in names for of in _classed(node) for part in every(of))


def _asks(node: ast.AST, name: str) -> bool:
    """Whether an expression asks for the class of ``name`` as it is."""
    return name in map(text, _classed(node))


def _classed(node: ast.AST) -> list[ast.expr]:
    """What a node asks the class of: `isinstance(x, …)`, `type(x) is …`, `x.__class__ == …`, a `match`, what is
    looked up by it."""
    if isinstance(node, ast.Call) and same(node.func, "isinstance"):
        return node.args[:1]
    if isinstance(node, ast.Match) and any(isinstance(part, ast.MatchClass) for part in every(node)):
        return [node.subject]
    if isinstance(node, ast.Call) and same(node.func, "issubclass") and isinstance(node.args[0], ast.Call):
        return node.args[0].args
    parts = every(node.left) if isinstance(node, ast.Compare) else []
    if isinstance(node, ast.Subscript):  # `names[type(x)]`
        parts = every(node.slice)
    elif isinstance(node, ast.Call) and last(node.func) in ("get", "join"):  # a name, or a folder, of each class
        parts = [part for each in node.args for part in every(each)]
    called = [each for part in parts if isinstance(part, ast.Call) and same(part.func, "type") for each in part.args]
    return [*called, *(part.value for part in parts if isinstance(part, ast.Attribute) and part.attr == "__class__")]


def _known_by_itself(loop: ast.For, model: str) -> str:
    """Why a model must stay the one that is handed in: it is compared or looked up as such, or what wraps it is asked
    for what it alone has; "" where it is not."""
    for node in every(loop):
        words = [part.value for part in getattr(node, "args", ()) if isinstance(part, ast.Constant)]
        of = [node.value] if isinstance(node, ast.Attribute) and _WRAPPERS.fullmatch(node.attr) else []
        if isinstance(node, ast.Call) and (
            last(node.func) in ("get_state_dict", "save_model") or any(_WRAPPERS.fullmatch(str(word)) for word in words)
        ):
            of = node.args
        if model in map(text, of):
            return f"`{text(node)}` takes the model as it is handed in: unwrap it under another name by hand"
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare) and not any(isinstance(each, ast.Constant) for each in node.comparators):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        elif isinstance(node, ast.Call) and last(node.func) in ("index", "id", "get", "pop", "remove", "count"):
            parts = node.args
        if model in map(text, parts):
            return f"`{text(node)}` asks for the model as it is handed in: unwrap it under another name by hand"
    return ""


def _wrapped(script: Script, loop: ast.For) -> str:
    """Why a model is asked for the class of what wraps it: by that class, or by a model that is prepared; "" where it
    is not."""
    prepared = {text(part) for _, line in script.calls["prepare"] for part in every(line) if _stores(part)}
    for node in every(loop):
        if isinstance(node, ast.Call) and same(node.func, "isinstance") and _WRAPS.search(text(node)):
            return f"`{text(node)}` asks for what wraps the model: unwrap it below that, under another name, by hand"
        asked = node.args if isinstance(node, ast.Call) and same(node.func, "type") else []
        if not prepared.isdisjoint(map(text, asked)):
            return (
                f"`{text(node)}` is the class of what `prepare` gives: ask for that of what it unwraps, or skip the fix"
            )
    return ""


_WRAPS = re.compile(r"\b(FSDP|FullyShardedDataParallel|DeepSpeedEngine)\b")


def _stores(node: ast.AST) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute)) and type(node.ctx) is ast.Store


def _unwrapped(loop: ast.For, model: str) -> bool:
    tests = [each for each in loop.body if isinstance(each, ast.If)]
    asks = [each for each in tests if re.match(rf"hasattr\({model}, 'module|.*DeepSpeedEngine", text(each.test))]
    inside = [*loop.body, *(line for each in asks for line in each.body)]
    lines = [line for line in inside if isinstance(line, ast.Assign) and model in map(text, line.targets)]
    return any(word in text(line.value) for line in lines for word in ("unwrap", "extract_model", f"{model}.module"))


def _all_unwrapped(script: Script, loop: ast.For) -> bool:
    """Whether a hook unwraps the models before a loop over them: `models = [unwrap_model(m) for m in models]`."""
    [hook] = (each for each in save_hooks(script) if loop in script.inside(each.function))
    above = takewhile(lambda line: line is not loop, script.inside(hook.function))
    given = [line.value for line in above if isinstance(line, ast.Assign) and hook.models in map(text, line.targets)]
    return any("unwrap" in text(value) for value in given)


def _unwrap(script: Script, loop: ast.For) -> tuple[str, str]:
    """What unwraps a model, the script's own helper or the accelerator; and why there is none."""
    name, why = accelerator(script, loop)
    helper = "unwrap_model"
    if any(
        last(node.func) == helper and isinstance(node.func, ast.Name)
        for node in every(loop)
        if isinstance(node, ast.Call)
    ):
        return helper, ""
    return f"{name}.{helper}", why


def edits(block: Block, options: Options) -> Iterator[Splice]:
    loop = block.above[-1]
    model = block.script.once(_loops).get(loop, "")  # type: ignore[call-overload]
    if model and loop.lineno in block.todo and not block.in_else():  # type: ignore[attr-defined]
        unwrap, _ = _unwrap(block.script, loop)  # type: ignore[arg-type]
        yield Splice(0, 0, block.parse(f"{model} = {unwrap}({model})\n"))
