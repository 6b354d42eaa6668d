"""Write the model card only when the result is pushed to the hub."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import conjuncts, every, guarded, same, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import dotted, last, mode, own, shown
from kit.fixes._roles.holders import option_missing
from kit.fixes._roles.paths import missing
from kit.fixes._roles.places import denied
from kit.fixes._roles.uses import uses

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "write the model card only under --push_to_hub"
WHY = """\
After training, even where nothing is pushed, the script asks the hub for the model card of a repository named like the
output folder. A machine without network waits 23 s in retries (huggingface-hub 0.36.2), one with network fetches the
card of whoever owns that name, and a folder name that is no repository id ("my lora") ends the run, trained, with
HFValidationError. Only a pushed repository needs the card; validation images are in the tracker's log either way."""
LINKS = ("https://github.com/huggingface/diffusers/issues/11629",)
NEEDS = ("save_model_card",)
GENERAL = True
UPSTREAM = "declined: #11629 was closed unmerged; 12 scripts at 58eb52c0"
EXAMPLE = """\
def save_model_card(name):
    load_or_create_model_card(name)


def main(args):
    save_model_card(args.name)
    if args.push_to_hub:
        upload(args.output_dir)
"""

_CARD, _PUSH = "save_model_card", "push_to_hub"
_ASKS = re.compile(r"hub|model_?card", re.IGNORECASE)  # what the calls are named that ask the hub for a card


_LOCAL = re.compile(r"from_template(\(.*\)\.save)?$|^make_")  # what makes one here


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The calls of save_model_card, where that is one that asks the hub; in order under a test for push_to_hub."""
    script = read(tree)
    found = {}
    for call, statement in script.calls[_CARD] if _asks_hub(script) and not _reads(script) else ():
        if not isinstance(call.func, ast.Name):
            continue
        push = _push(script, statement)
        done = _asks(script, call, statement)
        why = "" if done else _missing(script, push, statement)
        used = "" if isinstance(statement, ast.Expr) and statement.value is call else "what it gives back is used"
        unsaid = f"it is not known there whether the result is pushed ({why}): ask for that there, or skip the fix"
        refuses = unsaid if why else used or _besides(script, statement) or _lost(script, call)
        found[statement] = Site(statement.lineno, done, refuses="" if done else refuses)
    return list(found.values())


def _asks_hub(script: Script) -> bool:
    """Whether the script's own function takes the card from the hub; one that comes from elsewhere may."""
    made = script.functions.get(_CARD, [])
    calls = [text(call.func) for each in made for call in every(each) if isinstance(call, ast.Call)]
    return not made or any(_ASKS.search(name) and not _LOCAL.search(name) for name in calls)


def _lost(script: Script, call: ast.Call) -> str:
    """Why more than the card would be lost with a call that is not made; "" where nothing would be."""
    for made in script.functions.get(_CARD, []):
        for each in (node for node in every(made) if isinstance(node, ast.Call)):
            written = last(each.func) in _WRITES or set("wax") & set(mode(script, each))
            if written and "README" not in text(each):
                return f"it also writes another file ({shown(each)}): write that elsewhere, or skip the fix"
    for node in [part for each in (*call.args, *call.keywords) for part in every(each)]:
        if isinstance(node, ast.NamedExpr) or (isinstance(node, ast.Call) and last(node.func) not in _PLAIN):
            return f"`{text(node)}` is worked out in its arguments: do that above, or skip the fix"
    return ""


_WRITES = ("dump", "save_file", "to_csv", "to_json", "write_text", "copyfile", "copytree", "save_pretrained")
_PLAIN = (
    "str",
    "int",
    "len",
    "list",
    "tuple",
    "dict",
    "sorted",
    "vars",
    "getattr",
    "get",
    "Path",
    "join",
    "format",
    "basename",
    "dirname",
    "abspath",
    "resolve",
    "strip",
    "rstrip",
    "lower",
    "split",
    "replace",
)


def _reads(script: Script) -> bool:
    """Whether the card is read again outside the function that writes it, or goes by a name there."""
    inside = {node for function in script.functions.get(_CARD, []) for node in every(function)}
    for line, _ in script.statements:
        nodes = [node for node in own(line) if node not in inside]
        named = [node for node in nodes if isinstance(node, ast.Constant) and node.value == "README.md"]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        written = {part for call in calls if _overwrites(mode(script, call)) for part in every(call)}
        if any(node not in written for node in named):
            return True
    return False


def _overwrites(opened: str) -> bool:
    return "+" not in opened and bool(set("wax") & set(opened))


