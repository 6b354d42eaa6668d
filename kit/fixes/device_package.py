"""Import the package that registers the device with torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "import the device's package below the other imports"
WHY = """\
torch knows a device that is not built into it (a PrivateUse1 backend) only once the device's package was imported.
Without the import the script ends at `torch.device("tpu:0")` with `Expected one of cpu, cuda, … device type at start of
device string: tpu`. The overlay's device_package.py imports the package, so that the script is the same for every
device."""
LINKS = ()
NEEDS = ("torch",)
GENERAL = True
OPTIONS = {"package": "{device.package}"}


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The line below the run of imports that has `import torch`; in order where one of them, below torch, imports the
    package."""
    modules: list[str] = []
    end = 0
    for statement in [*tree.body, None]:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            modules += [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            end = statement.end_lineno or 0
        elif "torch" in modules:
            return [Site(end + 1, _package(options) in _below_torch(modules))]
        else:
            modules = []
    return []


def edits(block: Block, options: Options) -> Iterator[Splice]:
    modules: list[str] = []
    for index, statement in enumerate([*block.statements, None]):
        imported = block.imported(statement) if statement else None
        if imported is not None:
            modules += imported
        elif "torch" in modules and not block.enclosing:
            if _package(options) not in _below_torch(modules):
                line = block.parse(f"import {_package(options)}  # noqa: F401 - registers the device with torch\n")[0]
                yield Splice(index, index, [line.with_changes(leading_lines=block.blank_lines(1))])
            return
        else:
            modules = []


def _package(options: Options) -> str:
    return options.get("package", "device_package")


def _below_torch(modules: list[str]) -> list[str]:
    return modules[modules.index("torch") :]
