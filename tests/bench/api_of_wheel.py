"""The published API of torch_npu, read from a wheel: python api_of_wheel.py WHEEL > kit/profiles/npu.api.toml

Another version than the profile's, that a recipe asks for, has its own file: npu-VERSION.api.toml.
Nothing of the wheel is run. Operators: the docstrings of torch_npu/_op_plugin_docs.py, which hold the signature.
torch_npu.npu, which is torch.npu too: the names in `__all__` of torch_npu/npu/__init__.py and of its amp, with the
parameters of their definitions. Get the wheel with: pip download --no-deps torch_npu==VERSION.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

HEAD = """\
# The published API of {}, by tests/bench/api_of_wheel.py.
# A default is written `...`; what takes (*args, **kwargs) has no signature in Python. Whether a function has a backward
# is not in one: in the same wheel, include/torch_npu/csrc/aten/VariableType.h declares one for npu_fusion_attention,
# npu_rms_norm and npu_rotary_mul, and none for npu_grouped_matmul (documented for inference)."""
OPEN = "(*args, **kwargs)"  # of what is no function that the package defines in Python


def operators(text: str) -> Iterator[tuple[str, str]]:
    """The documented operators and their signatures."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and len(node.value.args) == 2:
            name, document = (ast.literal_eval(each) for each in node.value.args)
            yield f"torch_npu.{name}", _signature(document, name)


NAMES = "Tensor|ScalarType|Scalar|int|float|bool|str|SymInt"
TYPE = re.compile(rf"\b(?:{NAMES})(?:\(\w!\))?(?:\[\d*\])?\??(?:\[\d*\])?\??\s+(?=\w)")
NULLABLE = re.compile(r"(\?\s+\w+)(?=\s*(,|$))")  # `int[]? name`: it may be None, so it may be left out


def _signature(document: str, name: str) -> str:
    """The signature in a docstring: a line that starts with the name, which a parser of Python takes once types are
    away. Open where there is none."""
    for start in re.finditer(rf"(?m)^\s*(?:torch_npu\.\s*)?(?:npu\.)?{re.escape(name)}\s*\(", document):
        depth, end = 1, start.end()
        while depth and end < len(document):
            depth += {"(": 1, ")": -1}.get(document[end], 0)
            end += 1
        text = TYPE.sub("", NULLABLE.sub(r"\1=None", document[start.end() : end - 1]))
        try:
            return _shown(ast.parse(f"def f({text}): ...").body[0].args)  # type: ignore[attr-defined]
        except SyntaxError:
            continue
    return OPEN


def _shown(arguments: ast.arguments, method: bool = False) -> str:
    """Parameters as Python writes them, each default as `...`: whether there is one is all that counts."""
    for kind in (arguments.defaults, arguments.kw_defaults):
        kind[:] = [each and ast.Constant(...) for each in kind]
    for each in ast.walk(arguments):
        if isinstance(each, ast.arg):
            each.annotation = None
    if method:
        del (arguments.posonlyargs or arguments.args)[0]
    return f"({ast.unparse(arguments)})"


def python_names(wheel: zipfile.ZipFile, folder: str, prefixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The names a package exports, each under every prefix, with the parameters of the function or class."""
    public: list[str] = []
    found: dict[str, str] = {}
    for path in sorted(wheel.namelist()):
        if re.fullmatch(rf"{folder}/\w+\.py", path):
            module = ast.parse(wheel.read(path))
            for node in module.body:
                named = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
                if path.endswith("__init__.py") and named == "__all__" and isinstance(node, ast.Assign):
                    public = ast.literal_eval(node.value)
                if isinstance(node, ast.FunctionDef):
                    found.setdefault(node.name, _shown(node.args))
                elif isinstance(node, ast.ClassDef):
                    made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                    found.setdefault(node.name, _shown(made[0].args, method=True) if made else OPEN)
    for name in public:
        for prefix in prefixes:
            yield f"{prefix}.{name}", found.get(name, OPEN)


def main(path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = dict(operators(wheel.read("torch_npu/_op_plugin_docs.py").decode()))
        names.update(python_names(wheel, "torch_npu/npu", ("torch.npu", "torch_npu.npu")))
        names.update(python_names(wheel, "torch_npu/npu/amp", ("torch.npu.amp", "torch_npu.npu.amp")))
    print(HEAD.format(path.name))
    for name in sorted(names):
        print(f"{json.dumps(name)} = {json.dumps(names[name])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
