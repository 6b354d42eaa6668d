"""Let the first process say in which order a batch sampler goes through its batches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, handed, imports, text
from kit.fixes._roles import Script, read
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import last

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
_SHARED = re.compile(r"rank|world|num_replicas|num_processes|process_index")
_MAKES = ("Random", "default_rng", "RandomState")  # a generator of its own, of a seed
_DRAWS = re.compile(
    r"torch\.(randperm|multinomial)|(random|numpy\.random)\.(shuffle|sample|choices?|permutation|random|randint|randrange|rand)"
)


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The batch samplers that shuffle; in order where they take the first process's order right before they go through
    it."""
    script, found = read(tree), []
    beside = any(map(_imports_beside, tree.body))
    for sampler, method, index in _loops(tree):
        loop = method.body[index]
        batches = _hands_out(loop)
        if _shuffled(method, index, batches) and not _seeded(sampler, method):
            done = text(method.body[index - 1]) == f"{_NAME}({batches})" and imports(tree, _NAME)
            reason = "" if beside else f"it imports nothing from {_MODULE}: import {_NAME} from there"
            if loader := _unprepared(script, sampler.name):
                reason = f"`{loader}` is not prepared: each process goes through all of it, in an order of its own"
            alone = "the main process alone goes through it, and would wait for the others: skip the fix"
            reason = alone if _alone(script, sampler.name) else reason
            found.append(Site(loop.lineno, done, refuses="" if done else reason))
    return found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    script = read(tree)
    loops = {sampler: (method, index) for sampler, method, index in _loops(tree)}
    for sampler, (method, index) in loops.items():
        if not _shuffled(method, index, _hands_out(method.body[index])) and not _seeded(sampler, method):
            yield Sign(method.body[index].lineno, "batches that each process shuffles for itself")
    accelerates = any(meant.startswith("accelerate") for meant, _ in script.imports.values())
    for line, _ in script.statements if accelerates else ():
        if isinstance(line, ast.ClassDef) and line not in loops and (draw := _draws(script, line)):
            yield Sign(draw.lineno, "batches that each process shuffles for itself")


def _draws(script: Script, owner: ast.ClassDef) -> ast.Call | None:
    """Where a sampler of the script's, whatever it is made of, draws an order as it hands it out, by random numbers
    that each process has for itself; None where it does not, or gives each process a share of its own."""
    methods = {each.name: each for each in owner.body if isinstance(each, ast.FunctionDef)}
    given = [call for call, _ in script.calls.get("DataLoader", ())]
    used = {
        name
        for call in given
        for each in handed(call, "sampler", "batch_sampler", at=None)
        for name in _made(script, each)
    }
    sampler = "Sampler" in " ".join(map(text, owner.bases)) or owner.name in used
    if not sampler or "__iter__" not in methods or _SHARED.search(text(owner)):
        return None
    pending = [methods["__iter__"]]
    for method in pending:
        for node in every(method):
            drawn = isinstance(node, ast.Call) and _DRAWS.fullmatch(script.full(node.func))
            if drawn and not handed(node, "generator", at=None):  # type: ignore[arg-type]
                return node  # type: ignore[return-value]
            name = text(node.func).removeprefix("self.") if isinstance(node, ast.Call) else ""
            pending += [methods[name]] if name in methods and methods[name] not in pending else []
    return None


def _made(script: Script, node: ast.expr) -> set[str]:
    """What classes, or functions, make a value: itself, or what a name is given."""
    values = [node, *(script.assigned.get(node.id, ()) if isinstance(node, ast.Name) else ())]
    return {last(value.func) for value in values if isinstance(value, ast.Call)}


def _unprepared(script: Script, sampler: str) -> str:
    """A loader of a sampler that accelerate does not prepare, where one is seen; "" where it does, or none is."""
    names = {sampler}
    loaders = set()
    for line, _ in script.statements:
        if isinstance(line, ast.Assign) and names & set(map(last, every(line.value))):
            targets = {text(each) for each in line.targets}
            names |= {each.rpartition(".")[2] for each in targets}
            loaders |= targets if isinstance(line.value, ast.Call) and last(line.value.func) == "DataLoader" else set()
    calls = [call for name in ("prepare", "prepare_data_loader") for call, _ in script.calls.get(name, ())]
    given = {last(part) for call in calls for each in call.args for part in every(each)}
    starred = any(isinstance(each, ast.Starred) for call in calls for each in call.args)
    return "" if starred or names & given else min(loaders, default="")


