"""Give every process but the first random numbers of its own once all that must be equal on them is made."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, handed, same, statements, stored, text
from kit.fixes._chance import DRAWS, MADE, NOISE, anew, by_chance, called, own_order, sized
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import FUNCTIONS, last

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "draw other noise on each process"
WHY = """\
`set_seed(args.seed)` gives every process the same random numbers. With a seed, all of them train their own images with
the same noise at the same timesteps: a batch of P processes has one P-th of the noise it should have. Seeding them
apart at once would give them other LoRA weights, which FSDP does not make equal (`sync_module_states: false`). So the
others go their own way right after `accelerator.prepare`, which has by then broadcast or sharded the models, and before
a checkpoint brings each process its own random state. What must stay equal later does not use these numbers: accelerate
gives the sampler a generator of its own there, and sends the first process's state to all at each epoch. Python's own
`random`, by which some scripts order their batches, is left alone. The first process draws what it would alone."""
LINKS = ("https://github.com/huggingface/accelerate/issues/236",)
NEEDS = ("torch",)
GENERAL = True
UPSTREAM = "accelerate #236 gives a device_specific seed; the scripts do not use it"
EXAMPLE = """\
import torch
from accelerate.utils import set_seed


def main(args, accelerator, loader, model):
    set_seed(args.seed)
    model, loader = accelerator.prepare(model, loader)
    model.train()
    for batch in loader:
        accelerator.backward(model(batch, torch.randn(2)))
"""

_ABOVE = "# Other noise and timesteps on each process; the first one draws what it would draw alone."


@dataclass(frozen=True)
class Place:
    """Where a function prepares what it trains with: the position among its statements, the seed, the accelerator."""

    at: int
    seed: str
    accelerator: str


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The functions that seed all processes alike and train; in order where the others are seeded anew once all is
    prepared. Seeded apart at once (`device_specific=True`) they are in order, too."""
    found = []
    for function, _ in statements(tree) if _imports(tree) else ():
        if not isinstance(function, ast.FunctionDef) or not (seeds := _seeds(function)) or not _trained(function):
            continue
        line = seeds[0].lineno
        if any(_apart(function, call) for call in seeds):
            found.append(Site(line, True))
        elif place := _place(function):
            found.append(_site(tree, function, place))
        elif any(isinstance(node, ast.Attribute) and node.attr == "prepare" for node in every(function)):
            reason = "it does not prepare what it trains with among the function's own statements"
            if (above := _place(function, function.lineno)) and function.body[above.at].lineno < line:
                reason = "it sets the seed below where it prepares what it trains with: set it above"
            found.append(Site(line, False, refuses=reason))
    return found


def _site(tree: ast.Module, function: ast.FunctionDef, place: Place) -> Site:
    line = function.body[place.at].lineno
    below = function.body[place.at + 1 :]
    own = any(
        called(node) == "manual_seed" and "process_index" in text(node) for each in below[:8] for node in every(each)
    )
    drawn = _drawn_elsewhere(function)
    done = own or _seeded_apart(function, drawn)
    refuses = _alike(function, place) or by_chance(tree, function) or _split(tree) or _loaded(function, place)
    refuses = (
        refuses
        or sized(tree, function, _training(function))
        or own_order(tree)
        or anew(tree, function, _training(function))
        or _unplain(function)
    )
    if drawn := drawn or _numpys(function):
        refuses = refuses or f"`{drawn}` draws the noise that it trains with: seed that by the process instead"
    base = {place.seed.partition(".")[0].partition("[")[0]} if not place.seed.isdigit() else set()
    return Site(line, done, (place.accelerator, *base), "" if done else refuses)


def _apart(function: ast.FunctionDef, call: ast.Call) -> bool:
    """Whether a call seeds each process by its number."""
    seed, *_ = handed(call, "seed")
    given = [seed, *(node.value for node in every(function) if _gives(node, text(seed)))]  # type: ignore[attr-defined]
    asked = [*call.args[1:], *handed(call, "device_specific", at=None)]
    return any("process_index" in text(node) for node in given) or any(text(node) != "False" for node in asked)


