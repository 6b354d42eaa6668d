"""Which statements all processes must come to, and which are the work of one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeGuard

from kit.fixes._ast import children, every, text
from kit.fixes._roles._script import FUNCTIONS, Function, Script, dotted, last, own
from kit.fixes._roles.holders import is_accelerator

MAIN = ("is_main_process", "is_local_main_process")
SAVE = "save_state"
_COLLECTIVE = (
    SAVE,
    "load_state",
    "wait_for_everyone",
    "gather",
    "gather_for_metrics",
    "gather_object",
    "reduce",
    "broadcast",
    "broadcast_object_list",
    "pad_across_processes",
    "backward",
    "barrier",
    "all_reduce",
    "all_gather",
    "main_process_first",
)
_REMOVES = re.compile(r"^(rmtree|rmdir|unlink|remove|delete|prune|rotate|clean)|_(remove|delete)_?")
_SHELL = re.compile(r"^f?'rm |\['rm'")  # and what is handed to a shell
_REMOVING = ("shutil", "os", "fs", "Path", "pathlib")
# What any number of processes may do at once: it changes nothing, or says something.
_HARMLESS = frozenset(
    [
        "print",
        "info",
        "warning",
        "debug",
        "error",
        "warn",
        "set_postfix",
        "set_description",
        "update",
        "len",
        "str",
        "int",
        "float",
        "bool",
        "range",
        "enumerate",
        "zip",
        "sorted",
        "list",
        "dict",
        "tuple",
        "set",
        "min",
        "max",
        "sum",
        "abs",
        "round",
        "format",
        "join",
        "split",
        "startswith",
        "endswith",
        "strip",
        "lstrip",
        "rstrip",
        "Path",
        "basename",
        "dirname",
        "abspath",
        "exists",
        "isdir",
        "isfile",
        "is_dir",
        "is_file",
        "listdir",
        "glob",
        "iglob",
        "iterdir",
        "getattr",
        "hasattr",
        "isinstance",
        "type",
        "time",
        "item",
        "get",
        "items",
        "keys",
        "values",
        "append",
        "collect",
        "empty_cache",
        "no_grad",
        "nullcontext",
        "resolve",
        "as_posix",
        "zfill",
        "now",
        "strftime",
        "synchronize",
        "unwrap_model",
        "parameters",
        "named_parameters",
        "get_last_lr",
        "trange",
        "tqdm",
        "next",
        "iter",
        "reversed",
        "any",
        "all",
        "map",
        "filter",
        "lower",
        "upper",
        "num_processes",
        "perf_counter",
    ]
)
_FILLS = ("update", "append", "get", "set", "list", "print")  # harmless to a container of the script's own
_CONTAINERS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MAKES = ("list", "dict", "set", "defaultdict", "OrderedDict", "Counter", "deque")
_BARS = ("tqdm", "trange")
_SAYS = ("tqdm", "progress_bar", "stdout", "stderr", "pbar")  # whose `write` is no file's


def calls_in(statement: ast.AST) -> list[ast.Call]:
    """The calls in a statement and those inside it, but not in functions that it only defines."""
    found: list[ast.Call] = []
    pending = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            found.append(node)
        if not isinstance(node, (*FUNCTIONS, ast.Lambda)) or node is statement:
            pending.extend(children(node)[::-1])
    return found


def collective(statement: ast.AST) -> ast.Call | None:
    """The first call in a statement that every process must come to."""
    return next(
        (
            call
            for call in calls_in(statement)
            if isinstance(call.func, ast.Attribute) and call.func.attr in _COLLECTIVE
        ),
        None,
    )


def removals(script: Script, statement: ast.AST, within: tuple[Function, ...] = ()) -> list[ast.Call]:
    """The calls in a statement that remove files, by themselves or in a function of the script."""
    found = []
    for call in calls_in(statement):
        made = script.called(call)
        given = [*call.args, *(each.value for each in call.keywords)]
        if any(
            _REMOVES.search(last(part)) or _SHELL.search(text(part)) for part in given if not isinstance(part, ast.Call)
        ):
            found.append(call)
        elif made:
            found += [call] * (made not in within and bool(removals(script, made, (*within, made))))
        elif isinstance(call.func, ast.Name):
            found += [call] * bool(_REMOVES.search(call.func.id))
        elif _REMOVES.search(last(call.func)) or script.full(call.func) == "shutil.move":
            lists = last(call.func) == "remove" and dotted(call.func).partition(".")[0] not in _REMOVING
            found += [call] * (not lists)
    return found


def main_test(script: Script, test: ast.expr, statement: ast.stmt) -> list[ast.expr]:
    """The parts of a test that ask for the main process: `accelerator.is_main_process`, or a name that was given it."""
    return [node for node in operands(test) if is_main(script, node, statement)]


def is_main(script: Script, node: ast.AST, statement: ast.stmt) -> bool:
    """Whether an expression is whether this is the main process."""
    if isinstance(node, ast.Attribute) and node.attr in MAIN:
        return True
    match node:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[ast.Constant(value=0)]):
            return last(left) == "process_index"
    match script.given(node):
        case [ast.Attribute() | ast.Compare() as given]:
            return is_main(script, given, statement)
    return False


def operands(test: ast.expr) -> Iterator[ast.expr]:
    """The parts of a test of `and`s and `or`s."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from operands(value)
    else:
        yield test


