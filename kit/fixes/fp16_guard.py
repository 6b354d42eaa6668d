"""Let accelerate train in fp16 on a device of its own, not on a GPU alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import conjuncts, requires, statements, text
from kit.fixes._roles import Script, read
from kit.fixes._roles.holders import device_missing

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "open the fp16 guard to a PrivateUse1 device"
WHY = """\
accelerate refuses fp16 mixed precision where there is no CUDA (or, by a flag, MPS) device: `ValueError: fp16 mixed
precision requires a GPU`, on whatever device it was told to train. A device that a package registered with torch
(PrivateUse1: tpu, npu, …) is let through as well. It is recognised by the name it is registered under, so that nothing
of a vendor's is imported here."""
LINKS = ()
NEEDS = ("torch",)
GENERAL = True
UPSTREAM = "accelerate knows each device by name; a PrivateUse1 device it does not know is refused"
EXAMPLE = """\
import torch


class Accelerator:
    def check(self):
        if not torch.cuda.is_available():
            raise ValueError("fp16 mixed precision requires a GPU")
"""

_AVAILABLE, _PRIVATE = "torch.cuda.is_available()", "torch._C._get_privateuse1_backend_name()"
_GPU, _OTHER = f"not {_AVAILABLE}", f"self.device.type != {_PRIVATE}"


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The `if`s that ask for the kind of device and raise an error that speaks of fp16."""
    return [
        _site(read(tree), statement)
        for statement, _ in statements(tree)
        if isinstance(statement, ast.If)
        and _asks_device(statement.test)
        and isinstance(statement.body[-1], ast.Raise)
        and "fp16" in ast.unparse(statement.body[-1])
    ]


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where fp16 is refused without CUDA, or on a device that is not listed, in another form."""
    script = read(tree)
    known = {site.line for site in sites(tree, options)}
    for statement, _ in script.statements:
        if not isinstance(statement, (ast.If, ast.Assert)) or statement.lineno in known:
            continue
        branches = [statement.body, statement.orelse] if isinstance(statement, ast.If) else [[statement]]
        ends = [lines[-1] for lines in branches if lines]
        refuses = any(isinstance(end, (ast.Raise, ast.Assert)) and "fp16" in text(end) for end in ends)
        asks = text(statement.test)
        lists = re.search(r"device\.type (not )?in ", asks)
        if refuses and (lists or _AVAILABLE in asks) and _PRIVATE not in asks:
            yield Sign(statement.lineno, "fp16 refused where there is no CUDA")


def _site(script: Script, statement: ast.If) -> Site:
    done = requires(statement.test, _OTHER)
    return Site(statement.lineno, done, refuses="" if done else device_missing(script, statement))


def _asks_device(test: ast.expr) -> bool:
    """Whether a test is only true where there is no CUDA, or (accelerate 0.21 and later) is true where the device is of
    no known kind: `self.device.type not in …`, alone or in an `or`."""
    parts = [part for each in conjuncts(test) for part in (each.values if isinstance(each, ast.BoolOp) else [each])]
    return requires(test, _GPU) or any(ast.unparse(part).startswith("self.device.type not in ") for part in parts)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted(heads=True):
        if isinstance(node, ast.If):
            yield Splice.instead(index, [block.narrowed(block.statements[index], _OTHER, apart=True)])