def _loops(tree: ast.Module) -> list[tuple[ast.ClassDef, ast.FunctionDef, int]]:
    """The loops that hand out the batches: the sampler, its `__iter__`, the position of the loop there."""
    return [
        (sampler, method, index)
        for sampler in tree.body
        if isinstance(sampler, ast.ClassDef) and _is_sampler(sampler)
        for method in sampler.body
        if isinstance(method, ast.FunctionDef) and method.name == "__iter__"
        for index, loop in enumerate(method.body)
        if _hands_out(loop)
    ]


def _shuffled(method: ast.FunctionDef, index: int, batches: str) -> bool:
    """Whether a list is shuffled in a method, and the same one when the loop at a position goes through it."""
    above = method.body[:index]
    at = max((n for n, line in enumerate(above) if f".shuffle({batches})" in text(line)), default=None)
    nodes = [node for line in above[at:] for node in every(line)] if at is not None else []
    again = any(type(getattr(node, "ctx", None)) is ast.Store and text(node) == batches for node in nodes)
    return at is not None and not again and re.fullmatch(r"(self\.)?\w+", batches) is not None


def _seeded(sampler: ast.ClassDef, method: ast.FunctionDef) -> bool:
    """Whether a method seeds what it shuffles with, or that was made of a seed: alike on all processes."""
    calls = [node for node in every(method) if isinstance(node, ast.Call)]
    if any(text(call.func).endswith("random.seed") and call.args for call in calls):
        return True
    owners = {text(call.func).rpartition(".")[0] for call in calls if last(call.func) == "shuffle"}
    given = [node for node in every(sampler) if isinstance(node, ast.Assign) and owners & set(map(text, node.targets))]
    made = [node.value for node in given if isinstance(node.value, ast.Call)]
    return bool(made) and all(last(call.func) in _MAKES and (call.args or call.keywords) for call in made)


def _alone(script: Script, sampler: str) -> bool:
    """Whether the main process alone goes through what a sampler is in."""
    names = {sampler}
    for line, _ in script.statements:
        if isinstance(line, ast.Assign) and names & set(map(last, every(line.value))):
            names |= {text(each) for each in line.targets}
    loops = [line for line, _ in script.statements if isinstance(line, ast.For)]
    return any(roles.alone(script, loop) for loop in loops if names & set(map(last, every(loop.iter))))


def _is_sampler(node: ast.ClassDef) -> bool:
    """Whether a class is a batch sampler that shuffles, and that hands out the same to every process."""
    shuffles = "BatchSampler" in " ".join(map(text, node.bases)) and ".shuffle(" in text(node)
    return shuffles and not _SHARED.search(text(node))


def _hands_out(loop: ast.stmt) -> str:
    """What a loop goes through that does nothing but yield it; "" for other statements."""
    yields = isinstance(loop, ast.For) and [*map(text, loop.body)] == [f"yield {text(loop.target)}"]
    return text(loop.iter) if yields else ""  # type: ignore[attr-defined]


def edits(block: Block, options: Options) -> Iterator[Splice]:
    if block.todo and not imports(block.script.tree, _NAME):
        beside = next((line for line in block.script.tree.body if _imports_beside(line)), None)
        yield from block.importing(_NAME, beside, _MODULE) if beside else ()
    for index, node in block.wanted():
        order = f"{_NAME}({_hands_out(node)})"
        *_, above = block.texts[:index]
        if above != order:
            yield Splice(index, index, block.parse(f"{order}  # the first process's order\n"))
        else:  # only the import was lacking
            yield Splice.instead(index, [block.statements[index]])


def _imports_beside(line: ast.stmt) -> bool:
    return isinstance(line, ast.ImportFrom) and line.module == _MODULE and "*" not in {each.name for each in line.names}
