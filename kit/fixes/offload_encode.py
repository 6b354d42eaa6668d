"""Encode with an offloaded model while it is on the device."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._alike import sharing
from kit.fixes._ast import block_of, every, same, statements, text

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


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        end = index + 1 + _below(_model(node), block.nodes[index + 1 :])
        first, *below = block.statements[index:end]
        yield Splice(index, end, [block.with_body(first, [*block.body(first), *below])])
