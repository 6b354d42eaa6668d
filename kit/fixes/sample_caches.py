"""Keep what is encoded before training by sample, not by batch: every image with its own latents and captions."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes import _caches as caches
from kit.fixes._ast import imports, text
from kit.fixes._caches import Cache, Kind, Plan
from kit.fixes._passes import kept_in_order
from kit.fixes._roles import Script
from kit.fixes._roles import read as _script
from kit.fixes._roles._script import own
from kit.fixes._samples import Function, Unknown

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "cache latents and captions by sample"
WHY = """\
The caches of latents and captions are filled with the batches of a loader and read by the number of the batch in
training. By then the loader has shuffled again, and on several processes it is sharded: each process reads the first
1/P of its own cache, the same batches every epoch. Two processes train on 6 or 7 of 8 images, with --seed on 4, both
on the same ones. Where only captions or only latents are cached, images are trained with the captions of others, on
one process too. Upstream mended some scripts so (#13353, #13712): a sample carries its index, and the caches are read
by that. The batches are then those of a run without caches."""
LINKS = (
    "https://github.com/huggingface/diffusers/pull/13353",
    "https://github.com/huggingface/diffusers/pull/13712",
)
NEEDS = ("torch",)
GENERAL = True
CHANGES = (
    "With --cache_latents or captions of their own, images come in the order of a run without caches, new each epoch."
)
UPSTREAM = "taken in some scripts (#13353, #13712)"
EXAMPLE = """\
import torch


class Pictures(Dataset):
    def __getitem__(self, index):
        example = {}
        example["picture"] = self.pictures[index]
        return example


def collate(examples):
    batch = {"pixels": torch.stack([example["picture"] for example in examples])}
    return batch


def main(args, accelerator, vae):
    pictures = Pictures(args.folder)
    loader = torch.utils.data.DataLoader(pictures, shuffle=True, collate_fn=lambda each: collate(each))
    cache = []
    for batch in loader:
        cache.append(vae.encode(batch["pixels"]).latent_dist)
    loader = accelerator.prepare(loader)
    for step, batch in enumerate(loader):
        latents = cache[step].sample()
"""

_GAUSSIAN = "DiagonalGaussianDistribution"
_MODULE = "diffusers.models.autoencoders.vae"
_FUNCTIONS = f'''\
def {caches.FILL}(cache, indices, values, dim=0):
    """Keep what a batch was encoded to apart by sample: its row and, if there is one, that of its class image."""
    shares = values.unflatten(dim, (-1, len(indices))).unbind(dim + 1)
    cache.update(zip(indices, shares))


def {caches.READ}(cache, indices, dim=0):
    """Put together for a batch of samples what `{caches.FILL}` took apart."""
    return torch.stack([cache[index] for index in indices], dim + 1).flatten(dim, dim + 1)
'''
_CAPTIONS = f'''\
def {caches.PAD}(cache, masks, indices):
    """As `{caches.READ}`, for captions: padded to the longest of the batch, as if it had been encoded together."""
    longest = int(torch.stack([masks[index].sum(dim=1).max() for index in indices]).max())
    padded = []
    for captions in (cache[index][:, :longest] for index in indices):
        missing = captions.new_zeros(captions.shape[0], longest - captions.shape[1], *captions.shape[2:])
        padded.append(torch.cat([captions, missing], dim=1))
    return torch.stack(padded, 1).flatten(0, 1)
'''
_INDICES = 'batch["indices"]'
_FIXED = "has_step_indexed_caches"  # why a sampler of upstream's does not shuffle anew each epoch (#13353)
_WIDTH = 119  # of a line in diffusers


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements of a training loop that take a batch from a cache; in order where they do so by the samples."""
    done = [Site(line, True) for line in caches.by_sample(tree)]
    try:
        plan = caches.read(tree)
    except Unknown as error:
        return [*done, Site(caches.by_step(tree)[0][0].lineno, False, refuses=str(error))]
    other = next(kept_in_order(_script(tree)), None) if plan else None
    why = (
        f"`{other[1]}` (line {other[0]}) is read by the batch, too, in a way it does not know: mend that first"
        if other
        else ""
    )
    return [*done, *(Site(line, False, refuses=why) for line in plan.lines)] if plan else done


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    for line, name in kept_in_order(_script(tree)):
        yield Sign(line, f"what one pass over the batches kept (`{name}`), read in the order of another")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    plan = block.script.once(_plan) if block.todo else None
    if not plan:
        return
    if block.at_top:
        yield from _functions(block, plan, imports(block.script.tree, _GAUSSIAN))
    owner = block.owner()
    known = plan.samples
    if owner == "__getitem__" and getattr(block.above[-2], "name", "") == known.dataset:
        yield from _below(block, known.container, known.of_sample)
    if owner == known.collate:
        yield from _below(block, known.batch, known.of_batch)
    for index, node in block.simple():
        if not hasattr(node, "body"):
            names = {each.id for each in own(node) if isinstance(each, ast.Name)}
            if _FIXED in names:
                line = block.line(block.statements[index])
                yield from _instead(
                    block, index, line.replace(f"{_FIXED} = ", "").replace(f"not {_FIXED}", "True"), False
                )
            for cache in plan.caches:
                if cache.name in names and (new := _rewritten(node, cache, len(block.above) - 1)):
                    written = new[0].replace("\n    ", f"\n{block.module.default_indent}")  # inside parentheses, too
                    yield from _instead(block, index, written, new[1])


def _plan(script: Script) -> Plan | None:
    return caches.read(script.tree)


def _functions(block: Block, plan: Plan, imported: bool) -> Iterator[Splice]:
    lines = [_from(node) for node in block.nodes]
    if any(cache.kind is Kind.LATENTS for cache in plan.caches) and not imported:
        later = [at for at, module in enumerate(lines) if module.startswith("diffusers.") and module > _MODULE]
        first = [at + 1 for at, module in enumerate(lines) if module == "diffusers"]
        place = (later or first or [at + 1 for at, line in enumerate(lines) if line] or [block.below_imports()])[0]
        yield Splice(place, place, block.parse(f"from {_MODULE} import {_GAUSSIAN}\n"), counted=False)
    for index, node in block.simple():
        if isinstance(node, Function) and node.name == plan.function:
            padded = any(cache.masks for cache in plan.caches)
            yield block.above_function(index, block.parse(f"{_FUNCTIONS}\n\n{_CAPTIONS}" if padded else _FUNCTIONS))


def _from(node: ast.stmt | None) -> str:
    """The module that a `from module import …` line is about."""
    return node.module or "" if isinstance(node, ast.ImportFrom) and not node.level else ""


def _assigns(node: ast.stmt, name: str) -> bool:
    """Whether a statement is just `name = …`."""
    return isinstance(node, ast.Assign) and [text(each) for each in node.targets] == [name]


def _below(block: Block, name: str, line: str) -> Iterator[Splice]:
    """``line`` below the one that gives ``name`` its dictionary, unless there is one that does the same."""
    for index, node in block.simple():
        if _assigns(node, name) and text(ast.parse(line)) not in block.texts:
            yield Splice.below(index, block.parse(f"{line}\n"), counted=False)


def _instead(block: Block, index: int, code: str, counted: bool) -> Iterator[Splice]:
    first, *rest = block.parse(f"{code}\n")
    above = block.statements[index].leading_lines  # type: ignore[attr-defined]
    yield Splice.instead(index, [first.with_changes(leading_lines=above), *rest], counted)


def _rewritten(node: ast.stmt, cache: Cache, depth: int) -> tuple[str, bool] | None:
    """What stands instead of a statement about ``cache``, and whether it was one that read it."""
    several = cache.kind is Kind.SEVERAL
    if isinstance(node, ast.Assign) and text(node) in (f"{cache.name} = []", f"{cache.name} = list()"):
        return f"{cache.name} = " + (f"({', '.join(['{}'] * len(cache.dims))})" if several else "{}"), False
    if caches.appended(node) == cache.name:
        return _fill(node.value.args[0], cache, depth), False  # type: ignore[attr-defined]
    if isinstance(node, ast.Assign) and caches.reads(node, cache.name):
        return _read(node, cache, depth), True
    return None


def _fill(value: ast.expr, cache: Cache, depth: int) -> str:
    given = text(value).replace("'", '"')
    if cache.kind is Kind.LIST:
        share = f"(index, {given}[i :: len({_INDICES})])"
        return f"{cache.name}.update(\n    {share} for i, index in enumerate({_INDICES})\n)"
    if cache.kind is Kind.SEVERAL:
        parts = value.elts if isinstance(value, ast.Tuple) else []
        shared = [_shared(part, dim) for part, dim in zip(parts, cache.dims, strict=True)] if parts else []
        given = f"({', '.join(shared)})" if shared else given
        loop = _call("for cache, values in ", "zip", [cache.name, given], ":", depth)
        return f"{loop}\n    {caches.FILL}(cache, {_INDICES}, values)"
    rest = ".parameters" if cache.kind is Kind.LATENTS else ""
    return _call("", caches.FILL, [cache.name, _INDICES, given + rest, *_dim(cache)], "", depth)


def _shared(part: ast.expr, dim: int | None) -> str:
    return f"{text(part)}.expand(len({_INDICES}), -1, -1)" if dim is None else text(part)


def _read(node: ast.Assign, cache: Cache, depth: int) -> str:
    target = text(node.targets[0]).strip("()")
    if cache.kind is Kind.LIST:
        shares = f"{target} = [{cache.name}[index] for index in {_INDICES}]"
        return f"{shares}\n{target} = [row for rows in zip(*{target}) for row in rows]"
    if cache.kind is Kind.SEVERAL:
        gathered = f"{target} = (\n    {caches.READ}(cache, {_INDICES}) for cache in {cache.name}\n)"
        alike = [name for name, dim in zip(target.split(", "), cache.dims, strict=True) if dim is None]
        return "\n".join([gathered, *(f"{name} = {name}[0]" for name in alike)])
    if cache.kind is Kind.LATENTS:
        gathered = f"{caches.READ}({cache.name}, {_INDICES})"
        method: str = node.value.func.attr  # type: ignore[attr-defined]
        return _call(f"{target} = ", _GAUSSIAN, [gathered], f".{method}()", depth)
    if cache.masks:
        return _call(f"{target} = ", caches.PAD, [cache.name, cache.masks, _INDICES], "", depth)
    return _call(f"{target} = ", caches.READ, [cache.name, _INDICES, *_dim(cache)], "", depth)


def _dim(cache: Cache) -> list[str]:
    return [f"dim={cache.dims[0]}"] if cache.dims[0] else []


def _call(before: str, name: str, arguments: Sequence[str], after: str, depth: int) -> str:
    """A line with a call, over three lines where it would be too wide ``depth`` blocks deep."""
    inside = ", ".join(arguments)
    line = f"{before}{name}({inside}){after}"
    return line if 4 * depth + len(line) <= _WIDTH else f"{before}{name}(\n    {inside}\n){after}"