def _gives(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and name in map(text, node.targets)


def _unplain(function: ast.FunctionDef) -> str:
    """Why a seed is not written a second time; "" where it is a number, a name or what is asked of one."""
    seed, *_ = handed(_seeds(function)[0], "seed")
    plain = isinstance(seed, (ast.Name, ast.Attribute, ast.Subscript)) or called(seed) == "get"
    if plain or (isinstance(seed, ast.Constant) and type(seed.value) is int):
        return ""
    return f"`{text(seed)}` is worked out where it is set: give that a name above"


def _numpys(function: ast.FunctionDef) -> str:
    """What draws the noise in the loops that train, where that is numpy alone; "" where torch does."""
    calls = [node.func for loop in _training(function) for node in every(loop) if isinstance(node, ast.Call)]
    draws = [text(each) for each in calls if last(each) in (*DRAWS, *NOISE, "standard_normal")]
    return draws[0] if draws and all(each.startswith(("np.random.", "numpy.random.")) for each in draws) else ""


def _alike(function: ast.FunctionDef, place: Place) -> str:
    """Why the processes cannot part there: what must be alike on all of them is made below, before training."""
    for line in function.body[place.at + 1 :]:
        if isinstance(line, (ast.For, ast.While)):
            break
        calls = [node for node in every(line) if isinstance(node, ast.Call) and not handed(node, "generator", at=None)]
        made = next((word for node in calls if (word := called(node)) in (*MADE, *DRAWS)), "")
        if made and not isinstance(line, ast.FunctionDef):
            return f"`{made}` (line {line.lineno}) must come out alike on all processes: move it above, or skip the fix"
    return ""


def _split(tree: ast.Module) -> str:
    """Why processes may work on one sample together, and must draw alike; "" where nothing says so."""
    for node in every(tree):
        name = node.arg or "" if isinstance(node, ast.keyword) else getattr(node, "module", None) or last(node)
        if _TOGETHER.search(name):
            return f"by `{name}` several processes may share a sample and must draw alike: seed each group by hand"
    return ""


def _loaded(function: ast.FunctionDef, place: Place) -> str:
    """Why a seed set there would undo what a checkpoint brought."""
    above = [node for line in function.body[: place.at + 1] for node in every(line)]
    if any(_method(node) == "load_state" for node in above):
        return "a checkpoint is loaded above it, whose random state it would undo: load that below"
    return ""


def _drawn_elsewhere(function: ast.FunctionDef) -> str:
    """The generator that the loops that train draw all from, or all noise, which the seed does not reach; "" where
    there is none."""
    calls = [node for loop in _training(function) for node in every(loop) if isinstance(node, ast.Call)]
    draws = [call for call in calls if last(call.func) in (*DRAWS, *NOISE)]
    noise = [call for call in draws if last(call.func) in ("randn", "randn_like", "randn_tensor")]
    for some in (draws, noise):
        given = [next(map(text, handed(call, "generator", at=None)), "None") for call in some]
        if given and "None" not in given:
            first, *_ = given
            if some is draws or not _seeded_apart(function, first):
                return first
    return ""


def _seeded_apart(function: ast.FunctionDef, generator: str) -> bool:
    """Whether each process seeds a generator of its own by its number."""
    lines = [node for node in every(function) if isinstance(node, ast.Assign) and generator in map(text, node.targets)]
    return any("process_index" in text(line.value) for line in lines)


_RANKS = re.compile(r"process_index|rank|device_specific")
_SHOWS = re.compile(r"_*(log_|valid|eval|infer|test)")
_PICTURES = re.compile(r"valid|infer|sampl|eval|imag|generat|log_")
_TOGETHER = re.compile(
    r"^([tcs]p_size|ulysses\w*|new_group|(init_)?device_mesh|parallelize_module|ParallelismConfig|yunchang)$"
    r"|(tensor|context|seq(uence)?)_parallel|^torch\.distributed\.(tensor|device_mesh)"
)


def _imports(tree: ast.Module) -> bool:
    """Whether `set_seed` is accelerate's."""
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return any(
        alias.name == "set_seed" and (line.module or "").startswith("accelerate")
        for line in lines
        for alias in line.names
    )


@lru_cache(maxsize=256)  # of the functions of a script and of what is made of it
def _seeds(function: ast.FunctionDef) -> list[ast.Call]:
    calls = [node for node in every(function) if isinstance(node, ast.Call)]
    return [call for call in calls if same(call.func, "set_seed") and handed(call, "seed")]


@lru_cache(maxsize=8)
def _training(function: ast.FunctionDef) -> list[ast.For]:
    """The loops that train."""
    loops = [node for node in every(function) if isinstance(node, ast.For)]
    return [loop for loop in loops if any(_method(part) == "backward" for part in every(loop))]


@lru_cache(maxsize=8)
def _trained(function: ast.FunctionDef) -> set[str]:
    """What the loops that train go over."""
    return {node.id for loop in _training(function) for node in every(loop.iter) if isinstance(node, ast.Name)}


def _method(node: ast.AST) -> str:
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _place(function: ast.FunctionDef, below: int | None = None) -> Place | None:
    """The last statement of a function that prepares the loader it trains with, below where it sets the seed (or the
    line ``below``)."""
    seeds, loaders = _seeds(function), _trained(function)
    below = seeds[0].lineno if below is None else below
    seed, *_ = handed(seeds[0], "seed")
    for at in range(len(function.body) - 2, -1, -1):
        if isinstance(function.body[at], (ast.For, ast.While, ast.FunctionDef)):
            continue
        for node in every(function.body[at]):
            if isinstance(node, ast.Call) and _method(node) == "prepare" and below < node.lineno:
                owner = node.func.value  # type: ignore[attr-defined]
                given = {*map(text, node.args), *stored(function.body[at])}
                if isinstance(owner, ast.Name) and any(_trains(each, loaders) for each in given):
                    return Place(at, text(seed), owner.id)
    return None


def _trains(name: str, loaders: set[str]) -> bool:
    """Whether what is prepared is for training: a loader it goes over, or, where that shards itself, an optimizer."""
    return name in loaders or re.search(r"(^|_)optimizers?(\[\w+\])?$", name) is not None


def _code(place: Place) -> str:
    index = f"{place.accelerator}.process_index"
    given = "" if place.seed.isdigit() else f"{place.seed} is not None and "
    return f"{_ABOVE}\nif {given}{index} > 0:\n    torch.manual_seed({place.seed} + {index})\n"


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where all processes are seeded alike, by other means or in another function than the one that trains."""
    script = read(tree)
    functions = [node for node, _ in script.statements if isinstance(node, ast.FunctionDef)]
    known = _imports(tree) and any(_seeds(each) and _trained(each) for each in functions)
    found = list(_seeding(script)) if "prepare" in script.calls and not known else []
    if found and _noisy(script) and not any(_RANKS.search(text(call)) for call in found):
        yield Sign(found[0].lineno, "the same noise on all processes")


def _seeding(script: Script) -> Iterator[ast.Call]:
    """The calls that seed torch's own random numbers, but for pictures."""
    renamed = [name for name, (meant, _) in script.imports.items() if meant.endswith((".set_seed", ".seed_everything"))]
    for name in dict.fromkeys(["set_seed", "seed_everything", "manual_seed", *renamed]):
        for call, line in script.calls.get(name, ()):
            around = [node for node in script.above[line] if isinstance(node, (ast.For, ast.While, *FUNCTIONS))]
            looped = any(not isinstance(node, FUNCTIONS) for node in around)
            pictures = any(_PICTURES.search(getattr(node, "name", "")) for node in around)
            if not (looped or pictures or (name == "manual_seed" and script.full(call.func) != "torch.manual_seed")):
                yield call


def _noisy(script: Script) -> bool:
    """Whether a loop of an Accelerator's `backward`, or a function without one, draws, itself or in what it calls."""
    for call, line in script.calls.get("backward", ()):
        around = (node for node in reversed(script.above[line]) if isinstance(node, ast.For))
        pending = [next(around, script.scopes(line)[0])] if call.args else []
        for node in pending:  # and what they call
            made = [one for each in every(node) if isinstance(each, ast.Call) and (one := script.called(each))]
            pending += [one for one in dict.fromkeys(made) if one not in pending and not _SHOWS.match(one.name)]
        for each in (node.func for part in pending for node in every(part) if isinstance(node, ast.Call)):
            others = script.full(each).startswith(("np.", "numpy.", "random."))
            if last(each) in (*DRAWS, *NOISE) and not others:
                return True
    return False


def edits(block: Block, options: Options) -> Iterator[Splice]:
    function = block.above[-1]
    if not isinstance(function, ast.FunctionDef) or not _seeds(function):
        return
    place = _place(function)
    if place and block.nodes == function.body and function.body[place.at].lineno in block.todo:
        new = block.parse(f"pass\n{_code(place)}")[1]  # a comment at the top would be the module's
        blank = block.leading(block.statements[place.at + 1])[0][:1]
        lines = [*blank, *new.leading_lines]  # type: ignore[attr-defined]
        yield Splice.below(place.at, [new.with_changes(leading_lines=lines)])
