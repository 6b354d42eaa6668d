"""Go on with the batch that comes next, in the order of the epoch that was interrupted, when a run is resumed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._alike import sharing
from kit.fixes._ast import every, stored, text
from kit.fixes._resumed import (
    ITS_OWN_WAY,
    Unknown,
    check_leaving,
    check_resumed,
    keeps_its_place,
    method_calls,
    passes_over,
    without_length,
)
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import FUNCTIONS, own, shown

if TYPE_CHECKING:
    import libcst as cst

    from kit.fixes._block import Block

TITLE = "resume with the batch that comes next"
WHY = """\
A resumed run starts the interrupted epoch over, in another order: some images are trained twice in it, others not at
all. On several processes it does so at an epoch's end, too: there accelerate draws the order from a generator of its
own, whose state no checkpoint has, and the order of the first epoch comes again. Older scripts pass by as many batches
as are done, but of another order. Here each process saves, beside its random states, the states that the order was
drawn from and how many batches it has had, and the batches of a sampler that shuffles its own list anew each epoch.
Resumed, the order is drawn again and what is done is passed by; a run that is not interrupted stays as it was."""
LINKS = (
    "https://github.com/huggingface/accelerate/issues/2016",
    "https://github.com/huggingface/accelerate/issues/3996",
)
NEEDS = ("torch",)
GENERAL = True
AFTER = ("sample-caches",)  # which looks for loops over `enumerate(loader)`
UPSTREAM = "accelerate #2016 and #3996 are open"
EXAMPLE = """\
import torch


def main(accelerator, loader, model):
    loader, model = accelerator.prepare(loader, model)
    accelerator.load_state("checkpoint-1")
    for step, batch in enumerate(loader):
        accelerator.backward(model(batch))
"""

_CLASS, _NAME = "ResumableBatches", "train_batches"
_CODE = f'''\
class {_CLASS}:
    """Hand out the batches of each epoch with their numbers; a resumed run goes on with the one that comes next."""

    # An epoch's order is drawn as it starts, from torch's and Python's random numbers and, on several processes, from a
    # generator of accelerate's. Those states are saved with each checkpoint. A loader of accelerate's reads one batch
    # ahead: the states before it last did so are saved, too, and a random crop comes again as it was. Not so one that
    # numpy's random numbers choose.

    def __init__(self, accelerator, loader):
        self.accelerator, self.loader = accelerator, loader
        self.sampler = getattr(loader, "batch_sampler", None)
        while hasattr(self.sampler, "batch_sampler"):  # accelerate's, around the script's own
            self.sampler = self.sampler.batch_sampler
        generator = getattr(getattr(self.sampler, "sampler", None), "generator", None)
        self.generator = getattr(loader, "synchronized_generator", None) or generator
        self.done, self.loaded = 0, None
        self.start = self.ahead = self.states()
        accelerator.register_save_state_pre_hook(self.save)
        accelerator.register_load_state_pre_hook(self.load)

    def states(self):
        batches = list(getattr(self.sampler, "batches", ()))  # shuffled each epoch as the last one left them
        return torch.get_rng_state(), random.getstate(), self.generator and self.generator.get_state(), batches

    def restore(self, torch_state, python_state, generator_state, batches=()):
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if self.generator:
            self.generator.set_state(generator_state)
        if batches:
            self.sampler.batches[:] = batches

    def __iter__(self):
        loaded, self.loaded = self.loaded, None
        restored, passed = self.states(), 0
        if loaded:
            passed = loaded["done"] % len(self.loader)  # none where the epoch was at its end
            restored = restored[0], *loaded["now"][1:]
            self.restore(*(loaded["start"] if passed else restored))
            self.loader.iteration = loaded["iteration"] + (not passed)
        self.start = self.ahead = self.states()
        for step, batch in enumerate(self.loader):
            self.done = step + 1
            if self.done > passed:
                yield step, batch
            elif self.done == passed:
                self.restore(*restored)
            elif self.done == passed - 1:
                self.restore(*loaded["ahead"])
            self.ahead = self.states()

    def shape(self):
        return self.accelerator.num_processes, len(self.loader)

    def save(self, models, weights, folder):
        state = {{"start": self.start, "ahead": self.ahead, "now": self.states(), "done": self.done}}
        state.update(iteration=getattr(self.loader, "iteration", 0), shape=self.shape())
        torch.save(state, os.path.join(folder, f"batch_order_{{self.accelerator.process_index}}.pt"))

    def load(self, models, folder):
        paths = [os.path.join(folder, f"batch_order_{{i}}.pt") for i in (self.accelerator.process_index, 0)]
        path = next(filter(os.path.isfile, paths), None)  # the first process's where it alone saves
        self.loaded = torch.load(path) if path else None
        if not self.loaded or tuple(self.loaded["shape"]) != self.shape():
            self.loaded = None
            self.accelerator.print(f"No order of as many batches is saved in {{folder}}: its epoch starts over.")
'''


@dataclass(frozen=True)
class Plan:
    """How a module's function trains: the loop over batches, as `ast` writes what it is over, on which line; the loader
    and the accelerator; the position of the statement that loads a checkpoint."""

    function: str
    line: int
    over: str
    loader: str
    accelerator: str
    at: int


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The loops over batches of the functions that load a checkpoint; in order where a class hands out the batches."""
    return [
        Site(line, False, (found.accelerator,)) if isinstance(found, Plan) else Site(line, not found, refuses=found)
        for line, found in read(tree).once(_found)
    ]


