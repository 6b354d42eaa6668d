"""Encode with an offloaded model while it is on the device."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._alike import sharing
from kit.fixes._ast import every, handed, same, text
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
    script, found = read(tree), []
    for node, _ in script.statements:
        if model := _model(node):
            outside = _below(model, script.below(node))
            if outside or _encodes(node, model):
                second = sharing(script.block(node)) if outside else None
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
    known = [site.line for site in sites(tree, options) if not site.done]
    for node, _ in script.statements:
        for model in _models(script, node) if node.lineno not in known else ():
            below = script.below(node)
            later = [line for line in script.inside(script.scopes(node)[0]) if node.lineno < line.lineno]
            for line in later:
                parts = own(line)
                works = any(_uses(each, model) or (line in below and _hands(each, model)) for each in parts)
                works = works and not any(isinstance(each, ast.Lambda) for each in parts)
                if works and _away(script, model, line, later):
                    yield Sign(line.lineno, f"`{model}` at work below the block that has it on the device")


def _models(script: Script, node: ast.AST) -> list[str]:
    """What a `with` has on the device by `offload_models`, or by a context of the script's own that does as much,
    whatever that is called and beside what it stands."""
    found = []
    for item in node.items if isinstance(node, ast.With) else ():
        call = item.context_expr
        if (
            isinstance(call, ast.Call)
            and (script.full(call.func).endswith("offload_models") or _own(script, call))
            and "False" not in map(text, handed(call, "offload", at=None))
        ):
            given = [*call.args, *(each.value for each in call.keywords), item.optional_vars]
            found += [text(model) for model in given if model]
    return found


def _own(script: Script, call: ast.Call) -> bool:
    """Whether a context of the script's own puts a model back on the CPU at its end."""
    made = script.called(call)
    parts = every(made) if made else []
    starts = [each.lineno for each in parts if isinstance(each, ast.Yield)]
    exits = [(each, script.class_of(each)) for each in script.functions.get("__exit__", ())]
    ends = [part for each, owner in exits if owner and owner.name == last(call.func) for part in every(each)]
    below = [each for each in parts if isinstance(each, ast.Expr) and any(start < each.lineno for start in starts)]
    alone = [*below, *(each for each in ends if isinstance(each, ast.Expr))]  # what a tensor's `.cpu()` gives is used
    return any(re.search(r"\.(cpu\(\)|to\((device=)?'cpu'\))$", text(each)) for each in alone)


def _uses(node: ast.AST, model: str) -> bool:
    return isinstance(node, ast.Call) and any(same(node.func, f"{model}.{does}") for does in ("encode", "decode"))


def _hands(node: ast.AST, model: str) -> bool:
    """Whether a model works otherwise: called itself, by a method that is asked for, in what encodes with it."""
    if isinstance(node, ast.Attribute):
        return any(same(node, f"{model}.{does}") for does in ("encode", "decode", "encode_prompt", "forward"))
    given = [*node.args, *(each.value for each in node.keywords)] if isinstance(node, ast.Call) else []
    works = given and re.search(r"encode|decode|embed", last(node.func))  # type: ignore[attr-defined]
    return any(works and same(each, model) for each in given) or same(getattr(node, "func", None), model)


def _away(script: Script, model: str, line: ast.stmt, later: Sequence[ast.stmt]) -> bool:
    """Whether a model is still away at a line that is ``later`` than its block: neither moved nor made anew, nor in
    such a block."""
    between = [each for each in later if each.lineno <= line.lineno]
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