def _push(script: Script, statement: ast.stmt) -> str:
    """How the script asks whether to push: as it does there, or elsewhere of what is bound there, or of its `args`."""
    here, owner = script.scopes(statement)[0], script.class_of(statement)
    asked = script.once(_asked)
    near = [name for line, name in asked if script.scopes(line)[0] is here]
    reach = [name for line, name in asked if script.class_of(line) is owner or not name.startswith("self.")]
    found = (name for name in reach if not _missing(script, name, statement))
    return near[0] if near else next(found, f"args.{_PUSH}")


def _asked(script: Script) -> list[tuple[ast.stmt, str]]:
    """Where the script reads whether to push, and how: of an object, of a dictionary, or by a name."""
    found = []
    for line, _ in script.statements:
        called = {node.func for node in own(line) if isinstance(node, ast.Call)}  # `model.push_to_hub()`
        found += [(line, text(node)) for node in own(line) if _says(node) and node not in called]
    return found


def _says(node: ast.AST) -> bool:
    """Whether an expression is whether to push."""
    of_dict = isinstance(node, ast.Subscript) and same(node.slice, repr(_PUSH))
    named = last(node) == _PUSH and bool(dotted(node))
    return (of_dict or named) and type(node.ctx) is ast.Load  # type: ignore[attr-defined]


def _missing(script: Script, push: str, statement: ast.stmt) -> str:
    """Why that cannot be asked at a statement; "" where it can."""
    plain = "[" in push or "." not in push
    return (missing if plain else option_missing)(script, push.partition("[")[0], statement)


def _asks(script: Script, call: ast.Call, statement: ast.stmt) -> bool:
    """Whether a call is only made where the result is pushed."""
    above = script.above[statement]
    parts = [part for node in above if isinstance(node, ast.If) for part in conjuncts(node.test)]
    asked = [each for each in parts if _says(each) or (isinstance(each, ast.Call) and _PUSH in text(each))]
    left = script.left_above(statement, raises=True)
    chosen = [node for node in own(statement) if isinstance(node, ast.IfExp) and call in every(node.body)]
    otherwise = [node for node in above if isinstance(node, ast.If) and _says(denied(node.test))]
    return (
        any(guarded(statement, above, text(each)) for each in asked)
        or any(inner in node.orelse for node in otherwise for inner in (statement, *above))
        or any(map(_says, map(denied, left)))
        or any(_says(part) for node in chosen for part in conjuncts(node.test))
    )


def _besides(script: Script, statement: ast.stmt) -> str:
    """Why the card is wanted where nothing is pushed to the hub, too: a test around it, or in its function, says so, or
    the script reads it; "" where none does."""
    around = script.above[statement]
    inside = script.inside(script.scopes(statement)[0])
    tests = [line.test for line in (*inside, *around) if isinstance(line, ast.If)]
    either = [each for each in tests if isinstance(each, ast.BoolOp) and isinstance(each.op, ast.Or)]
    found = [text(each) for each in either if any(map(_says, each.values))]
    found += [text(line.test) for line in around if isinstance(line, ast.If) and _says(denied(line.test))]
    told = "asks for it without a push, too: make it without the hub there, or skip the fix"
    return next((f"`{each}` {told}" for each in found), "")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        push = _push(block.script, node)
        statement = block.statements[index]
        blank, comments = block.leading(statement)
        moved = statement.with_changes(leading_lines=comments)
        below = block.nodes[index + 1] if index + 1 < len(block.nodes) else None
        following = block.statements[index + 1] if isinstance(below, ast.If) and text(below.test) == push else None
        if following is not None and block.body(following):
            whole, stop = block.with_body(following, [moved, *block.body(following)]), index + 2
        else:
            above = blank or block.blank_lines(bool(index))
            guard = block.statement(f"if {push}:\n    pass\n").with_changes(leading_lines=above)
            whole, stop = block.with_body(guard, [moved]), index + 1
        yield Splice(index, stop, [whole])


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where the hub is asked for a card in a function of another name, in a method, or right there."""
    script = read(tree)
    for made in script.functions.get(_CARD, []) if _asks_hub(script) else ():
        for line in uses(script, made):
            if not any(isinstance(node, ast.Call) and last(node.func) == _CARD for node in own(line)):
                yield Sign(line.lineno, "a model card asked for from the hub, where nothing is pushed")
    for _, line in script.calls["load_or_create_model_card"] if not _reads(script) else ():
        function = script.function(line)
        name = function.name if function else ""
        called = [(call, each) for call, each in script.calls[name] if name]
        known = name == _CARD and all(isinstance(call.func, ast.Name) for call, _ in called)
        for place in [] if known else [each for _, each in called] or [line]:
            tests = [text(node.test) for node in script.above[place] if isinstance(node, ast.If)]
            if not any(re.search("push|hub", test) for test in tests):
                yield Sign(place.lineno, "a model card asked for from the hub, where nothing is pushed")
