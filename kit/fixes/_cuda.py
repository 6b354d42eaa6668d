"""How a script says that its device is CUDA: in a choice between that and the CPU, or in a name that it keeps."""

from __future__ import annotations

import ast

from kit.fixes._ast import conjuncts, every, handed
from kit.fixes._roles import Script
from kit.fixes._roles._script import FUNCTIONS, dotted, own
from kit.fixes._roles.places import asks_others

_AVAILABLE = "torch.cuda.is_available"
_LESS = {"cuda", "cpu", "mps"}  # a choice between these leaves out what a package brings
PLACES = ("device", "device_type", "map_location")  # by which one device is given
WORDS = (*PLACES, "device_map")  # and by which one for all parts


def choices(script: Script, statement: ast.stmt) -> list[ast.expr]:
    """The choices in a statement between CUDA and the CPU, or a Mac's GPU, and no other device; not those that are
    only compared or written."""
    nodes = own(statement)
    found = [node for node in nodes if isinstance(node, ast.expr) and _chooses(node)]
    if not found:
        return []
    inner: set[ast.AST] = {part for node in found if isinstance(node, ast.IfExp) for part in (node.body, node.orelse)}
    inner |= {part for node in nodes if isinstance(node, (ast.Compare, ast.FormattedValue)) for part in every(node)}
    return [node for node in found if node not in inner and _between(script, node)]


def _chooses(node: ast.AST) -> bool:
    """`"cuda" if asked else "cpu"`, and `asked and "cuda" or "cpu"`."""
    return isinstance(node, ast.IfExp) or (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or))


def _between(script: Script, node: ast.expr) -> bool:
    kinds = {kind(script, leaf) for leaf in _leaves(node)}
    return "cuda" in kinds and kinds <= _LESS


def _leaves(node: ast.expr) -> list[ast.expr]:
    """What a choice may come to."""
    if isinstance(node, ast.BoolOp):
        ways = node.values if isinstance(node.op, ast.Or) else node.values[-1:]
        return [leaf for way in ways for leaf in _leaves(way)]
    return [*_leaves(node.body), *_leaves(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def kind(script: Script, node: ast.expr) -> str:
    """The kind of device that an expression names: `"cuda:0"`, `f"cuda:{rank}"`, `torch.device("cuda")`; "" for
    others."""
    if isinstance(node, ast.Call):
        return kind(script, node.args[0]) if script.full(node.func) == "torch.device" and node.args else ""
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    named = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return first.value.partition(":")[0] if named else ""  # type: ignore[attr-defined]


def may_be(script: Script, node: ast.expr) -> bool:
    """Whether an expression names CUDA in whatever form: `asked or "cuda"`, `"cuda:%d" % n`, `"cuda:{}".format(n)`."""
    if isinstance(node, ast.BoolOp):
        return any(may_be(script, value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return may_be(script, node.left)
    if isinstance(node, ast.Call) and script.full(node.func) == "torch.cuda.current_device":
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return may_be(script, node.func.value)
    return not isinstance(node, ast.Call) and kind(script, node) == "cuda"


def told(script: Script, node: ast.AST) -> str:
    """What an Accelerator has that is a choice of CUDA where there is one, else the CPU; "" for other choices."""
    if not isinstance(node, ast.IfExp) or not asks_available(script, node.test):
        return ""
    both = [node.body, node.orelse]
    made = [each.args[0] for each in both if isinstance(each, ast.Call) and len(each.args) == 1 and not each.keywords]
    names = [each.value for each in made or both if isinstance(each, ast.Constant)]
    return ("device" if made else "device.type") * (names == ["cuda", "cpu"] and _between(script, node))


def asks_available(script: Script, test: ast.expr) -> bool:
    """Whether an expression is `torch.cuda.is_available()`."""
    return isinstance(test, ast.Call) and script.full(test.func) == _AVAILABLE


def where_available(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement is only come to where there is CUDA: what is done elsewhere it does not say."""
    inner: ast.AST = statement
    for node in reversed(script.above[statement]):
        if isinstance(node, FUNCTIONS):
            return False
        asked = conjuncts(node.test) if isinstance(node, ast.If) and inner in node.body else []
        if any(asks_available(script, part) for part in asked):
            return True
        inner = node
    return False


def if_available(script: Script, statement: ast.stmt) -> set[ast.AST]:
    """What a statement does only where there is CUDA, by a choice in it: what is done elsewhere it does not say."""
    found = [node for node in own(statement) if isinstance(node, ast.IfExp) and asks_available(script, node.test)]
    return {part for node in found if not told(script, node) for part in every(node.body)}


def keeps(script: Script, statement: ast.stmt) -> bool:
    """Whether a statement gives CUDA's name to what is a device, by how it is called or where it goes, and is given no
    other kind elsewhere. A field of a class of options is for its users to set."""
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not statement.value:
        return False
    if not may_be(script, statement.value) or isinstance(script.above[statement][-1], ast.ClassDef):
        return False
    names = [dotted(target) for target in _targets(statement)]
    return any(
        name and ("device" in name.rpartition(".")[2].lower() or name in script.once(_handed))
        for name in names
        if not script.once(_other, name)
    )


def _targets(line: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return line.targets if isinstance(line, ast.Assign) else [line.target]


def named(call: ast.Call, name: str) -> list[ast.expr]:
    """What a call of ``name`` is given where a device may stand."""
    first = name in ("to", "device", "Generator", "autocast", "set_default_device")
    found = handed(call, *WORDS, at=0 if first else None)
    return [part for each in found for part in (each.values if isinstance(each, ast.Dict) else [each])]


def _handed(script: Script) -> set[str]:
    """The names that calls are given as a device."""
    found = set()
    for name, calls in script.calls.items():
        for call, _ in calls:
            found |= set(map(dotted, named(call, name)))
    return found


def _other(script: Script, name: str) -> bool:
    """Whether a name is given another kind of device somewhere, or where a test asks for one."""
    for line, above in script.statements:
        if isinstance(line, (ast.Assign, ast.AnnAssign)) and line.value and name in map(dotted, _targets(line)):
            tests = [node.test for node in above if isinstance(node, ast.If)]
            if any(asks_others(each) for each in (line.value, *tests)):
                return True
    return False
