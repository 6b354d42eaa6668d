"""Which names, attributes and parameters hold an Accelerator; which options there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from kit.fixes._ast import defaults, every, handed, same, text
from kit.fixes._roles._script import FUNCTIONS, Function, Scope, Script, dotted, last, own
from kit.fixes._roles.paths import missing

ACCELERATOR = "accelerator"  # what it is called where it comes from elsewhere
_CLASS = "Accelerator"
_SAID = (_CLASS, f"accelerate.{_CLASS}")
_PLAIN = ("str", "int", "bool", "float", "torch.device", "device")  # what else is called so
_CONFIGURED = ("args", "cfg", "config", "opt", "opts", "options", "hparams", "settings", "parser")
Given = list[ast.expr | None]  # what a name is given; None for what comes from elsewhere: a parameter, an import


def accelerator(script: Script, statement: ast.stmt) -> tuple[str, str]:
    """The Accelerator that a statement can rely on, as it is called there; and why there is none ("": there is one)."""
    found = _candidates(script, statement)
    if not found:
        bound = any(ACCELERATOR in _bindings(script).get(scope, {}) for scope in script.scopes(statement))
        where = "" if bound else _kept_in(script, statement)
        return ACCELERATOR, f"`{ACCELERATOR}` is {'no Accelerator' if bound else 'not bound'} there{where}"
    reasons = [missing(script, name, statement) for name in found]
    at = next((number for number, reason in enumerate(reasons) if not reason), 0)
    return found[at], reasons[at]


def _kept_in(script: Script, statement: ast.stmt) -> str:
    """In what the function of a statement has an Accelerator, as the end of a reason: `ctx.accelerator`, an item of a
    dictionary; "" for nothing."""
    for node in every(script.scopes(statement)[0]):
        item = isinstance(node, ast.Subscript) and same(node.slice, repr(ACCELERATOR))
        known = dotted(node).partition(".")[0] not in ("", *_CONFIGURED, *script.imports)
        if item or (isinstance(node, ast.Attribute) and node.attr == ACCELERATOR and known):
            return f", but `{text(node)}` is"
    return ""


def is_accelerator(script: Script, node: ast.AST, statement: ast.stmt) -> bool:
    """Whether an expression in a statement is an Accelerator."""
    name = dotted(node)
    unknown = name == ACCELERATOR and not any(name in _bindings(script)[scope] for scope in script.scopes(statement))
    return unknown or name in _candidates(script, statement)


def has_accelerator(script: Script) -> bool:
    """Whether a script imports the class."""
    return any(full.rpartition(".")[2] == _CLASS or full == "accelerate" for full, _ in script.imports.values())


def _candidates(script: Script, statement: ast.stmt) -> list[str]:
    """The names that hold an Accelerator where a statement is: those that its function uses come first."""
    return script.once(_held, tuple(script.scopes(statement)), script.class_of(statement))


def _held(script: Script, scopes: tuple[Scope, ...], owner: ast.ClassDef | None) -> list[str]:
    names: dict[str, None] = {}
    for number, scope in enumerate(scopes):
        hidden = {name for inner in scopes[:number] for name in _bindings(script)[inner]}
        names |= {n: None for n in _bindings(script)[scope] if n not in hidden and _holds(script, scope, n)}
    first = [scope.args.args[:1] for scope in scopes if not isinstance(scope, ast.Module)]
    if owner and any(given and given[0].arg == "self" for given in first):
        names |= {n: None for n in script.once(_attributes, owner) if _holds(script, owner, n)}
    used = {dotted(n.value) for n in every(scopes[0]) if isinstance(n, ast.Attribute)}
    return sorted(names, key=lambda name: (name not in used, name != ACCELERATOR))


def _bindings(script: Script) -> dict[Scope, dict[str, Given]]:
    """For each scope, the names that it binds and what it gives them."""
    return script.once(_bound)


def _bound(script: Script) -> dict[Scope, dict[str, Given]]:
    found: dict[Scope, dict[str, Given]] = {script.tree: {}}
    for statement, above in script.statements:
        scope = next(node for node in reversed(above) if isinstance(node, Scope))
        for name, value in _given(statement):
            found.setdefault(scope, {}).setdefault(name, []).append(value)
        if isinstance(statement, FUNCTIONS):
            mine = found.setdefault(statement, {})
            for each, value in _parameters(statement):
                mine.setdefault(each, []).append(value)
    return found


def _given(statement: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """The names that a statement binds, and what it gives them."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
            else:
                yield from ((n.id, None) for n in every(target) if isinstance(n, ast.Name) and type(n.ctx) is ast.Store)
    elif isinstance(statement, (ast.For, ast.AsyncFor)):
        yield from ((n.id, None) for n in every(statement.target) if isinstance(n, ast.Name))
    elif isinstance(statement, (ast.With, ast.AsyncWith)):
        for item in statement.items:
            if isinstance(item.optional_vars, ast.Name):
                yield item.optional_vars.id, item.context_expr
    elif isinstance(statement, ast.ImportFrom):
        yield from ((alias.asname or alias.name, None) for alias in statement.names)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr | None]]:
    """The parameters of a function; for one that is said to be something else, what says so."""
    for each, default in defaults(function.args):
        said = text(each.annotation).strip("'\"") if each.annotation else ""
        if _CLASS in said:
            yield each.arg, ast.Call(ast.Name(_CLASS), [], [])
        elif said in _PLAIN:
            yield each.arg, ast.Constant(said)
        else:
            yield each.arg, default


