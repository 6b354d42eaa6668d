"""Work on the device that accelerate chose, where a script names CUDA."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import defaults, every, handed, same, text
from kit.fixes._cuda import PLACES, choices, if_available, keeps, may_be, named, told, where_available
from kit.fixes._positions import Change, changed, end, parsed, start
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import FUNCTIONS, dotted, last, own
from kit.fixes._roles.holders import ACCELERATOR, accelerator, has_accelerator, is_accelerator
from kit.fixes._roles.places import for_cuda
from kit.fixes._roles.uses import uses

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "place modules and autocast on the device that trains"
WHY = """\
A script for any device of accelerate's names CUDA here and there. `torch.autocast("cuda")` does nothing on another
device but warn (`CUDA is not available. Disabling`): a validation then mixes the dtypes it was to reconcile.
`.to("cuda")` ends with `Torch not compiled with CUDA enabled`. The accelerator knows the device."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "taken in places (#11617); in documentation its maintainers prefer a plain name (#14414, #14575)"
EXAMPLE = """\
from accelerate import Accelerator


def main(model):
    accelerator = Accelerator()
    model.to("cuda")
"""


_CUDA = ("cuda", "cuda:0")
_KINDS = (
    "torch.autocast",
    "torch.amp.autocast",
    "torch.amp.GradScaler",
    "torch.amp.autocast_mode.autocast",
    "torch.amp.custom_fwd",
    "torch.amp.custom_bwd",
)  # want a kind's name
_STRINGS = ("safetensors.",)  # whose functions want a string, or a number
_DEVICES = ("torch.",)  # whose functions want a device, or its name
_METHODS = ("to", "to_empty", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "arange")
_ANYBODYS = ("torch.hub.", "torch.ops.")  # whose functions are anybody's, and may want a name
_OLD = "torch.cuda.amp.autocast"
_CHOOSES = "torch.cuda.set_device"
# What raises where torch has no CUDA, or there is none; what counts memory or empties a cache does nothing there.
_ANSWERS = re.compile(
    r"torch\.cuda\.(device|current_device|synchronize|ipc_collect|get_device_(name|properties|capability)|mem_get_info"
    r"|reset_\w+_stats|get_rng_state(_all)?|Event|Stream|(current_|default_)?stream|graph|CUDAGraph|memory_summary)"
)


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The statements of a script with an Accelerator that place something on CUDA by name, or do so under CUDA's
    autocast, or choose between CUDA and the CPU, unless only CUDA comes there; in order where that is the accelerator's
    device."""
    script = read(tree)
    found = []
    for statement, _ in script.statements if has_accelerator(script) else ():
        named = _named(script, statement)
        if not named and not _right(script, statement):
            continue
        if named and for_cuda(script, statement):
            found.append(Site(statement.lineno, True))
            continue
        why = accelerator(script, statement)[1] if named else ""
        refuses = f"{why}: hand it in, or skip the fix" if why else _otherwise(script, statement) if named else ""
        found.append(Site(statement.lineno, not named, refuses=refuses))
    return found


def _otherwise(script: Script, statement: ast.stmt) -> str:
    """Why what names CUDA in a statement is not about the accelerator's device; "" where it is."""
    made = [call for call, _ in script.calls["Accelerator"]]
    if any(each.arg == "cpu" and same(each.value, "True") for call in made for each in call.keywords):
        return (
            "the script makes its Accelerator with `cpu=True`, and CUDA is another device: name that, or skip the fix"
        )
    other = next((word for word in sorted(script.words) if re.fullmatch(r"cuda:[1-9]\d*", word)), "")
    if other:
        return f'the script places work on the card "{other}", too: name the cards so that they differ, or skip the fix'
    asked = [
        node
        for node in own(statement)
        if isinstance(node, (ast.Compare, ast.FormattedValue))
        or (isinstance(node, ast.Call) and last(node.func) in ("str", "repr"))
    ]
    if any(isinstance(part, ast.Call) and _replaced(script, part, "_") for node in asked for part in every(node)):
        return "what names CUDA is compared or written there: ask for the device's `.type`, or skip the fix"
    return ""


def _named(script: Script, statement: ast.stmt) -> list[ast.AST]:
    """What in a statement names CUDA and can be the accelerator's device instead."""
    chosen = choices(script, statement)
    nodes = (node for node in own(statement) if isinstance(node, ast.Call) or node in chosen)
    found: list[ast.AST] = [node for node in nodes if _replaced(script, node, "_")]
    if not found or not all(told(script, each) for each in chosen) or where_available(script, statement):
        return []
    if set(found) & if_available(script, statement):
        return []
    calls = [last(node.func) for node in own(statement) if isinstance(node, ast.Call)]
    free = isinstance(statement, FUNCTIONS) or "add_argument" in calls  # for who calls, or runs, it to say
    return [] if chosen and (free or accelerator(script, statement)[1]) else found


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    script = read(tree)
    for statement, _ in script.statements:
        if (what := _sign(script, statement)) and not for_cuda(script, statement):
            yield Sign(statement.lineno, what)


def _sign(script: Script, statement: ast.stmt) -> str:
    """What in a statement looks as if it were for CUDA alone; "" where nothing does, or the fix knows all of it."""
    known = _named(script, statement) if has_accelerator(script) else []
    if any(each not in known for each in choices(script, statement)):
        return "a choice between CUDA and the CPU, and no other device"
    calls = [node for node in own(statement) if isinstance(node, ast.Call) and node not in known]
    kinds = [script.full(node) for node in own(statement) if isinstance(node, ast.Attribute)]
    made = any(re.fullmatch(r"torch\.cuda\.\w+Tensor", full) for full in kinds)
    chosen = any(script.full(call.func) == _CHOOSES for call in calls) and not where_available(script, statement)
    placed = made or chosen or any(_placing(script, call) for call in calls) or keeps(script, statement)
    if placed or _left_to_default(script, statement):
        return "something placed on CUDA by name"
    asks = any(_ANSWERS.fullmatch(script.full(call.func)) or _joins(call) for call in calls)
    return "a call that only CUDA answers" * (asks and not _where_asked(script, statement))


def _joins(call: ast.Call) -> bool:
    """Whether a call makes a process group of NCCL's, which is for CUDA."""
    made = last(call.func) in ("init_process_group", "InitProcessGroupKwargs")
    return made and any(same(value, "'nccl'") for value in handed(call, "backend"))


def _where_asked(script: Script, statement: ast.stmt) -> bool:
    """Whether the script asks there, or above, whether there is CUDA."""
    tests = [node.test for node in script.above[statement] if isinstance(node, ast.If)]
    asked = [*own(statement), *tests, *script.left_above(statement, raises=True)]
    names = [node.id for node in asked if isinstance(node, ast.Name)]
    meant = [*asked, *(value for name in names for value in script.assigned.get(name, ()))]
    return any("cuda.is_available" in text(each) for each in meant if isinstance(each, ast.expr))


def _placing(script: Script, call: ast.Call) -> bool:
    """Whether a call names CUDA, in whatever form, as where something is to be."""
    if script.full(call.func) == _OLD or (last(call.func) == "cuda" and isinstance(call.func, ast.Attribute)):
        return True
    if last(call.func) == "partial" and call.args:
        return _placing(script, ast.Call(call.args[0], call.args[1:], call.keywords))
    given = named(call, last(call.func)) + (handed(call, at=1) if script.full(call.func) == "torch.load" else [])
    return any(may_be(script, value) for value in given)


def _left_to_default(script: Script, statement: ast.stmt) -> bool:
    """Whether a function works on CUDA unless it is told where, and the script calls it without saying so."""
    if not isinstance(statement, FUNCTIONS):
        return False
    given = defaults(statement.args)
    names = [each.arg for each, _ in given if each.arg not in ("self", "cls")]
    of_cuda = [each.arg for each, value in given if value and "device" in each.arg and may_be(script, value)]
    calls = [call for line in uses(script, statement) for call in own(line) if isinstance(call, ast.Call)]
    owner = script.class_of(statement) if statement.name == "__init__" else None
    mine = [call for call in calls if last(call.func) == (owner.name if owner else statement.name)]
    told = [{*names[: len(call.args)], *(each.arg for each in call.keywords)} for call in mine]
    starred = any(isinstance(each, ast.Starred) for call in mine for each in call.args)
    return any(name not in each and None not in each for name in of_cuda for each in told) and not starred


def _given(script: Script, call: ast.Call) -> list[ast.expr]:
    """What a call that takes a device, or its name, is given as one."""
    full, name = script.full(call.func), last(call.func)
    method = isinstance(call.func, ast.Attribute)
    first = (method and name == "to") or full in (*_KINDS, "torch.device", "torch.Generator")
    known = full.startswith((*_DEVICES, *_STRINGS)) and not full.startswith(_ANYBODYS)
    words: tuple[str, ...] = PLACES if first or known or (method and name in _METHODS) else ()
    if method and name == "load" and not words:
        words = ("map_location",)
    return handed(call, *words, at=0 if first else None)


def _right(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement takes an accelerator's device, but to compare or write it."""
    nodes = own(statement)
    taken = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "device"]
    if not taken:
        return False
    asked = {part for node in nodes if isinstance(node, (ast.Compare, ast.FormattedValue)) for part in every(node)}
    return any(
        last(node.value) == ACCELERATOR or is_accelerator(script, node.value, statement)
        for node in taken
        if node not in asked
    )


def _replaced(script: Script, node: ast.AST, name: str) -> list[Change]:
    """What is changed in an expression that names CUDA, for the device of the accelerator ``name``; empty where nothing
    is."""
    if isinstance(node, ast.IfExp) and (device := told(script, node)):
        return [(start(node), end(node), f"{name}.{device}")]
    return _replaced_in(script, node, name) if isinstance(node, ast.Call) else []


def _replaced_in(script: Script, call: ast.Call, name: str) -> list[Change]:
    """The same of a call."""
    full = script.full(call.func)
    given = (each for each in _given(script, call) if isinstance(each, ast.Constant) and each.value in _CUDA)
    cuda = next(given, None)
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    first = start(arguments[0]) if arguments else end(call, 1)
    if cuda:
        device = f"{name}.device"
        if full in _KINDS or cuda in handed(call, "device_type", at=None):
            device += ".type"
        elif full.startswith(_STRINGS):
            device = f"str({device})"
        if full == "torch.device" and len(arguments) > 1:
            return [(first, end(call.args[1]), device)] if _its_index(call) else []
        return [(start(cuda), end(cuda), device)]
    if full == _OLD:
        torch = script.torch
        words = zip(("enabled", "dtype", "cache_enabled"), call.args, strict=False)
        return [
            (start(call.func), end(call.func), f"{torch}.autocast"),
            (first, first, f"{name}.device.type{', ' * bool(arguments)}"),
            *((start(each), start(each), f"{word}=") for word, each in words),
        ]
    moves = isinstance(call.func, ast.Attribute) and call.func.attr == "cuda" and full != "torch.cuda"
    match call.args if moves and all(each.arg == "non_blocking" for each in call.keywords) else None:
        case []:
            stop, more = first, ", " * bool(call.keywords)
        case [ast.Constant(value=0) as card]:
            stop, more = end(card), ""
        case _:
            return []
    word = "device=" * _stores(script, call.func.value)  # type: ignore[attr-defined]
    return [(end(call.func, len("cuda")), end(call.func), "to"), (first, stop, f"{word}{name}.device{more}")]


def _stores(script: Script, node: ast.expr) -> bool:
    """Whether what is moved is a tensor's storage, which wants to be told the device by its name."""
    if isinstance(node, ast.Call):
        return last(node.func) in ("storage", "untyped_storage")
    return isinstance(node, ast.Name) and node.id in script.once(_storages)


def _storages(script: Script) -> set[str]:
    """The names by which a `map_location` knows the storage that it is given."""
    given = [
        value for calls in script.calls.values() for call, _ in calls for value in handed(call, "map_location", at=1)
    ]
    functions = [made for value in given for made in script.functions.get(dotted(value), ())]
    lambdas = [value for value in given if isinstance(value, ast.Lambda)]
    return {each.arg for made in (*functions, *lambdas) for each in made.args.args[:1]}


def _its_index(call: ast.Call) -> bool:
    """Whether a device's index is the process's own on its machine."""
    index = "".join(map(text, call.args[1:]))
    return index.endswith("local_process_index") or re.fullmatch(r"((self\.)?args\.)?local_rank", index) is not None


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        name = accelerator(block.script, node)[0]

        def place(code: str, name: str = name) -> str | None:
            found = _replaced(block.script, parsed(code), name)
            return changed(code, found) if found else None

        placed = block.with_expressions(block.statements[index], "IfExp", "is_available", place)
        placed = block.with_expressions(placed, "Call", "", place)
        if placed is not block.statements[index]:
            yield Splice.instead(index, [placed])