def _found(script: Script) -> list[tuple[int, Plan | str]]:
    """For each loop over batches, its line and what to do to it, why that is not known, or "" where it is in order."""
    tree, found = script.tree, list[tuple[int, Plan | str]]()
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and _loads(function) is not None and (loops := _loops(function)):
            try:
                done = text(loops[0].iter) == _NAME and _CLASS in _bound(tree)
                found.append((loops[0].lineno, "" if done else _plan(tree, function, loops)))
            except Unknown as reason:
                found.append((loops[0].lineno, str(reason)))
    return found


def _plan(tree: ast.Module, function: ast.FunctionDef, loops: list[ast.For]) -> Plan:
    """What to do to a function. Raises Unknown."""
    loop, at = loops[0], _loads(function)
    if len(loops) > 1:
        raise Unknown(f"`{function.name}` trains in {len(loops)} loops: which of them was interrupted?")
    over = loop.iter.args[0] if _numbered(loop) else loop.iter  # type: ignore[attr-defined]
    if not isinstance(over, ast.Name):
        raise Unknown(f"it goes over `{text(loop.iter)}`: make that `enumerate(…)` of a loader")
    preparing = [(call, place) for place, each in enumerate(function.body) for call in method_calls(each, "prepare")]
    places = [
        (text(call.func.value), place)  # type: ignore[attr-defined]
        for call, place in preparing
        if over.id in map(text, call.args) or (_starred(call) and over.id in stored(function.body[place]))
    ]
    if any("skip_first_batches" in text(node.func) for node in every(function) if isinstance(node, ast.Call)):
        raise Unknown("it passes by what is done with `skip_first_batches`: take that out first")
    if not places:
        handed = {text(each) for call, _ in preparing for each in call.args}
        for made in read(tree).assigned.get(over.id, ()):
            match made:
                case ast.Call(args=[first, *_]) if text(first) in handed:
                    raise Unknown(f"`{over.id}` is {shown(made)} of a loader: go over `{text(first)}` itself")
        raise Unknown(f"`{over.id}` is not prepared by accelerate: what it hands out next, it alone knows")
    accelerator, prepared = places[-1]
    loading = {text(call.func.value) for call in method_calls(function, "load_state")}  # type: ignore[attr-defined]
    if accelerator not in loading:
        raise Unknown(f"`{min(loading)}` loads the checkpoint, and `{accelerator}` prepares the loader: use one")
    if at is None or not function.body[prepared].lineno < function.body[at].lineno < loop.lineno:
        raise Unknown(f"`{function.name}` does not load its checkpoint between preparing and training")
    given = [node.value for node in every(tree) if isinstance(node, ast.keyword) and node.arg == "persistent_workers"]
    if any(text(value) != "False" for value in given):
        raise Unknown("its workers are persistent: an epoch draws its order otherwise after the first one")
    if endless := without_length(tree):
        raise Unknown(f"`{endless}` gives a loader without a length: what is done of it cannot be passed by")
    if taken := {_CLASS, _NAME} & _bound(tree) or {"os", "random"} & _others(read(tree)):
        raise Unknown(f"`{min(taken)}` is something else there: give that another name")
    if second := sharing(function.body[at - 1 : at + 1]):
        raise Unknown(f"several statements share line {second.lineno}: give each a line of its own")
    _, *later = function.body[prepared:]
    if over.id in stored(*later):
        raise Unknown(f"`{over.id}` is given something else after it is prepared: give that another name")
    if stateful := keeps_its_place(tree, over.id):
        raise Unknown(f"`{stateful}` lets the loader itself go on where it was: take that out, or skip the fix")
    passes_by = [node for node in loop.body if passes_over(node)]
    number = stored(loop.target.elts[0]) if _numbered(loop) else set()  # type: ignore[attr-defined]
    between = [line for line in function.body[at:] if line.lineno < loop.lineno and loop not in every(line)]
    check_leaving(read(tree), loop, {*number, *stored(*between)})
    skips = any(isinstance(node, ast.Name) and node.id == "resume_step" for node in every(loop))
    if skips and len(passes_by) != 1:
        raise Unknown(ITS_OWN_WAY)
    check_resumed(read(tree), function, loop, number)
    return Plan(function.name, loop.lineno, text(loop.iter), over.id, accelerator, at)


def _starred(call: ast.Call) -> bool:
    """Whether a call is handed a list of things at once: `prepare(*made)`."""
    return any(isinstance(each, ast.Starred) for each in call.args)


def _loads(function: ast.FunctionDef) -> int | None:
    """The position of the statement of a function that loads a checkpoint."""
    own = [(at, each) for at, each in enumerate(function.body) if not isinstance(each, ast.FunctionDef)]
    return next((at for at, each in own if method_calls(each, "load_state")), None)


