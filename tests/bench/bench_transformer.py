"""Time a family's transformer_patches.py beside upstream's modules, in one process, and print a table in markdown.

    python bench_transformer.py [--family hidream] [--device cpu|cuda] [--dtype bfloat16|float32] [--heads 10]
                                [--image 512] [--repeats 7] [--threads N] [--clock wall|cpu]

Runs in an environment with torch and the prepared diffusers (the one `kit verify` builds). Per row: upstream's median,
the patched median and the median of their ratios, over repeats that take turns, and on a GPU the most memory that
forward and backward take beyond weights, inputs and earlier gradients. On a machine that does other work at the same
time, `--threads 1 --clock cpu` counts only the seconds that this process computed. `apart` is the root-mean-square
difference of the two outputs over that of upstream's. The rows are those of rows_FAMILY.py: forward without gradients,
and forward plus backward to every input and weight. Tokens and head size are the published model's at 512 pixels; only
the width is less, because two cores must do it in a minute or two.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

HERE = Path(__file__).resolve().parent
HEAD = 128  # features a head, of every family here
Run = Callable[[], Any]
Row = tuple[str, tuple[Run, Run], tuple[Run, Run]]


def load(name: str, path: str, package: str = "") -> types.ModuleType:
    """A module of its own from a file."""
    module = types.ModuleType(name)
    module.__file__, module.__package__ = path, package
    sys.modules[name] = module
    exec(compile(Path(path).read_text(), path, "exec"), module.__dict__)
    return module


def timed(run: Run, device: str, clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(run: Run) -> int:
    """The most bytes of GPU memory that one call takes beyond those in use."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def apart(runs: tuple[Run, Run]) -> float:
    """Root-mean-square difference of what two calls return, over that of the first."""
    first, second = (
        [out.double() for out in (found if isinstance(found, tuple) else (found,))] for found in (r() for r in runs)
    )
    differ = sum((a - b).square().sum() for a, b in zip(first, second, strict=True))
    return float((differ / sum(a.square().sum() for a in first)).sqrt())


def compare(runs: tuple[Run, Run], arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Median seconds of two calls, and the median of their ratios, turn by turn after one turn that is not counted."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    turns = []
    for turn in range(arguments.repeats + 1):
        order = (0, 1) if turn % 2 else (1, 0)
        taken = {index: timed(runs[index], arguments.device, clock) for index in order}
        turns.append((taken[0], taken[1]))
    first, second = zip(*turns[1:], strict=True)
    return statistics.median(first), statistics.median(second), statistics.median(a / b for a, b in turns[1:])


class Pairs:
    """Upstream's modules and the patched ones, side by side: (upstream's, patched)."""

    def __init__(self, pair: tuple[Any, Any], arguments: argparse.Namespace) -> None:
        self.pair, self.device, self.dtype = pair, arguments.device, getattr(torch, arguments.dtype)
        self.heads, self.side = arguments.heads, arguments.image // 16  # 16 pixels make a token
        self.width, self.image = self.heads * HEAD, self.side**2

    def tensor(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype, requires_grad=True)

    def make(self, build: Callable[[Any], nn.Module]) -> list[nn.Module]:
        """The same random module in both versions, training."""
        torch.manual_seed(0)
        with torch.device(self.device):
            modules = [build(module).to(self.dtype).train() for module in self.pair]
        modules[1].load_state_dict(modules[0].state_dict())
        return modules

    def row(self, what: str, modules: list[nn.Module], inputs: list[dict[str, Any]]) -> Row:
        """A row of modules that are called with inputs."""
        return self.calls(what, *(lambda m=m, i=i: m(**i) for m, i in zip(modules, inputs, strict=True)))

    def calls(self, what: str, *runs: Run) -> Row:
        """(what, the two forward calls, the two forward and backward calls)."""

        def backward(run: Run) -> None:
            outputs = run()
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])

        quiet = tuple(torch.no_grad()(run) for run in runs)
        return what, quiet, tuple(lambda run=run: backward(run) for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=[path.stem[5:] for path in HERE.glob("rows_*.py")], default="hidream")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--heads", type=int, default=10, help="heads of 128 (default: 10)")
    parser.add_argument(
        "--image", type=int, default=512, help="pixels a side; tokens are (image / 16)^2 (default: 512)"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds this process computed")
    parser.add_argument("--patches", type=Path, help="its transformer_patches.py (default: this checkout's)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    overlays = HERE.parents[1] / "overlays"
    patches = arguments.patches or overlays / arguments.family / "transformer_patches.py"
    sys.path += [str(HERE), str(patches.parent), str(overlays / "operators")]
    family = importlib.import_module(f"rows_{arguments.family}")
    patched = importlib.import_module(family.NAME)
    upstream = load(f"{family.NAME}_upstream", str(patched.__file__), family.NAME.rpartition(".")[0])
    load("transformer_patches", str(patches)).apply_patches()
    pairs = Pairs((upstream, patched), arguments)
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.dtype}, {arguments.threads} threads; "
        f"{pairs.image:,} image + {family.TEXT} text tokens, width {pairs.width:,}\n"
    )
    memory = arguments.device == "cuda"
    print(
        f"| | forward, ms | patched | | forward + backward, ms | patched | |{' peak, MB | patched |' * memory} apart |"
    )
    print(f"|---|---|---|---|---|---|---|{'---|---|' * memory}---|")
    for what, quiet, loud in family.rows(pairs):
        cells = [what]
        for runs in (quiet, loud):
            before, after, ratio = compare(runs, arguments)
            cells += [f"{before * 1e3:.2f}", f"{after * 1e3:.2f}", f"{ratio:.2f}×"]
        if memory:
            cells += [f"{peak(run) / 1e6:.0f}" for run in loud]
        print(f"| {' | '.join(cells)} | {apart(quiet):.1e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