def _attributes(script: Script, owner: ast.ClassDef) -> dict[str, Given]:
    """The attributes of `self` in a class, and what its methods give them; of those given elsewhere, those used."""
    found: dict[str, Given] = {}
    for line in owner.body:
        if isinstance(line, ast.AnnAssign) and not line.value and text(line.annotation).strip("'\"") in _SAID:
            found[f"self.{text(line.target)}"] = [ast.Call(ast.Name(_CLASS), [], [])]  # a field of a data class
        elif isinstance(line, ast.Assign):
            found |= {f"self.{text(target)}": [line.value] for target in line.targets}
        elif (
            isinstance(line, FUNCTIONS)
            and line.name == ACCELERATOR
            and "property" in "".join(map(text, line.decorator_list))
        ):
            found[f"self.{line.name}"] = []
    for statement in script.of_class(owner):
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                if (name := dotted(target)).startswith("self."):
                    found.setdefault(name, []).append(statement.value)
        for node in own(statement):
            if isinstance(node, ast.Attribute) and (name := dotted(node)) == f"self.{ACCELERATOR}":
                found.setdefault(name, [])
    return found


def _holds(script: Script, where: Scope | ast.ClassDef, name: str) -> bool:
    """Whether a name of a scope, or an attribute of a class, holds an Accelerator: it is given one, or it is called so
    and nothing else is known of it."""
    key = ("holds", where, name)
    if key not in script.memory:
        script.memory[key] = False  # in a circle
        given = (
            script.once(_attributes, where)[name] if isinstance(where, ast.ClassDef) else _bindings(script)[where][name]
        )
        told = {_is_one(script, where, value) for value in given}
        if isinstance(where, FUNCTIONS) and told == {None}:
            calls = called_with(script, where, name)
            told |= (
                {True} if {_is_one(script, script.scopes(line)[0], value) for value, line in calls} == {True} else set()
            )
        known_as = name.rpartition(".")[2] == ACCELERATOR
        script.memory[key] = True in told or (known_as and False not in told)
    return bool(script.memory[key])


def called_with(script: Script, function: Function | None, name: str) -> list[tuple[ast.expr, ast.stmt]]:
    """What a function of the script is called with as one of its parameters, each with the statement that does."""
    names = [each.arg for each, _ in defaults(function.args)] if function else []
    if function is None or name not in names:
        return []
    at = names.index(name) - (names[0] == "self")
    return [(value, line) for call, line in script.calls_of(function) for value in handed(call, name, at=at)]


