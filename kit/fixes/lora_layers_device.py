"""Place the LoRA layers on the device before the optimizer takes their parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import handed, text
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last, own
from kit.fixes._roles.holders import accelerator

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "place the LoRA layers on the device where they are made"
WHY = """\
The layers are made on the CPU, the optimizer takes their parameters, and `accelerator.prepare()` moves the layers. On a
device that a package registered with torch (PrivateUse1), torch 2.1 puts new parameters in their place, and the
optimizer goes on with the old ones on the CPU: the run ends with exit status 0, finite losses, and every `up` weight of
the LoRA exactly zero. CUDA keeps the parameters it moves. Layers placed first give the optimizer the right ones."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "gone: the scripts use PEFT since 13d73d93"
EXAMPLE = """\
def main(accelerator, unet):
    layers = AttnProcsLayers(unet.attn_processors)
    optimizer = AdamW(layers.parameters())
"""

_MAKER = "AttnProcsLayers"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The assignments of new LoRA layers, placed on the device in the same breath or not."""
    script = read(tree)
    found = []
    for statement, _ in script.statements:
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if value and _made(script, value):
            done = _placed_below(script, statement)
            why = "" if done else accelerator(script, statement)[1]
            found.append(Site(statement.lineno, done, refuses=f"{why}: bind it above, or skip the fix" if why else ""))
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and _made(script, value.func.value):
            place = _place(script, statement)
            done = _places(value)
            refuses = f"it calls `.{value.func.attr}(…)` on what it makes: put `.{place}` before that, or skip the fix"
            found.append(Site(statement.lineno, done, refuses="" if done else refuses))
    return found


def _places(call: ast.Call) -> bool:
    """Whether a call places something on a device."""
    return last(call.func) == "to" and any(text(each).endswith("device") for each in handed(call, "device"))


def _placed_below(script: Script, statement: ast.stmt) -> bool:
    """Whether layers that are given a name are placed before their parameters are taken."""
    names = set(map(text, statement.targets if isinstance(statement, ast.Assign) else [statement.target]))  # type: ignore
    below = [line for line in script.inside(script.scopes(statement)[0]) if line.lineno > statement.lineno]
    calls = [node for line in below for node in own(line) if isinstance(node, ast.Call) and text(_owner(node)) in names]
    first = next((call for call in calls if last(call.func) not in ("train", "requires_grad_")), None)
    return first is not None and _places(first)


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where such layers are made and not placed in another way than by an assignment of their own."""
    script = read(tree)
    for line, _ in script.statements:
        value = line.value if isinstance(line, (ast.Assign, ast.AnnAssign)) else None
        known = value and (_made(script, value) or (isinstance(value, ast.Call) and _made(script, _owner(value))))
        calls = [node for node in own(line) if isinstance(node, ast.Call)]
        placed = {_owner(node) for node in calls if last(node.func) in ("to", "cuda", "state_dict")}
        if not known and any(_made(script, node) and node not in placed for node in own(line)):
            yield Sign(line.lineno, "LoRA layers that are not placed where they are made")


def _owner(call: ast.Call) -> ast.AST:
    return call.func.value if isinstance(call.func, ast.Attribute) else call


def _made(script: Script, value: ast.AST) -> bool:
    return isinstance(value, ast.Call) and _MAKER in (last(value.func), script.full(value.func).rpartition(".")[2])


def _place(script: Script, statement: ast.stmt) -> str:
    return f"to({accelerator(script, statement)[0]}.device)"


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        yield Splice.instead(index, [block.with_method(block.statements[index], _place(block.script, node))])