def _loops(function: ast.AST) -> list[ast.For]:
    """The innermost loops that train."""
    loops = [node for node in every(function) if isinstance(node, ast.For) and method_calls(node, "backward")]
    return [loop for loop in loops if not any(other in every(loop) for other in loops if other is not loop)]


def _stepping(script: Script, function: ast.AST) -> list[ast.For]:
    """The innermost loops that train by a function of the script that takes one step."""

    def steps(node: ast.AST) -> bool:
        made = script.called(node) if isinstance(node, ast.Call) else None
        return made is not None and not _loops(made) and bool(method_calls(made, "backward"))

    loops = [node for node in every(function) if isinstance(node, ast.For) and any(map(steps, every(node)))]
    return [loop for loop in loops if not any(other in every(loop) for other in loops if other is not loop)]


def _numbered(loop: ast.For) -> bool:
    """Whether a loop is `for number, batch in enumerate(loader)`."""
    over = loop.iter
    plain = isinstance(over, ast.Call) and text(over.func) == "enumerate" and len(over.args) == 1 and not over.keywords
    return plain and isinstance(loop.target, ast.Tuple)


def _bound(tree: ast.Module) -> set[str]:
    """The classes and functions there are, the parameters, and the names that are given a value."""
    named = [node.name for node in every(tree) if isinstance(node, (ast.ClassDef, *FUNCTIONS))]
    return {*named, *stored(tree), *(node.arg for node in every(tree) if isinstance(node, ast.arg))}


def _others(script: Script) -> set[str]:
    """What a module's names stand for that are not the modules of that name."""
    lines = list(script.inside(script.tree))
    named = [line.name for line in lines if isinstance(line, (ast.ClassDef, *FUNCTIONS))]
    given = [name for line in lines for node in own(line) for name in stored(node)]
    return {*named, *given, *(name for name, (meant, _) in script.imports.items() if meant != name)}


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """The loops that train where another function loads a checkpoint, or a method does both."""
    script = read(tree)
    if "load_state" not in script.calls or "skip_first_batches" in script.calls or keeps_its_place(tree, ""):
        return
    known = {line for line, _ in script.once(_found)}
    for node, above in script.statements:
        if isinstance(node, FUNCTIONS) and not any(isinstance(each, FUNCTIONS) for each in above):
            for loop in _loops(node) or _stepping(script, node):
                if loop.lineno not in known and text(loop.iter) != _NAME:
                    yield Sign(loop.lineno, "a loop over batches that a resumed run starts over")
            if not _loops(node) and method_calls(node, "backward"):
                for call, line in script.calls["next"]:
                    if node in script.above[line] and any(isinstance(each, ast.While) for each in script.above[line]):
                        yield Sign(call.lineno, "a loop over batches that a resumed run starts over")
                        break


def edits(block: Block, options: Options) -> Iterator[Splice]:
    plans = block.script.once(_plans) if block.todo else {}
    if plans and block.at_top:
        yield from block.importing_module("random")
        yield from block.importing_module("os")
        yield from _class(block, next(iter(plans)))
    plan = len(block.above) > 1 and plans.get(getattr(block.above[1], "name", ""))
    if not plan:
        return
    line = f"{_NAME} = {_CLASS}({plan.accelerator}, {plan.loader})\n"
    load = block.above[1].body[plan.at]  # type: ignore[attr-defined]
    for index in [index for index, group in enumerate(block.groups) if load in group]:
        yield Splice(index, index, block.parse(line))
    for index, node in block.simple():
        if _trains(node, plan):
            yield Splice.instead(index, [_handed_out(block, block.statements[index])], counted=False)
    if _trains(block.above[-1], plan):
        at = next((at for at, node in block.simple() if passes_over(node)), None)
        if at is not None:
            below = block.statements[at + 1]
            kept = below.with_changes(leading_lines=block.leading(below)[1])
            yield Splice(at, at + 2, [kept], counted=False)


def _plans(script: Script) -> dict[str, Plan]:
    """What to do to which function."""
    return {plan.function: plan for _, plan in script.once(_found) if isinstance(plan, Plan)}


def _trains(node: ast.AST, plan: Plan) -> bool:
    """Whether a statement is the loop over batches."""
    return isinstance(node, ast.For) and text(node.iter) == plan.over and bool(method_calls(node, "backward"))


def _class(block: Block, function: str) -> Iterator[Splice]:
    """The class, above the first function that trains."""
    for index, node in block.simple():
        if getattr(node, "name", "") == function:
            yield block.above_function(index, block.parse(_CODE))


def _handed_out(block: Block, loop: cst.BaseStatement) -> cst.BaseStatement:
    """The loop over batches, with the class in place of the loader."""
    numbered = "enumerate" in block.code(loop.iter)  # type: ignore[attr-defined]
    target = "" if numbered else f"_, {block.code(loop.target)}"  # type: ignore[attr-defined]
    head = block.statement(f"for {target or '_'} in {_NAME}:\n    pass\n")
    over = loop.with_changes(iter=head.iter)  # type: ignore[attr-defined]
    return over.with_changes(target=head.target) if target else over  # type: ignore[attr-defined]
