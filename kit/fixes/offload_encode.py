"""Encode with an offloaded model while it is on the device."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._alike import sharing
from kit.fixes._ast import block_of, every, handed, same, statements, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last, own

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "encode with the VAE before it is back on the CPU"
WHY = """\
`with offload_models(vae, device=…)` has the VAE on the device inside it, and puts it back at its end. Where the script
only casts the pixels inside and encodes them below, --offload ends the run: the weights are on the CPU by then, the
pixels on the device (`Expected all tensors to be on the same device`). On a CPU alone nothing shows."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "FLUX.2, Z-Image and Ideogram 4 have it right; three scripts do not"
EXAMPLE = """\
def main(args, accelerator, vae, loader):
    for batch in loader:
        with offload_models(vae, device=accelerator.device, offload=args.offload):
            pixels = batch["pixels"].to(dtype=vae.dtype)
        latents = vae.encode(pixels).latent_dist.sample()
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The blocks that have a model on the device which encodes in them, or in the lines right below; in order where it
    is in them. What a loop or a choice below does has its own blocks, or is left to a person."""
    found = []
    for node, above in statements(tree):
        if model := _model(node):
            block = block_of(node, above)
            outside = _below(model, block[block.index(node) + 1 :])
            if outside or _encodes(node, model):
                second = sharing(block) if outside else None
                refuses = (
                    f"several statements share line {second.lineno}: give each a line of its own" if second else ""
                )
                found.append(Site(node.lineno, not outside, refuses=refuses))
    return found


def _model(node: ast.AST) -> str:
    """What `with offload_models(model, …)` has on the device; "" for other statements."""
    match node:
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name(id="offload_models"), args=[model]))]):
            return text(model)
    return ""


def _below(model: str, lines: Sequence[ast.stmt | None]) -> int:
    """How many of the lines, from the first on, encode with the model."""
    return len(list(itertools.takewhile(lambda each: each and _is_now(each) and _encodes(each, model), lines)))


def _is_now(statement: ast.stmt) -> bool:
    """Whether all that a statement says is done there, once."""
    return not hasattr(statement, "body") and not any(isinstance(node, ast.Lambda) for node in every(statement))


def _encodes(statement: ast.stmt, model: str) -> bool:
    return any(isinstance(node, ast.Call) and same(node.func, f"{model}.encode") for node in every(statement))


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a model encodes below a block that had it on the device, with something between, or in a block there."""
    script = read(tree)
    for node, above in script.statements:
        for model in _models(script, node):
            function = script.scopes(node)[0]
            block = block_of(node, above)
            below = block[block.index(node) + 1 :]
            known = _model(node) == model and _below(model, below)
            for line in script.inside(function):
                parts = own(line)
                works = any(_uses(each, model) or (line in below and _hands(each, model)) for each in parts)
                works = works and not any(isinstance(each, ast.Lambda) for each in parts)
                later = works and line.lineno > (node.end_lineno or 0)
                if later and not known and _away(script, function, model, node, line):
                    yield Sign(line.lineno, f"`{model}` at work below the block that has it on the device")


def _models(script: Script, node: ast.AST) -> list[str]:
    """What a `with` has on the device by `offload_models`, or by a context of the script's own that does as much,
    whatever that is called and beside what it stands."""
    found = []
    for item in node.items if isinstance(node, ast.With) else ():
        call = item.context_expr
        if (
            isinstance(call, ast.Call)
            and ("offload_models" in (last(call.func), script.full(call.func).rpartition(".")[2]) or _own(script, call))
            and "False" not in map(text, handed(call, "offload", at=None))
        ):
            given = [*call.args, *(each.value for each in call.keywords), item.optional_vars]
            found += [text(model) for model in given if model]
    return found


def _class(script: Script, method: ast.stmt) -> str:
    owner = script.class_of(method)
    return owner.name if owner else ""


def _own(script: Script, call: ast.Call) -> bool:
    """Whether a context of the script's own puts a model back on the CPU at its end."""
    made = script.called(call)
    starts = [each.lineno for each in every(made) if isinstance(each, ast.Yield)] if made else []
    ends = [each for each in script.functions.get("__exit__", ()) if _class(script, each) == last(call.func)]
    parts = [part for each in ([made] if made and starts else ends) for part in every(each)]
    lines = [part.value for part in parts if isinstance(part, ast.Expr) and part.lineno > min(starts, default=0)]
    below = [call for call in lines if isinstance(call, ast.Call)]  # what a tensor's `.cpu()` gives is used
    return any(last(part.func) == "cpu" or re.search(r"\.to\((device=)?'cpu'\)$", text(part)) for part in below)


def _uses(node: ast.AST, model: str) -> bool:
    return isinstance(node, ast.Call) and any(same(node.func, f"{model}.{does}") for does in ("encode", "decode"))


def _hands(node: ast.AST, model: str) -> bool:
    """Whether a model works otherwise: called itself, by a method that is asked for, in what encodes with it."""
    if isinstance(node, ast.Attribute):
        return any(same(node, f"{model}.{does}") for does in ("encode", "decode", "encode_prompt", "forward"))
    given = [*node.args, *(each.value for each in node.keywords)] if isinstance(node, ast.Call) else []
    works = given and re.search(r"encode|decode|embed", last(node.func))  # type: ignore[attr-defined]
    return any(works and same(each, model) for each in given) or same(getattr(node, "func", None), model)


def _away(script: Script, function: ast.AST, model: str, node: ast.stmt, line: ast.stmt) -> bool:
    """Whether a model is still away at a line below a block: neither moved nor made anew, nor in another such block."""
    between = [each for each in script.inside(function) if node.lineno < each.lineno <= line.lineno]
    moved = any(
        isinstance(part, ast.Call) and text(part.func).startswith((f"{model}.to", f"{model}.cuda"))
        for each in between
        for part in own(each)
    )
    made = any(isinstance(each, ast.Assign) and model in map(text, each.targets) for each in between)
    other = any(model in _models(script, each) for each in script.above[line])
    return not (moved or made or other)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        end = index + 1 + _below(_model(node), block.nodes[index + 1 :])
        first, *below = block.statements[index:end]
        yield Splice(index, end, [block.with_body(first, [*block.body(first), *below])])
