"""Import the package that registers the device with torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import text
from kit.fixes._roles import Script, read
from kit.fixes._roles.holders import has_accelerator
from kit.fixes._roles.places import is_script

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "import the device's package below the other imports"
WHY = """\
torch knows a device that is not built into it (a PrivateUse1 backend) only once the device's package was imported.
Without the import the script ends at `torch.device("tpu:0")` with `Expected one of cpu, cuda, … device type at start of
device string: tpu`. The overlay's device_package.py imports the package, so that the script is the same for every
device."""
LINKS = ()
NEEDS = ()
GENERAL = True
OPTIONS = {"package": "{device.package}"}
UPSTREAM = "accelerate imports it by itself where it finds it; a script without accelerate does not"
EXAMPLE = """\
import torch

if __name__ == "__main__":
    print(torch.device("npu"))
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The line below the run of imports that has `import torch`, in a script; in order where something imports the
    package, however carefully. A module of a library has none: it is imported where the package may be missing."""
    script = read(tree)
    package = options.get("package", "device_package")
    place = _place(script)
    if place is None or not is_script(script):
        return []
    line = tree.body[place - 1].end_lineno + 1  # type: ignore[operator]
    return [Site(line, _imported(script, package))]


def _place(script: Script) -> int | None:
    """The place below the imports that have `import torch`, among the module's statements."""
    tops = script.tree.body
    seen = False
    for at, node in enumerate([*tops, None]):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            seen = seen or (isinstance(node, ast.Import) and any(alias.name == "torch" for alias in node.names))
        elif seen:
            return at
        elif isinstance(node, (ast.Try, ast.If)) and any(text(each).startswith("import torch") for each in node.body):
            return None  # imported on a condition
    return None


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a script imports torch elsewhere than among its imports, or parts of it alone, and nothing the package;
    accelerate does that by itself."""
    script = read(tree)
    lines = [line for full, line in script.imports.values() if full.partition(".")[0] == "torch"]
    known = _place(script) is not None or _imported(script, options.get("package", "device_package"))
    if lines and not known and is_script(script) and not has_accelerator(script):
        yield Sign(min(line.lineno for line in lines), "a script that does not import the device's package")


def _imported(script: Script, package: str) -> bool:
    """Whether a script imports the package, or what belongs to it, anywhere and in any form."""
    plain = any(full.partition(".")[0] == package for full, _ in script.imports.values())
    given = [
        each
        for name in ("import_module", "__import__", "find_spec")
        for call, _ in script.calls[name]
        for each in call.args
    ]
    return plain or any(isinstance(each, ast.Constant) and each.value == package for each in given)


def edits(block: Block, options: Options) -> Iterator[Splice]:
    place = _place(block.script) if block.at_top and block.todo else None
    if place is not None:
        package = options.get("package", "device_package")
        at = next(
            index
            for index, group in enumerate([*block.groups, []])
            if not group or group[0] in block.script.tree.body[place:]
        )
        line = block.statement(f"import {package}  # noqa: F401 - registers the device with torch\n")
        yield Splice(at, at, [line.with_changes(leading_lines=block.blank_lines(1))])