def saves(script: Script, statement: ast.stmt) -> list[ast.Call]:
    """The calls of a statement's own that save an Accelerator's state, by themselves or in a function of the script
    that does so for whoever calls it."""
    return [node for node in own(statement) if isinstance(node, ast.Call) and saving(script, node, statement)]


def names_save(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """Whether an expression is some object's `save_state`."""
    return isinstance(node, ast.Attribute) and node.attr == SAVE


def saving(script: Script, call: ast.Call, statement: ast.stmt) -> bool:
    """Whether a call saves an Accelerator's state."""
    if names_save(call.func):
        return is_accelerator(script, call.func.value, statement)
    made = script.called(call)
    return made is not None and bool(_saved_in(script, made))


def _saved_in(script: Script, function: Function) -> list[ast.stmt]:
    """The statements of a function that save state whoever calls it: not those below a test for the main process."""
    key = ("saved", function)
    if key not in script.memory:
        script.memory[key] = []  # in a circle
        found = [line for line in script.inside(function) if saves(script, line) and not gates(script, line)]
        script.memory[key] = found
    lines: list[ast.stmt] = script.memory[key]
    return lines


def gates(script: Script, statement: ast.stmt) -> list[ast.If]:
    """The `if`s around a statement, in its function, whose test asks for the main process; innermost first."""
    found = []
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            break
        if isinstance(node, ast.If) and mentions_main(script, node.test, node):
            found.append(node)
    return found


def mentions_main(script: Script, test: ast.expr, statement: ast.stmt) -> bool:
    """Whether a test speaks of the main process, in whatever way."""
    return any(is_main(script, node, statement) for node in every(test))


def alone(script: Script, statement: ast.stmt) -> bool:
    """Whether only the main process comes to a statement: an `if` around it, in its function, requires so."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            return False
        if isinstance(node, ast.If) and inner in node.body and required(script, node.test, node):
            return True
        inner = node
    return False


def only_main(script: Script, statement: ast.stmt, within: tuple[Function, ...] = ()) -> bool:
    """Whether only the main process comes to a statement: by an `if` around it, by one that the others leave by above
    it, or as none but it calls the function that the statement is in."""
    function = script.function(statement)
    denied = [test.operand for test in script.left_above(statement) if isinstance(test, ast.UnaryOp)]
    if alone(script, statement) or any(is_main(script, test, statement) for test in denied):
        return True
    calls = script.calls.get(function.name, []) if function and function not in within else []
    return bool(calls) and all(only_main(script, line, (*within, function)) for _, line in calls)  # type: ignore[arg-type]


def required(script: Script, test: ast.expr, statement: ast.stmt) -> bool:
    """Whether a test only holds on the main process."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(required(script, part, statement) for part in test.values)
    return is_main(script, test, statement)


def work_of_one(script: Script, statement: ast.AST, within: tuple[Function, ...] = ()) -> ast.Call | None:
    """The first call in a statement that one process alone should make: one that may write, remove, upload or log;
    None where any number of them may do it."""
    for call in calls_in(statement):
        if within and last(call.func) == "print":
            return call  # a function of the script's own that says something says what it did
        saves = isinstance(call.func, ast.Attribute) and call.func.attr in _COLLECTIVE
        if not saves and not is_harmless(script, call, within):
            return call
    return None


def is_harmless(script: Script, call: ast.Call, within: tuple[Function, ...] = ()) -> bool:
    """Whether any number of processes may make a call at once."""
    name, base = last(call.func), last(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    made = script.called(call) if base in ("", "self") else None  # others are known by what they are called
    if made:
        return made in within or not any(work_of_one(script, line, (*within, made)) for line in made.body)
    if name in ("makedirs", "mkdir"):
        return any(each.arg == "exist_ok" and text(each.value) == "True" for each in call.keywords)
    if name == "write":
        return base in _SAYS
    if name == "replace":
        return base not in _REMOVING and bool(call.args[1:])
    if name == "print" and any(each.arg == "file" and last(each.value) not in _SAYS for each in call.keywords):
        return False
    if name in _FILLS and isinstance(call.func, ast.Attribute) and base != "accelerator":
        return base in _SAYS or _is_filled(script, call.func.value)
    if name in ("map", "filter") and call.args and script.functions.get(last(call.args[0])):
        return False
    return name in _HARMLESS or (name in ("print", "log") and base == "accelerator")


def _is_filled(script: Script, node: ast.expr) -> bool:
    """Whether a name, or an attribute, was only ever given a container or a progress bar by the script."""
    given = script.given(node) if isinstance(node, (ast.Name, ast.Attribute)) else [node]
    return bool(given) and all(is_container(each, *_BARS) for each in given)


def is_container(value: ast.expr, *more: str) -> bool:
    """Whether an expression makes a list, a dictionary or a set, or is a call of ``more``."""
    return isinstance(value, _CONTAINERS) or (isinstance(value, ast.Call) and last(value.func) in (*_MAKES, *more))


def does_more(script: Script, call: ast.Call) -> ast.Call | None:
    """What a function of the script that is called to save state does besides, and one process alone should."""
    made = script.called(call)
    return next((found for line in made.body if (found := work_of_one(script, line, (made,)))), None) if made else None
