"""Which functions save and load state, and which of their parameters are what."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from kit.fixes._ast import every, stored
from kit.fixes._roles._script import Function, Script, dotted, last

_SAVES, _LOADS = "register_save_state_pre_hook", "register_load_state_pre_hook"


@dataclass(frozen=True)
class Hook:
    """A function that accelerate calls before it saves (or loads), and its parameters: the list of models, that of
    their weights (of a hook that loads: ""), the folder."""

    function: Function
    models: str
    weights: str
    folder: str


def save_hooks(script: Script) -> list[Hook]:
    """What is registered to be called before a save; what is called a hook and is handed `weights`."""
    found = {hook.function: hook for hook in script.once(_hooks, _SAVES, "save_model_hook", 3)}
    for name, functions in script.functions.items():
        for function in functions if "hook" in name and "load" not in name else ():
            if function not in found and any(each.arg == "weights" for each in function.args.args):
                found[function] = Hook(function, "models", "weights", "output_dir")
    return list(found.values())


def unknown_save_hook(script: Script) -> ast.expr | None:
    """What is registered to be called before a save and is neither a function of the script nor imported."""
    known = {hook.function for hook in save_hooks(script)}
    for call, _ in script.calls[_SAVES]:
        given = call.args[0] if call.args else None
        names = [last(given), last(_function(given))] if given else []
        base = dotted(_function(given)).partition(".")[0] if given else ""
        if given and not (
            known & {*_of_object(script, given), *_of_maker(script, given)}
            or set(names) & set(script.functions)
            or base in script.imports
        ):
            return given
    return None


def save_lambdas(script: Script) -> list[tuple[ast.Lambda, ast.stmt]]:
    """The lambdas that are registered to be called before a save, themselves or by a name, each with the statement."""
    given = [(call.args[0], line) for call, line in script.calls[_SAVES] if call.args]
    meant = [(made, line) for value, line in given for made in (value, *script.assigned.get(last(value), ()))]
    return [(made, line) for made, line in meant if isinstance(made, ast.Lambda)]


def load_hooks(script: Script) -> list[Hook]:
    """What is registered to be called before state is loaded, or is called `load_model_hook`."""
    return script.once(_hooks, _LOADS, "load_model_hook", 2)


def _hooks(script: Script, registers: str, name: str, parameters: int) -> list[Hook]:
    found: dict[Function, Hook] = {}
    registered = [call.args[0] for call, _ in script.calls[registers] if call.args]
    names = {name, *(last(_function(each)) for each in registered)}
    names |= {each.name for every in script.functions.values() for each in every if _decorated(each, registers)}
    objects = [function for each in registered for function in _of_object(script, each)]
    objects += [
        function for each in registered for function in _of_maker(script, each) if len(function.args.args) == parameters
    ]
    bound = {last(_function(each)): len(each.args) - 1 for each in registered if isinstance(each, ast.Call)}
    for function in (*(each for one in sorted(names) for each in script.functions.get(one, [])), *objects):
        given = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        given = given[given[:1] in (["self"], ["cls"]) :][max(bound.get(function.name, 0), 0) :]
        if len(given) >= parameters:
            models, *weights, folder = given[:parameters]
            found[function] = Hook(function, models, weights[0] if weights else "", folder)
    return list(found.values())


def _of_object(script: Script, given: ast.expr) -> list[Function]:
    """The `__call__` of the class of the script that an expression makes one of, itself or by a name."""
    calls = [each for each in (given, *script.given(given)) if isinstance(each, ast.Call)]
    classes = {last(each.func) for each in calls}
    found = ((each, script.class_of(each)) for each in script.functions.get("__call__", ()))
    return [each for each, owner in found if owner and owner.name in classes]


def _of_maker(script: Script, given: ast.expr) -> list[Function]:
    """What a function of the script makes and gives back, where an expression is a call of it or a name of what that
    gives."""
    lines = [line for line, _ in script.statements if isinstance(line, ast.Assign)]
    values = [given, *(line.value for line in lines if last(given) in stored(*line.targets))]
    makers = {script.called(value) for value in values if isinstance(value, ast.Call)} - {None}
    back = [line.value for maker in makers for line in script.inside(maker) if isinstance(line, ast.Return)]  # type: ignore
    names = {part.id for value in back if value for part in every(value) if isinstance(part, ast.Name)}
    return [
        each for name in sorted(names) for each in script.functions.get(name, ()) if script.function(each) in makers
    ]


def _decorated(function: Function, registers: str) -> bool:
    """Whether a function is registered by its decorator."""
    return any(last(each) == registers for each in function.decorator_list)


def _function(given: ast.expr) -> ast.AST:
    """What is called: itself, or what `partial` is given first."""
    return given.args[0] if isinstance(given, ast.Call) and given.args else given
