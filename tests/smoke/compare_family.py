"""Compare a family's transformer_patches.py with diffusers' own modules, and print one JSON object.

    python compare_hidream.py path/to/transformer_patches.py [--branch cpu|npu|…] [--mutants]

compare_FAMILY.py says what is compared: it calls `main` with a `Family`. Runs in an environment with torch, peft and
the prepared diffusers; device_operators.py lies beside the file. Upstream's source is imported a second time under
another name before anything is patched, so patched and upstream modules run side by side, on the same weights and
inputs; comparing.py says what is held to what.

--branch npu takes the NPU branch on CPU tensors, with the kernels of kit's stand-in. --mutants also breaks the two
files in small ways, one at a time, and lists the first checks that notice.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from comparing import FLOAT32_LIMIT, Suite, leaf, max_error

OPERATORS, PATCHES = "device_operators", "transformer_patches"
KERNELS = Path(__file__).resolve().parents[2] / "kit" / "smoke" / "standins" / "torch_npu" / "_kernels.py"

# What to break in device_operators.py, by branch -> (its text, the text in its place).
Mutants = dict[str, tuple[str, str]]
MUTANTS: dict[str, Mutants] = {
    "cpu": {
        "rotation turned backwards": ("torch.complex(self.cos, self.sin)", "torch.complex(self.cos, -self.sin)"),
        "gradient rotated forwards": ("_spin_(grad, spin.conj())", "_spin_(grad, spin)"),
        "gradient rotated forwards, behind a hook": ("-self.sin if back else self.sin", "self.sin"),
        "rotation keeps its input": ("else _Rotate.apply(joined, rotation)", "else rotation.turn(joined)"),
        "no epsilon in the norm": (".add_(eps).rsqrt_()", ".rsqrt_()"),
        "norm gradient without its projection": (".addcmul_(wide, slope)", ""),
        "norm weight gradient unscaled": ("(grad * wide).mul_(scale).sum((0, 1, 2))", "(grad * wide).sum((0, 1, 2))"),
        "norm rounded once more": ("(x * scale)", "(x * scale.to(x.dtype).to(scale.dtype))"),
    },
    "npu": {
        "attention unscaled": ("scale=dim**-0.5, ", ""),
        "another epsilon": ("epsilon=norm.eps", "epsilon=2 * norm.eps"),
        "sine negated": ("return cos, sin, -sin", "return cos, -sin, sin"),
        "gradient rotated forwards": ("sines[back]", "sines[0]"),
    },
}
# The same for families that use `joint_attention`.
JOINT: dict[str, Mutants] = {
    "cpu": {
        "image before text": ("text, image = out.split", "image, text = out.split"),
        "norms exchanged": (
            "(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)",
            "(attn.add_q_proj(encoder_hidden_states), attn.norm_q)",
        ),
        "dtype of the projections": (".to(_normed_dtype(*queries[-1]))", ""),
    },
    "npu": {"image before text": ("text, image = out.split", "image, text = out.split")},
}


def check_turns(suite: Suite, rotation: Any, x: torch.Tensor, want: torch.Tensor) -> None:
    """A Rotation of device_operators.py on x [batch, tokens, heads, dim], there and back, and what it keeps."""
    for what, found in {
        "rotation": rotation.turn(x),
        "rotation there and back": rotation.turn(rotation.turn(rotation.turn(x), back=True)),
    }.items():
        error = max_error(found, want)
        suite.note(what, error <= FLOAT32_LIMIT, error=error)
    kept: list[torch.Tensor] = []
    streams = [(leaf(*x.shape[:2], x[0, 0].numel()).bfloat16(), nn.Identity())]
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        sys.modules[OPERATORS].norm_rotate(streams, rotation, x.shape[2], torch.bfloat16)
    suite.note("rotation keeps no input for backward", not kept, kept=[str(tensor.dtype) for tensor in kept])


def _nothing(*_: Any) -> None:
    """A branch that needs nothing."""


@dataclass(frozen=True)
class Family:
    """What is compared.

    module: upstream's, whose classes are patched; checks: functions of a Suite, the last one for whole models, which
    broken files need not pass; early: (builds a module from upstream's module, its inputs), to be made before the
    patches; mutants: what to break besides MUTANTS, by branch; branches: further branches than cpu and npu, each
    (text of a file, text in its place) and what to set up, which is given a counter of kernel calls.
    """

    module: str
    checks: tuple[Callable[[Suite], None], ...]
    early: tuple[Callable[[Any], nn.Module], Callable[[Any], dict[str, Any]]]
    mutants: dict[str, Mutants]
    branches: dict[str, tuple[tuple[str, str], Callable[[Counter[str]], Any]]] = field(default_factory=dict)

    def load(self, name: str) -> types.ModuleType:
        """Upstream's module once more, under another name beside it."""
        path = importlib.import_module(self.module).__file__ or ""
        return load(f"{self.module}_{name}", Path(path).read_text(), path, self.module.rpartition(".")[0])


def load(name: str, source: str, origin: str, package: str = "") -> types.ModuleType:
    """A module of its own from source text."""
    module = types.ModuleType(name)
    module.__file__, module.__package__ = origin, package
    sys.modules[name] = module
    exec(compile(source, origin, "exec"), module.__dict__)
    return module


def stand_in(kernels: Counter[str]) -> None:
    """Make `import torch_npu` give the kernels of kit's stand-in, for CPU tensors, and count their calls by name."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            kernels[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    package = types.ModuleType("kit_standin")
    package.counted = counted  # type: ignore[attr-defined]
    sys.modules["kit_standin"] = package
    module = load("torch_npu", KERNELS.read_text(), str(KERNELS))
    module._on_one_device = lambda name, **tensors: None


def _lookup(module: types.ModuleType, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _graph(output: Any) -> str:
    """The names of the autograd nodes that made a tensor, or the first of several."""
    todo, names = [(output[0] if isinstance(output, tuple) else output).grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None:
            names.append(type(node).__name__)
            todo += [parent for parent, _ in node.next_functions]
    return " ".join(names)


def check_patching(suite: Suite, family: Family, early: nn.Module) -> None:
    """The patches are in place, upstream's copy is untouched, a second call and a foreign upstream are handled."""
    names = suite.patches.apply_patches()
    before = {name: _lookup(suite.patched, name) for name in names}
    again = suite.patches.apply_patches()
    suite.note(
        "second call changes nothing", again == names and before == {n: _lookup(suite.patched, n) for n in names}
    )
    for name, function in before.items():
        suite.note(f"in place: {name}", function.__module__ == suite.patches.__name__)
        suite.note(f"upstream: {name}", _lookup(suite.reference, name).__module__ == suite.reference.__name__)
    build, inputs = family.early
    theirs = build(suite.reference)
    theirs.load_state_dict(early.state_dict())
    suite.float32("instance older than the patches", early, theirs, inputs(suite.reference))
    suite.note("instance older than the patches is patched", "Rotate" in _graph(early(**inputs(suite.reference))))

    owner, _, attribute = names[-1].rpartition(".")
    blank = lambda *args: None  # noqa: E731
    blank.__signature__ = inspect.signature(_lookup(suite.reference, names[-1]))  # type: ignore[attr-defined]
    for what, change in {
        "missing": lambda cls: delattr(cls, attribute),
        "other signature": lambda cls: setattr(cls, attribute, lambda self, x, y: x),
        "other attributes": lambda cls: setattr(cls, attribute, blank),
    }.items():
        foreign = family.load("foreign")
        change(getattr(foreign, owner))
        untouched = {name: _lookup(foreign, name) for name in names[:-1]}
        original, suite.patches.UPSTREAM = suite.patches.UPSTREAM, foreign.__name__
        try:
            suite.patches.apply_patches()
            message = ""
        except RuntimeError as error:
            message = str(error)
        finally:
            suite.patches.UPSTREAM = original
        clear = f"{owner}." in message and "check out diffusers at" in message and "\n" not in message
        same = all(_lookup(foreign, name) is function for name, function in untouched.items())
        suite.note(f"refuses: {what}", clear and same, message=message)


def patches_of(sources: dict[str, str], folder: Path) -> types.ModuleType:
    """transformer_patches made anew from the two files' text, with device_operators of its own."""
    modules = {name: load(name, text, str(folder / f"{name}.py")) for name, text in sources.items()}
    return modules[PATCHES]


def mutants(
    suite: Suite, family: Family, changes: Mutants, sources: dict[str, str], folder: Path
) -> Iterator[tuple[str, list[str]]]:
    """(what was broken, the checks on modules that noticed)."""
    for what, (old, new) in changes.items():
        if sum(text.count(old) for text in sources.values()) != 1:
            raise SystemExit(f"{old!r} is not once in the files of {folder}; update the mutant {what!r}")
        fresh = family.load("mutant")
        broken = patches_of({name: text.replace(old, new) for name, text in sources.items()}, folder)
        broken.UPSTREAM = fresh.__name__
        broken.apply_patches()
        trials = itertools.product((False, True), family.checks[:-1])
        noticed: list[str] = []
        while not noticed and (trial := next(trials, None)):
            rounding, check = trial
            suite_of_one = Suite(suite.reference, fresh, broken, rounding)
            try:
                check(suite_of_one)
            except Exception as error:  # a mutant may also fail outright
                suite_of_one.note(f"{check.__name__}: {type(error).__name__}", False)
            noticed = [check["name"] for check in suite_of_one.checks if not check["ok"]]
        yield what, noticed


def main(family: Family) -> int:
    """Compare, print the report; 0 if all agreed and every mutant was noticed."""
    branches = {"cpu": (("", ""), _nothing), "npu": (('return tensor.device.type == "npu"', "return True"), stand_in)}
    branches |= family.branches
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patches", type=Path, help="the transformer_patches.py to test")
    parser.add_argument(
        "--branch", choices=list(branches), default="cpu", help="what runs, on CPU tensors in each case"
    )
    parser.add_argument("--mutants", action="store_true", help="also break the files in small ways and see who notices")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are tiny, and threads wait for each other on a busy machine

    patched, reference = importlib.import_module(family.module), family.load("reference")
    torch.manual_seed(1)
    early = family.early[0](patched)

    folder, kernels = arguments.patches.parent, Counter[str]()
    (old, new), prepare = branches[arguments.branch]
    prepare(kernels)
    texts = {name: (folder / f"{name}.py").read_text() for name in (OPERATORS, PATCHES)}
    sources = {name: text.replace(old, new) if old else text for name, text in texts.items()}
    patches = patches_of(sources, folder)
    patches.apply_patches()
    suite = Suite(reference, patched, patches)
    check_patching(suite, family, early)
    for check in family.checks:
        check(suite)
    report: dict[str, Any] = {"torch": torch.__version__, "checks": suite.checks, "kernels": dict(kernels)}
    if arguments.mutants:
        changes = MUTANTS.get(arguments.branch, {}) | family.mutants.get(arguments.branch, {})
        report["mutants"] = dict(mutants(suite, family, changes, sources, folder))
    print(json.dumps(report, indent=1))
    return 0 if all(check["ok"] for check in suite.checks) and all(report.get("mutants", {}).values()) else 1