def _is_one(script: Script, where: ast.AST, value: ast.expr | None) -> bool | None:
    """Whether an expression is an Accelerator; None where that is not known."""
    if isinstance(value, ast.IfExp):
        told = [_is_one(script, where, part) for part in (value.body, value.orelse)]
        return True if True in told else None if None in told else False
    if isinstance(value, ast.BoolOp):
        return True if any(_is_one(script, where, part) for part in value.values) else None
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return None
    if isinstance(value, ast.Call):
        full = script.full(value.func) or last(value.func)
        if full.rpartition(".")[2] == _CLASS:
            return True
        if full.startswith(("torch.", "str", "int", "getattr")):
            return False
        made = script.called(value)
        return True if made and _makes(script, made) else None
    if isinstance(value, (ast.Name, ast.Attribute)):
        return _named(script, where, dotted(value))
    return False


def _named(script: Script, where: ast.AST, name: str) -> bool | None:
    """Whether a name that something else is given is an Accelerator."""
    if name.startswith("self."):
        owner = where if isinstance(where, ast.ClassDef) else script.class_of(where)
        return _holds(script, owner, name) if owner and name in script.once(_attributes, owner) else None
    if "." in name:
        base = name.split(".")[-2]
        return False if base in _CONFIGURED or name.rpartition(".")[2] != ACCELERATOR else None
    scopes = [node for node in _bindings(script) if name in _bindings(script)[node]]
    return any(_holds(script, scope, name) for scope in scopes) or None


def _makes(script: Script, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function gives back an Accelerator that it made."""
    key = ("makes", function)
    if key not in script.memory:
        script.memory[key] = False  # in a circle
        script.memory[key] = any(
            _is_one(script, function, line.value) is True
            or (
                isinstance(line.value, ast.Name)
                and line.value.id in _bindings(script)[function]
                and _holds(script, function, line.value.id)
            )
            for line in script.inside(function)
            if isinstance(line, ast.Return)
        )
    return bool(script.memory[key])


def device_missing(script: Script, statement: ast.stmt) -> str:
    """Why `self.device` cannot be asked for at a statement; "" where it can: in accelerate's own class, and in one that
    has it, or asks for it elsewhere."""
    owner, function = script.class_of(statement), script.function(statement)
    if function is None or "self" not in {each.arg for each, _ in defaults(function.args)}:
        return "it is in no method with a `self`: ask for the device that trains by hand, or skip the fix"
    if owner is None:
        return ""
    members = {getattr(line, "name", "") for line in owner.body}
    lines = [line for line in script.of_class(owner) if line is not statement]
    asked = any(dotted(node) == "self.device" for line in lines for node in own(line))
    known = owner.name == _CLASS or "device" in members or asked
    why = missing(script, "self.device", statement) if known else "`self.device` is not bound there"
    return f"{why}: name the device that trains so, or skip the fix" if why else ""


def option_missing(script: Script, name: str, statement: ast.stmt) -> str:
    """Why an option (`args.push_to_hub`) cannot be asked for at a statement; "" where it can: it is one that the script
    declares, or asks for elsewhere without care."""
    holder, _, option = name.rpartition(".")
    if any(line is not statement for line, read in script.once(options) if read == name) or option in _declared(script):
        return missing(script, holder, statement)
    return f"there is no option `{option}`"


def options(script: Script) -> list[tuple[ast.stmt, str]]:
    """The attributes that are read, each with its statement: not methods, which are called."""
    found = []
    for line, _ in script.statements:
        called = {node.func for node in own(line) if isinstance(node, ast.Call)}
        nodes = (node for node in own(line) if isinstance(node, ast.Attribute) and node not in called)
        found += [(line, dotted(node)) for node in nodes if type(node.ctx) is ast.Load]
    return found


def _declared(script: Script) -> set[str]:
    """The options that a command line, a data class or keyword arguments of a configuration name."""
    flags = {word.lstrip("-").replace("-", "_") for word in script.words if word.startswith("--")}
    given = {
        keyword.value.value
        for calls in script.calls.values()
        for call, _ in calls
        for keyword in call.keywords
        if keyword.arg == "dest" and isinstance(keyword.value, ast.Constant)
    }
    fields = {
        last(line.target)
        for line, above in script.statements
        if isinstance(line, ast.AnnAssign) and isinstance(above[-1], ast.ClassDef)
    }
    return flags | {word for word in given if isinstance(word, str)} | fields
