"""Calls into a device's package: which lines of kit's make them, and whether the package has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from kit import git
from kit.devices import Device, Signature, misuse
from kit.errors import KitError
from kit.fixes._ast import parse


def read(
    files: Sequence[Path], repository: Path, pin: str, device: Device, signatures: Mapping[str, Signature]
) -> tuple[int, list[str], list[str]]:
    """How many calls the lines that kit wrote make; those of them that are wrong, each with file, line and why; and
    upstream's own that ``signatures`` do not list, with theirs."""
    wrong, theirs, calls = [], [], 0
    for path in (path for path in files if path.suffix == ".py"):
        content = path.read_bytes()
        if not any(word.encode() in content for word in (device.package, device.device)):
            continue  # it names neither: parsing takes the longest
        try:
            nodes = list(ast.walk(parse(content, str(path))))
        except KitError:
            continue  # that it does not parse is a failure of its own
        called = [(node, name) for node in nodes if isinstance(node, ast.Call) and (name := _name(node.func, device))]
        ours = _ours(repository, pin, path) if called else set()
        for node, name in called:
            if node.lineno in ours:
                calls += 1
                problem = misuse(signatures, name, len(node.args), [key.arg for key in node.keywords])
                wrong += [f"{path}:{node.lineno}: {problem}"] if problem else []
            elif name not in signatures:
                theirs.append(f"{path}:{node.lineno}: {name}")
    return calls, wrong, theirs


def _ours(repository: Path, pin: str, path: Path) -> set[int]:
    """The lines of a file, from 1, that are not as they are at the pin; all of one that is not there."""
    at = f"{pin}:{path.relative_to(repository).as_posix()}"
    before = git.run("cat-file", "blob", at, at=repository, statuses=(0, 128)).splitlines()
    steps = SequenceMatcher(None, before, path.read_bytes().splitlines(), autojunk=False).get_opcodes()
    return {line + 1 for kind, _, _, start, stop in steps if kind != "equal" for line in range(start, stop)}


def _name(function: ast.expr, device: Device) -> str:
    """The dotted name of a call into the device package (`torch_npu.x`, `torch.npu.x`); nothing for other calls."""
    called = ast.unparse(function) if isinstance(function, ast.Attribute) else ""
    dotted = re.fullmatch(r"[\w.]+", called)
    return called if dotted and called.startswith((f"{device.package}.", f"torch.{device.device}.")) else ""
