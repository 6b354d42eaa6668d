"""Leave a LoRA to DeepSpeed when a run under it is resumed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice, _deepspeed
from kit.fixes._ast import children, conjuncts, every, same, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import Function, last, own
from kit.fixes._roles.holders import accelerator
from kit.fixes._roles.hooks import Hook, load_hooks

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "let DeepSpeed alone load the LoRA of a resumed run"
WHY = """\
Under DeepSpeed accelerate has the engine load the model, LoRA included, and hands the load hook an empty list. A
hook that takes its model from the list and goes on without one ends the resumed run: `AttributeError: 'NoneType'
object has no attribute 'peft_config'`. Upstream (#10378, #11737) loads a second model there, to no use: each process
has all its weights in float32 (82 GB for Qwen-Image), gives them the LoRA, and drops them. Leaving the hook does."""
LINKS = (
    "https://github.com/huggingface/diffusers/pull/10378",
    "https://github.com/huggingface/diffusers/pull/11737",
)
NEEDS = ()
GENERAL = True
UPSTREAM = "#10378 and #11737 load a second model there instead"
EXAMPLE = """\
from accelerate import Accelerator


def main(accelerator, Pipeline):
    def load_model_hook(models, input_dir):
        model = models.pop() if models else None
        state = Pipeline.lora_state_dict(input_dir)
        load(model, state)
"""

_LORA = "lora_state_dict"
_PART = ", of which DeepSpeed knows nothing: part the two"
_PLAIN = {_LORA, "join", "exists", "isfile", "isdir", "basename", "Path", "str", "int", "print", "info", "warning"}
_READERS = {
    "add_tokens",
    "add_special_tokens",
    "resize_token_embeddings",
    "open",
    "load_file",
    "load_state_dict",
    "read_text",
    "read_bytes",
    "load_from_checkpoint",
}
_LOADERS = {"torch.load", "json.load", "pickle.load", "numpy.load", "np.load", "yaml.safe_load"}


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The load hooks that load a LoRA; in order where they treat DeepSpeed apart, and load no second model for it."""
    script = read(tree)
    named = _deepspeed.named(script, options)
    return [
        _site(script, hook, _apart(hook.function, named) or _leaves_without(hook) or _asks_for_one(script, hook))
        for hook in _hooks(script).values()
    ]


def _leaves_without(hook: Hook) -> bool:
    """Whether a hook leaves where it is handed no model, before it reads what was saved."""
    made: set[str] = set()
    for line in hook.function.body:
        if isinstance(line, ast.If) and isinstance(line.body[-1], ast.Return) and not line.orelse:
            empty = [f"not {hook.models}", f"len({hook.models}) == 0", f"not len({hook.models})"]
            empty += [asked for name in made for asked in (f"{name} is None", f"not {name}")]
            return text(line.test) in empty
        if _reads_lora(line):
            return False
        given = [each for each in every(line) if isinstance(each, ast.Assign)]
        made |= {text(target) for each in given if _reads(each.value, {hook.models}) for target in each.targets}
    return False


def _asks_for_one(script: Script, hook: Hook) -> bool:
    """Whether a hook gives a LoRA to a model only where it was handed one: `if model is not None: …`."""
    found = []
    for line in script.inside(hook.function):
        for call in (node for node in own(line) if isinstance(node, ast.Call)):
            if last(call.func).startswith(("set_peft", "load_lora_into", "_set_state")):
                given = {text(each) for each in (*call.args, *(word.value for word in call.keywords))}
                ways = [node for node in script.above[line] if isinstance(node, ast.If)]
                asked = {part for node in ways for part in map(text, conjuncts(node.test))}
                found.append(not asked.isdisjoint([*given, *(f"{name} is not None" for name in given)]))
    return bool(found) and all(found)


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a load hook takes a model that DeepSpeed does not hand it, or gives a LoRA to none, in another form."""
    script = read(tree)
    known = script.once(_hooks)
    for hook in load_hooks(script):
        if hook.function in known or "deepspeed" in text(hook.function).lower() or _leaves_without(hook):
            continue
        for line in script.inside(hook.function):
            around = script.above[line][script.above[line].index(hook.function) :]
            asked = any(isinstance(node, (ast.If, ast.For, ast.While)) for node in around)
            if not asked and any(_needs_one(script, node, hook.models) for node in own(line)):
                yield Sign(line.lineno, "a load hook that needs a model, of which DeepSpeed hands it none")
                break


def _needs_one(script: Script, node: ast.AST, models: str) -> bool:
    """Whether an expression takes one of ``models``, whether there is one or not, or gives a LoRA to a model."""
    if isinstance(node, ast.Subscript):
        return same(node.value, models) and type(node.ctx) is ast.Load and not isinstance(node.slice, ast.Slice)
    if not isinstance(node, ast.Call):
        return False
    made = script.called(node)
    calls = [last(each.func) for each in every(made) if isinstance(each, ast.Call)] if made else []
    return same(node.func, f"{models}.pop") or bool({last(node.func), *calls} & {"set_peft_model_state_dict", _LORA})


def _apart(hook: Function, named: bool = True) -> bool:
    """Whether a hook leaves at once under DeepSpeed, or asks for it and loads no model there; ``named``: the script has
    the names that the test takes."""
    if not named and any(isinstance(node, ast.Name) and node.id == "DistributedType" for node in every(hook)):
        return False
    first = next(line for line in [*hook.body, hook] if not isinstance(line, ast.Expr))
    if isinstance(first, ast.If) and isinstance(first.body[0], ast.Return) and _deepspeed.asks(first.test):
        return True
    choices = [node for node in every(hook) if isinstance(node, ast.If) and "deepspeed" in text(node.test).lower()]
    loads = any(getattr(node, "attr", "") == "from_pretrained" for each in choices for node in every(each))
    return any(map(_deepspeed.asks, every(hook))) and not loads


def _hooks(script: Script) -> dict[Function, Hook]:
    """The load hooks that load a LoRA."""
    return {hook.function: hook for hook in load_hooks(script) if _reads_lora(hook.function)}


def _reads_lora(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == _LORA for each in every(node))


def _site(script: Script, hook: Hook, done: bool) -> Site:
    function = hook.function
    why = accelerator(script, function.body[0])[1]
    ema = "it loads averaged weights, too, which DeepSpeed knows nothing of: part the two, and leave those alone"
    refuses = f"{why}: bind it above, or skip the fix" if why else ema if _loads_ema(function) else ""
    return Site(
        function.lineno,
        done,
        refuses="" if done else refuses or _deepspeed.shadowed(script, function) or _loads_more(script, hook),
    )


def _loads_ema(hook: ast.AST) -> bool:
    """Whether a hook loads averaged weights, too, which DeepSpeed knows nothing of."""
    names = {getattr(node, key, "") for node in every(hook) for key in ("id", "attr")}
    return any("ema" in name.lower().split("_") for name in names)


def _loads_more(script: Script, hook: Hook) -> str:
    """What a hook does that DeepSpeed's engine does not, as a reason to refuse; "" where it loads the LoRA alone."""
    of_folder, of_models = {hook.folder}, {hook.models}  # names of what was read from the two
    for line in script.inside(hook.function):
        if isinstance(line, (ast.Global, ast.Nonlocal)):
            return f"it sets {', '.join(line.names)}, too{_PART}"
        for node in own(line):
            stored = isinstance(node, (ast.Attribute, ast.Subscript)) and type(node.ctx) is ast.Store
            if stored and text(node.value).partition(".")[0] not in of_models:  # type: ignore[attr-defined]
                return f"it sets {text(node)}, too{_PART}"
        if isinstance(line, (ast.Assign, ast.For)):
            value, targets = (line.iter, [line.target]) if isinstance(line, ast.For) else (line.value, line.targets)
            names = {each.id for target in targets for each in every(target) if isinstance(each, ast.Name)}
            other = _other_model(script, hook, line, of_models)
            if other:
                return f"it gives `{other}` what it loads, too{_PART}"
            of_folder |= names if _reads(value, of_folder) else set()
            of_models |= names if _reads(value, of_models) else set()
    for call in (node for node in every(hook.function) if isinstance(node, ast.Call)):
        called = last(call.func)
        handed = called not in _PLAIN and any(_reads(each, of_folder) for each in (*call.args, *call.keywords))
        if handed or called in _READERS or text(call.func) in _LOADERS:
            return f"it calls {text(call.func)}(), too{_PART}, and leave that alone"
    return ""


def _other_model(script: Script, hook: Hook, line: ast.stmt, of_models: set[str]) -> str:
    """What a loop over models goes over besides those that the hook is handed; "" where there is nothing."""
    over = line.iter if isinstance(line, ast.For) else None
    if not isinstance(over, (ast.Tuple, ast.List)) or not any(_reads(each, of_models) for each in over.elts):
        return ""
    return next(
        (text(each) for each in over.elts if not _reads(each, of_models) and not isinstance(each, ast.Constant)), ""
    )


def _reads(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression reads one of these names, other than to get the LoRA's state."""
    if isinstance(node, ast.Call) and last(node.func) == _LORA:
        return False
    return (isinstance(node, ast.Name) and node.id in names) or any(_reads(each, names) for each in children(node))


def edits(block: Block, options: Options) -> Iterator[Splice]:
    hook = block.above[-1]
    if block.todo:
        yield from _deepspeed.importing(block, options)
    if hook in block.script.once(_hooks) and hook.lineno in block.todo:
        name = accelerator(block.script, block.groups[0][0])[0]
        at = int(ast.get_docstring(hook) is not None and len(block.statements) > 1)
        first = block.statements[at]
        below = [*block.blank_lines(1), *first.leading_lines]  # type: ignore[attr-defined]
        code = f"if {_deepspeed.asked(block.script, name, options)}:\n    return\n"
        new = [] if _apart(hook) else [*block.parse(code), first.with_changes(leading_lines=below)]
        yield Splice.instead(at, new or [first])  # or only the name was lacking
