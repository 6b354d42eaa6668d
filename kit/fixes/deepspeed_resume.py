"""Leave a LoRA to DeepSpeed when a run under it is resumed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice, _deepspeed
from kit.fixes._ast import every, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import Function
from kit.fixes._roles.holders import accelerator
from kit.fixes._roles.hooks import load_hooks

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

_READERS = {"open", "load_file", "load_state_dict", "read_text", "read_bytes", "load_from_checkpoint"}
_LOADERS = {"torch.load", "json.load", "pickle.load", "numpy.load", "np.load", "yaml.safe_load"}


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The load hooks that load a LoRA; in order where they treat DeepSpeed apart, and load no second model for it."""
    script = read(tree)
    named = _deepspeed.named(script, options)
    return [_site(script, hook, named and _apart(hook)) for hook in _hooks(script)]


def _apart(hook: Function) -> bool:
    """Whether a hook leaves at once under DeepSpeed, or asks for it and loads no model there."""
    first = next(line for line in [*hook.body, hook] if not isinstance(line, ast.Expr))
    if isinstance(first, ast.If) and isinstance(first.body[0], ast.Return) and _deepspeed.asks(first.test):
        return True
    choices = [node for node in every(hook) if isinstance(node, ast.If) and "deepspeed" in text(node.test).lower()]
    loads = any(getattr(node, "attr", "") == "from_pretrained" for each in choices for node in every(each))
    return any(map(_deepspeed.asks, every(hook))) and not loads


def _hooks(script: Script) -> list[Function]:
    return [
        hook.function
        for hook in load_hooks(script)
        if any(isinstance(node, ast.Attribute) and node.attr == "lora_state_dict" for node in every(hook.function))
    ]


def _site(script: Script, hook: Function, done: bool) -> Site:
    why = accelerator(script, hook.body[0])[1]
    ema = "it loads averaged weights, too, which DeepSpeed knows nothing of: part the two, and leave those alone"
    refuses = f"{why}: bind it above, or skip the fix" if why else ema if _loads_ema(hook) else _loads_more(hook)
    return Site(hook.lineno, done, refuses="" if done else refuses)


def _loads_ema(hook: ast.AST) -> bool:
    """Whether a hook loads averaged weights, too, which DeepSpeed knows nothing of."""
    names = {getattr(node, "id", "") for node in every(hook)} | {getattr(node, "attr", "") for node in every(hook)}
    return any("ema" in name.lower().split("_") for name in names)


def _loads_more(hook: Function) -> str:
    """What a hook does that DeepSpeed's engine does not, as a reason to refuse; "" where it loads the LoRA alone."""
    for node in every(hook):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            return f"it sets {', '.join(node.names)}, too, of which DeepSpeed knows nothing: part the two"
        called = text(node.func) if isinstance(node, ast.Call) else ""
        if called in _LOADERS or called.rpartition(".")[2] in _READERS:
            return f"it calls {called}(), too, of which DeepSpeed knows nothing: part the two, and leave that alone"
    return ""


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
        yield Splice(at, at + 1, new or [first])  # or only the name was lacking
