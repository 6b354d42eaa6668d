"""Repeat the one prompt of all images from what it was before training, not from the last batch's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import every, expression, stored, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last
from kit.fixes._roles.loops import LOOPS

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "repeat the one prompt as it was before training"
WHY = """\
Without captions of their own all images share one prompt, encoded before training and repeated for each batch:
`prompt_embeds = prompt_embeds.repeat(len(prompts), 1, 1)` gives the name its own repetition, and the next batch repeats
that. With a batch of two the second step has four prompts and dies: `The size of tensor a (2) must match the size of
tensor b (4)`. Kept as a list (Z-Image) it grows as fast without a word, until memory ends. Upstream mended FLUX.2 and
Klein so (#13712): what is repeated has a name of its own."""
LINKS = ("https://github.com/huggingface/diffusers/pull/13712",)
NEEDS = ()
GENERAL = True
UPSTREAM = "mended in FLUX.2 and Klein (#13712)"
EXAMPLE = """\
def main(args, loader, prompts):
    prompt_embeds = encode(args.prompt)
    for batch in loader:
        if args.own_prompts:
            prompt_embeds = batch["embeds"]
        else:
            prompt_embeds = prompt_embeds.repeat(len(prompts), 1, 1)
        accelerator.backward(loss(prompt_embeds))
"""

_SAME = ("to", "detach", "clone", "contiguous", "cuda", "float", "half", "cpu")  # what leaves the rows as they are
_OWN = "static_"  # upstream's prefix
_COMMENT = "# Repeated for each batch, which must not find what the last one made of them."


@dataclass(frozen=True)
class Repeat:
    """A statement in the `else` of ``test`` that gives ``name`` a repetition of ``source``."""

    line: int
    name: str
    source: str
    test: str
    refuses: str


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where a loop that trains repeats the prompts for a batch, in the `else` of an `if` that takes them from a cache;
    in order where it repeats something that it does not change."""
    return [
        Site(each.line, each.source != each.name, (each.name,), each.refuses)
        for function in every(tree)
        if isinstance(function, ast.FunctionDef)
        for loop in function.body
        for each in _repeats(read(tree), loop)
    ]


def _repeats(script: Script, loop: ast.stmt) -> list[Repeat]:
    """Those in a loop among a function's own statements."""
    if not isinstance(loop, ast.For) or ".backward(" not in text(loop):
        return []
    found = []
    for choice in every(loop):
        names = stored(*choice.body) if isinstance(choice, ast.If) else set()
        for statement in choice.orelse if isinstance(choice, ast.If) else ():
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in names and (
                    source := _source(value)
                ):
                    if source not in script.imports and not (source == name and _of_batch(script, statement, name)):
                        why = _changes(choice.test, loop) or _not_kept(script, loop, choice, name)  # type: ignore
                        found.append(Repeat(statement.lineno, name, source, text(choice.test), why))  # type: ignore
    return found


def _changes(test: ast.expr, loop: ast.For) -> str:
    """Why what a test in a loop asks cannot be asked above it; "" where it can."""
    asked = {text(node) for node in every(test) if isinstance(node, (ast.Name, ast.Attribute))}
    if any(isinstance(node, (ast.Call, ast.NamedExpr, ast.Await)) for node in every(test)):
        return "the `if` around it calls what may answer otherwise above the loop: ask once there, or skip the fix"
    return "what the `if` around it asks changes in the loop" if asked & _given(loop) else ""


def _given(*nodes: ast.AST) -> set[str]:
    """The names and attributes that are given a value in some nodes."""
    return {text(each) for node in nodes for each in every(node) if type(getattr(each, "ctx", None)) is ast.Store}


def _of_batch(script: Script, statement: ast.stmt, name: str) -> bool:
    """Whether the innermost loop gives ``name`` a value of the batch's own on the way to a statement."""
    inner = statement
    while not isinstance(inner, LOOPS):
        block = script.block(inner)
        if name in _given(*block[: block.index(inner)]):
            return True
        *_, inner = script.above[inner]  # type: ignore[assignment]
    return isinstance(inner, (ast.For, ast.AsyncFor)) and name in _given(inner.target)


def _not_kept(script: Script, loop: ast.For, choice: ast.If, name: str) -> str:
    """Why ``name`` cannot be kept above the loop as it is there; "" where it can."""
    inside = sum(isinstance(node, ast.Name) and node.id == name and type(node.ctx) is ast.Store for node in every(loop))
    chosen = [node for node in every(choice) if isinstance(node, ast.Name) and node.id == name]
    if inside > sum(type(node.ctx) is ast.Store for node in chosen):
        return f"the loop gives `{name}` a value elsewhere, too: repeat that under a name of its own"
    function = script.function(loop)
    arguments = {node.arg for node in every(function.args) if isinstance(node, ast.arg)} if function else set()
    block = script.block(loop)
    if name not in arguments and not _binds(block[: block.index(loop)], name, choice.test):
        return f"`{name}` may have no value above the loop: give it one there"
    return ""


def _binds(block: list[ast.stmt], name: str, test: ast.expr) -> bool:
    """Whether these statements give ``name`` a value wherever ``test`` is not true."""
    for line in block:
        if isinstance(line, ast.If):
            always = text(line.test) == text(ast.UnaryOp(ast.Not(), test))
            if _binds(line.body, name, test) and (always or _binds(line.orelse, name, test)):
                return True
        elif isinstance(line, ast.With):
            if _binds(line.body, name, test):
                return True
        elif not isinstance(line, (*LOOPS, ast.Try, ast.FunctionDef, ast.ClassDef)) and name in stored(line):
            return True
    return False


def _source(value: ast.expr) -> str:
    """What an expression repeats: `x.repeat(…)`, or each of `x` several times in a list; "" for others."""
    match value:
        case ast.Call(func=ast.Attribute(attr=method, value=ast.Name(id=name))) if method.startswith("repeat"):
            return name
        case ast.ListComp(generators=[ast.comprehension(iter=ast.Name(id=name)), _]):
            return name
    return ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    """The repetitions, and above the loop what they repeat."""
    for index, node in block.wanted():
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                code = re.sub(rf"(= |in ){name}\b", rf"\g<1>{_OWN}{name}", block.line(block.statements[index]), count=1)
                above = block.statements[index].leading_lines  # type: ignore[attr-defined]
                yield Splice.instead(index, [block.statement(f"{code}\n").with_changes(leading_lines=above)])
    for index, node in block.simple() if block.owner() and block.todo else ():
        kept: dict[str, list[str]] = {}
        earlier = "\n".join(block.texts[:index])
        for each in _repeats(block.script, node):
            line = f"{_OWN}{each.name} = {each.name}"
            if each.line in block.todo and line not in earlier:
                kept.setdefault(each.test, []).append(f"    {line}")
        for test, lines in kept.items():
            code = "\n".join(["pass", _COMMENT, f"if not ({test}):" if " " in test else f"if not {test}:", *lines])
            blank, _ = block.leading(block.statements[index])
            new = block.parse(f"{code}\n")[1]
            lines = [*blank, *new.leading_lines]  # type: ignore
            yield Splice(index, index, [new.with_changes(leading_lines=lines)], counted=False)


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a loop that trains gives something from above it its own repetition."""
    script = read(tree)
    for line, above in script.statements:
        trains = any(isinstance(node, ast.For) and ".backward(" in text(node) for node in above)
        for name, value in _pairs(line) if trains else ():
            parts = [name, *(name[: found.start()] for found in re.finditer(r"[.\[]", name))]
            if _grows(script, name, value) and not any(_of_batch(script, line, each) for each in parts):
                yield Sign(line.lineno, f"`{name}` repeated from its own repetition, batch by batch")


def _pairs(line: ast.stmt) -> list[tuple[str, ast.expr]]:
    """What a statement gives names and attributes, one by one."""
    match line:
        case ast.AugAssign(target=target, op=op, value=value):
            return [(text(target), ast.BinOp(target, op, value))]
        case ast.Assign(targets=[ast.Tuple(elts=several)], value=ast.Tuple(elts=values)):
            return [(text(each), given) for each, given in zip(several, values, strict=False)]
        case ast.Assign(targets=[ast.Tuple(elts=several)], value=ast.GeneratorExp() | ast.ListComp() as value):
            over, *_ = value.generators
            names, each = list(map(text, several)), rf"\b{text(over.target)}\b"
            alike = text(over.iter).strip("()[]") == ", ".join(names)
            return [(name, expression(re.sub(each, name, text(value.elt)))) for name in names if alike]
        case ast.Assign(targets=[target], value=value):
            return [(text(target), value)]
    return []


def _grows(script: Script, name: str, value: ast.expr) -> bool:
    """Whether an expression is a repetition of ``name``: by a method, by a function, of a list."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        times = [value.right, *script.assigned.get(text(value.right), ())]
        return text(value.left) == name and any(text(each).startswith("len(") for each in times)
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _SAME:
        value = value.func.value
    if not isinstance(value, ast.Call):
        return False
    called = last(value.func)
    first = next(map(text, value.args), "")
    if called in ("cat", "concat", "concatenate"):
        return first.startswith(f"[{name}] * ")
    if called == "expand" and not any(re.search(r"\blen\(|\.shape\b|\.size\(", text(each)) for each in value.args):
        return False  # of one size, whatever the batch
    if called not in ("repeat", "repeat_interleave", "tile", "expand"):
        return False
    of = value.func.value if isinstance(value.func, ast.Attribute) else value.func
    while isinstance(of, ast.Call) and isinstance(of.func, ast.Attribute) and of.func.attr in _SAME:
        of = of.func.value
    return name in (text(of), first)
