"""Let the first process say in which order a batch sampler goes through its batches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import imports, text

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "one order of batches for all processes"
WHY = """\
A batch sampler that shuffles with Python's own `random` does so on each process for itself. accelerate's
BatchSamplerShard lets each process go through the whole sampler and take every P-th batch: with another order on each,
some images are trained by several and others by none. With --seed the orders are the same, until a resume gives the
first process alone its random state back. So before it hands out batches the sampler takes the first process's, as
accelerate does with the generator of torch's own samplers. One process goes through them as before."""
LINKS = ("https://github.com/huggingface/diffusers/pull/13712",)
NEEDS = ()
GENERAL = True
UPSTREAM = "in order in the scripts of #13712; not elsewhere"
EXAMPLE = """\
import random
from accelerate.utils import set_seed
from torch.utils.data import BatchSampler


class Buckets(BatchSampler):
    def __iter__(self):
        random.shuffle(self.batches)
        for batch in self.batches:
            yield batch
"""

_NAME, _MODULE = "broadcast_object_list", "accelerate.utils"
_BESIDE = "set_seed"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The batch samplers that shuffle; in order where they take the first process's order right before they go through
    it."""
    found = []
    beside = imports(tree, _BESIDE) and any(isinstance(n, ast.ImportFrom) and n.module == _MODULE for n in tree.body)
    for sampler in (node for node in tree.body if isinstance(node, ast.ClassDef) and _is_sampler(node)):
        for method in (node for node in sampler.body if isinstance(node, ast.FunctionDef)):
            for index, loop in enumerate(method.body if method.name == "__iter__" else ()):
                if batches := _hands_out(loop):
                    above = method.body[index - 1] if index else loop
                    done = text(above) == f"{_NAME}({batches})" and imports(tree, _NAME)
                    reason = "" if done or beside else f"it does not import {_BESIDE} from {_MODULE}"
                    found.append(Site(loop.lineno, done, refuses=reason))
    return found


def _is_sampler(node: ast.ClassDef) -> bool:
    """Whether a class is a batch sampler that shuffles."""
    return "BatchSampler" in " ".join(map(text, node.bases)) and ".shuffle(" in text(node)


def _hands_out(loop: ast.stmt) -> str:
    """What a loop goes through that does nothing but yield it; "" for other statements."""
    yields = isinstance(loop, ast.For) and len(loop.body) == 1 and text(loop.body[0]) == f"yield {text(loop.target)}"
    return text(loop.iter) if yields else ""  # type: ignore[attr-defined]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if block.todo and not imports(block.script.tree, _NAME):
        beside = next((line for line in block.script.tree.body if _imports_beside(line)), None)
        yield from block.importing(_NAME, beside, _MODULE) if beside else ()
    for index, node in block.wanted():
        if block.owner() == "__iter__" and (batches := _hands_out(node)):
            order = f"{_NAME}({batches})"
            if not index or block.texts[index - 1] != order:
                yield Splice(index, index, block.parse(f"{order}  # the first process's order\n"))
            else:  # only the import was lacking
                yield Splice(index, index + 1, [block.statements[index]])


def _imports_beside(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and line.module == _MODULE and _BESIDE in [each.name for each in line.names]
