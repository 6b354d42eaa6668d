"""Time transformer_patches.py beside upstream's HiDream modules, in one process, and print a table in markdown.

    python bench_transformer.py [--device cpu|cuda] [--dtype bfloat16|float32] [--heads 10] [--image 512] [--repeats 7]
                                [--threads N] [--clock wall|cpu]

Runs in an environment with torch and the prepared diffusers (the one `kit verify` builds). Per row: upstream's median,
the patched median and the median of their ratios, over repeats that take turns, and on a GPU the most memory that
forward and backward take beyond weights, inputs and earlier gradients. On a machine that does other work at the same
time, `--threads 1 --clock cpu` counts only the seconds that this process computed. Rows: RMSNorm with rotation (queries
and keys of one stream), attention, the mixture of experts and whole blocks, single and double stream; forward without
gradients, and forward plus backward to every input and weight. `force` is the state in which the training script runs:
force_inference_output=True, so routed experts run without gradients. `apart` is the root-mean-square difference of the
two outputs over that of upstream's.

Token count and head size are those of HiDream-I1 at 512 pixels (1024 image and 384 text tokens, 128 a head, 4 experts
of which 2 a token). Only the width is less, unless --heads 20 is given: 10 heads rather than 20, so 1280 rather than
2560 and a quarter of the weights, because two cores must do it in a minute or two.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "diffusers.models.transformers.transformer_hidream_image"
HEAD, TEXT, AXES = 128, 384, (64, 32, 32)
Run = Callable[[], Any]


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


def rows(
    pair: tuple[Any, Any], arguments: argparse.Namespace
) -> Iterator[tuple[str, tuple[Run, Run], tuple[Run, Run]]]:
    """(what, the two forward calls, the two forward and backward calls), upstream first."""
    width, dtype, device = arguments.heads * HEAD, getattr(torch, arguments.dtype), arguments.device
    side = arguments.image // 16
    image, heads = side * side, arguments.heads
    ids = torch.zeros(1, image + TEXT, 3, device=device)
    ids[0, :image, 1], ids[0, :image, 2] = torch.arange(image) // side, torch.arange(image) % side
    tables = [module.HiDreamImageEmbedND(10000, AXES)(ids) for module in pair]

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, requires_grad=True)

    def make(build: Callable[[Any], nn.Module]) -> list[nn.Module]:
        """The same random module in both versions, training."""
        torch.manual_seed(0)
        with torch.device(device):
            modules = [build(module).to(dtype).train() for module in pair]
        modules[1].load_state_dict(modules[0].state_dict())
        return modules

    def both(modules: list[nn.Module], inputs: list[dict[str, Any]]) -> tuple[tuple[Run, Run], tuple[Run, Run]]:
        return forwards(*(lambda m=m, i=i: m(**i) for m, i in zip(modules, inputs, strict=True)))

    def forwards(*runs: Run) -> tuple[tuple[Run, Run], tuple[Run, Run]]:
        def backward(run: Run) -> None:
            outputs = run()
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])

        quiet = tuple(torch.no_grad()(run) for run in runs)
        return quiet, tuple(lambda run=run: backward(run) for run in runs)

    x, text, temb = tensor(1, image, width), tensor(1, TEXT, width), tensor(1, width)
    joint = tensor(1, image + TEXT, width)

    norm = nn.RMSNorm(width, 1e-5).to(device, dtype)
    upstream, patches = pair[0], sys.modules["transformer_patches"]
    yield (
        "RMSNorm and rotation",
        *forwards(
            lambda: upstream.apply_rope(
                norm(joint).to(dtype).view(1, -1, heads, HEAD),
                norm(joint).to(dtype).view(1, -1, heads, HEAD),
                tables[0],
            ),
            lambda: tuple(patches.norm_rotate([(joint, norm)], tables[1], heads, dtype) for _ in range(2)),
        ),
    )

    for single in (True, False):
        attention = make(
            lambda m, s=single: m.HiDreamAttention(width, heads, HEAD, processor=m.HiDreamAttnProcessor(), single=s)
        )
        tokens = (
            {"norm_hidden_states": joint} if single else {"norm_hidden_states": x, "norm_encoder_hidden_states": text}
        )
        inputs = [{**tokens, "image_rotary_emb": table} for table in tables]
        yield f"attention, {'single' if single else 'double'}", *both(attention, inputs)
    del attention

    for force in (False, True):
        experts = make(lambda m, f=force: m.MOEFeedForwardSwiGLU(width, 4 * width, 4, 2, _force_inference_output=f))
        yield f"experts{', force' * force}", *both(experts, [{"x": x}] * 2)
        del experts
    for single, force in ((True, False), (True, True), (False, False), (False, True)):
        kind = "HiDreamImageSingleTransformerBlock" if single else "HiDreamImageTransformerBlock"
        block = make(lambda m, k=kind, f=force: getattr(m, k)(width, heads, HEAD, _force_inference_output=f))
        tokens = {"hidden_states": joint} if single else {"hidden_states": x, "encoder_hidden_states": text}
        inputs = [{**tokens, "temb": temb, "image_rotary_emb": table} for table in tables]
        yield f"block, {'single' if single else 'double'}{', force' * force}", *both(block, inputs)
        del block


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--heads", type=int, default=10, help="heads of 128; HiDream-I1 has 20 (default: 10)")
    parser.add_argument(
        "--image", type=int, default=512, help="pixels a side; tokens are (image / 16)^2 (default: 512)"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: seconds this process computed")
    parser.add_argument("--patches", default=str(REPOSITORY / "overlays" / "hidream" / "transformer_patches.py"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    patched = importlib.import_module(NAME)
    upstream = load(f"{NAME}_upstream", str(patched.__file__), NAME.rpartition(".")[0])
    load("transformer_patches", arguments.patches).apply_patches()
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.dtype}, {arguments.threads} threads; "
        f"{(arguments.image // 16) ** 2:,} image + {TEXT} text tokens, width {arguments.heads * HEAD:,}\n"
    )
    memory = arguments.device == "cuda"
    print(
        f"| | forward, ms | patched | | forward + backward, ms | patched | |{' peak, MB | patched |' * memory} apart |"
    )
    print(f"|---|---|---|---|---|---|---|{'---|---|' * memory}---|")
    for what, quiet, loud in rows((upstream, patched), arguments):
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
