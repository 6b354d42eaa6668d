"""What on_device.sh runs in a packed folder: python3 on_device.py [--rehearse] [--minutes 8.5]

On one GPU: the recipe's smoke step (its launch script trains the tiny model, 4 steps), bench_transformer.py at
HiDream-I1's width, then the launch script again on a model of that width with fewer blocks and random weights, with
upstream's modules and with the patches, in turns, each twice, or once where time is short. Prints one page of markdown,
and writes it to $OUT/on_device.md where that is set.

--rehearse does the same on the CPU with tiny sizes: its figures say nothing. Exit 2 where there is no GPU or the pack
does not fit this Python; 1 where a run fails, with the end of its log.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPT = Path("diffusers/examples/dreambooth/finetune_hidream_dreambooth_lora_deepspeed_bf16.sh")
CONFIG = "distributed_type: 'NO'\nmixed_precision: bf16\nnum_machines: 1\nnum_processes: 1\nuse_cpu: {cpu}\n"
# 128 pixels are 64 x 64 latents with the tiny VAE, 32 x 32 patches: 1,024 tokens; text adds 3 x max_sequence_length
REAL = {
    "heads": 20,
    "double": 2,
    "single": 4,
    "resolution": 128,
    "text": 128,
    "batch": 4,
    "steps": 12,
    "image": 512,
    "repeats": 7,
}
TINY = {
    "heads": 2,
    "double": 1,
    "single": 1,
    "resolution": 32,
    "text": 64,
    "batch": 4,
    "steps": 4,
    "image": 64,
    "repeats": 2,
}
WARM = 2  # steps that are not counted


def fail(status: int, message: str) -> SystemExit:
    print(f"on_device: error: {message}", file=sys.stderr)
    return SystemExit(status)


def unpack(wheels: Path, site: Path) -> None:
    """Unpack the pinned wheels, and wheels and stand-ins of what is not here. Raises SystemExit where none fits."""
    pinned = (HERE / "pinned.txt").read_text().split()
    for wheel in sorted(wheels.glob("*.whl")):
        name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = ""
        if name in pinned or not here:
            tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
            if not re.search(rf"-(py3|py2\.py3|{tag}|cp3\d+-abi3)-", wheel.name):
                python = ".".join(map(str, sys.version_info[:2]))
                raise fail(
                    2, f"this Python is {python} and has no {name}; pack for it: on_device.sh --pack DIR {python}"
                )
            zipfile.ZipFile(wheel).extractall(site)
    for standin in (HERE / "standins").iterdir():
        if importlib.util.find_spec(standin.stem) is None:
            (shutil.copytree if standin.is_dir() else shutil.copy)(standin, site / standin.name)


class Runs:
    """Commands of one session: with the packed packages, without network, within a limit of time."""

    def __init__(self, work: Path, device: str, seconds: float) -> None:
        self.work, self.device, self.end = work, device, time.monotonic() + seconds
        (work / "bin").mkdir()
        for name, code in {
            "python3": f'exec "{sys.executable}" "$@"\n',
            "accelerate": 'shift; exec python3 -m accelerate.commands.launch "$@"\n',
        }.items():
            (work / "bin" / name).write_text(f"#!/bin/sh\n{code}")
            (work / "bin" / name).chmod(0o755)
        (work / "config.yaml").write_text(CONFIG.format(cpu=str(device == "cpu").lower()))
        paths = [work / "site", *filter(None, [os.environ.get("PYTHONPATH")])]
        nowhere = "http://127.0.0.1:9"
        self.environment = {
            **os.environ,
            "PATH": f"{work / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "HF_ENDPOINT": nowhere,
            "HF_HOME": str(work / "huggingface"),
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "USE_TF": "0",
            "USE_FLAX": "0",
            "USE_JAX": "0",
        }

    def run(self, name: str, *command: object) -> str:
        """What a command prints. Raises SystemExit where it fails or there is no time left."""
        log = self.work / f"{name}.log"
        began = time.monotonic()
        with log.open("w") as lines:
            try:
                subprocess.run(
                    [*map(str, command)],
                    env=self.environment,
                    stdout=lines,
                    stderr=subprocess.STDOUT,
                    timeout=max(1.0, self.end - time.monotonic()),
                    check=True,
                )
            except (subprocess.SubprocessError, OSError) as error:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
                raise fail(1, f"{name}: {str(error).splitlines()[0][-200:]}\n{tail}") from None
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return log.read_text(errors="replace")

    def train(self, name: str, tree: str, model: Path, **settings: object) -> list[tuple[float, float]]:
        """Run the launch script of a tree; (loss, wall-clock seconds) of each step."""
        out = self.work / name
        fixed = {
            "model_name": model / "model",
            "pretrained4_path": HERE / "tiny" / "llama",
            "dataset_name": HERE / "tiny" / "data",
            "output_dir": out,
            "config_file": self.work / "config.yaml",
            "num_processors": 1,
            "checkpointing_steps": 1000,
            "rank": 8,
            "lr_warmup_steps": 0,
            "seed": 1,
        }
        flags = [f"--{flag}={value}" for flag, value in {**fixed, **settings}.items()]
        self.run(name, "bash", HERE / tree / SCRIPT, *flags, "--", "--skip_final_inference")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        logs = [EventAccumulator(str(log)) for log in out.rglob("events.out.tfevents.*")]
        steps = [event for log in logs if "loss" in log.Reload().Tags()["scalars"] for event in log.Scalars("loss")]
        if not steps or not all(math.isfinite(step.value) for step in steps):
            raise fail(1, f"{name}: losses {[step.value for step in steps]}")
        return [(step.value, step.wall_time) for step in steps]


def widen(folder: Path, size: dict[str, int], device: str) -> None:
    """The tiny pipeline with a transformer of the published width and rope, few blocks, random bfloat16 weights."""
    import torch
    from diffusers import HiDreamImageTransformer2DModel

    shutil.copytree(HERE / "tiny" / "model", folder / "model")
    place = folder / "model" / "transformer"
    config = HiDreamImageTransformer2DModel.load_config(place)
    shutil.rmtree(place)
    config |= {"num_attention_heads": size["heads"], "attention_head_dim": 128, "axes_dims_rope": (64, 32, 32)}
    config |= {"num_layers": size["double"], "num_single_layers": size["single"]}
    config["llama_layers"] = [number % 2 for number in range(size["double"] + size["single"])]  # it has two layers
    torch.manual_seed(0)
    with torch.device(device):
        model = HiDreamImageTransformer2DModel.from_config(config).to(torch.bfloat16)
    model.save_pretrained(place)


PAGE = """\
**{card}**

Smoke step `train`, the tiny model, 4 steps: losses {smoke}.

A training step by the launch script: bfloat16, batch {batch}, {tokens:,} image and {text} text tokens, {heads} heads of
128, {double} double and {single} single blocks, gradient checkpointing. Losses differ by at most {apart:.1e}.

| | upstream | patched | ratio |
|---|---|---|---|
| a step, median of {count} | {upstream:.0f} ms | {patched:.0f} ms | {ratio:.2f}× |
{losses}

The modules:

{bench}
"""
Run = list[tuple[float, float]]  # (loss, wall-clock seconds) of each step


def page(card: str, size: dict[str, int], smoke: Run, bench: str, runs: dict[str, list[Run]]) -> str:
    """The report. ``runs``: for each tree, what each of its runs gave."""
    took = {}
    for tree, found in runs.items():
        gaps = [after[1] - before[1] for run in found for before, after in itertools.pairwise(run[WARM - 1 :])]
        took[tree] = statistics.median(gaps) * 1e3
    losses = list(
        enumerate(zip(*([loss for loss, _ in runs[tree][0]] for tree in ("upstream", "patched")), strict=True), 1)
    )
    return PAGE.format(
        **{**size, "text": 3 * size["text"], "tokens": (size["resolution"] // 4) ** 2},
        **took,
        card=card,
        smoke=", ".join(f"{loss:.4f}" for loss, _ in smoke),
        apart=max(abs(a - b) / abs(a) for _, (a, b) in losses),
        count=len(gaps),
        ratio=took["upstream"] / took["patched"],
        losses="\n".join(f"| loss of step {step} | {a:.6f} | {b:.6f} | |" for step, (a, b) in losses),
        bench=bench.strip(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="on_device.sh", description="Run and time the packed recipe hidream on a GPU."
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which a run is ended (default: 8.5)")
    parser.add_argument("--widen", type=Path, help=argparse.SUPPRESS)  # in a process of its own, which frees the GPU
    arguments = parser.parse_args()
    device, size = ("cpu", TINY) if arguments.rehearse else ("cuda", REAL)
    if arguments.widen:
        widen(arguments.widen, size, device)
        return
    if not (HERE / "wheels").is_dir():
        raise fail(
            2, "this folder was not packed: bash tests/bench/on_device.sh --pack DIR, then bash DIR/on_device.sh"
        )
    if importlib.util.find_spec("torch") is None:
        raise fail(2, f"{sys.executable} has no torch: start the script where python3 has it")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        unpack(HERE / "wheels", work / "site")
        sys.path.insert(0, str(work / "site"))
        import torch

        if not torch.cuda.is_available() and not arguments.rehearse:
            raise fail(
                2, f"torch {torch.__version__} finds no CUDA GPU here; --rehearse runs on the CPU, with tiny sizes"
            )
        card = "CPU, a rehearsal" if arguments.rehearse else torch.cuda.get_device_name()
        runs = Runs(work, device, arguments.minutes * 60)
        small = {"batch_size": 4, "max_train_steps": 4, "resolution": 32, "max_sequence_length": 64}
        smoke = runs.train("smoke", "patched", HERE / "tiny", **small)
        patches = HERE / "patched" / SCRIPT.parent / "transformer_patches.py"
        bench = ["--patches", patches, "--device", device, "--heads", size["heads"], "--repeats", size["repeats"]]
        table = runs.run("bench", sys.executable, HERE / "bench_transformer.py", *bench, "--image", size["image"])
        rehearse = ["--rehearse"] * arguments.rehearse
        runs.run("widen", sys.executable, HERE / "on_device.py", "--widen", work / "wide", *rehearse)
        settings = {"batch_size": size["batch"], "max_train_steps": size["steps"], "resolution": size["resolution"]}
        settings["max_sequence_length"] = size["text"]
        found: dict[str, list[Run]] = {"upstream": [], "patched": []}
        for turn, tree in enumerate(("upstream", "patched", "patched", "upstream")):
            began = time.monotonic()
            found[tree].append(runs.train(f"{tree}-{turn}", tree, work / "wide", **settings))
            if turn % 2 and runs.end - time.monotonic() < 3 * (time.monotonic() - began):
                break  # no time for another of each
    versions = f"torch {torch.__version__}, Python {sys.version.split()[0]}"
    text = page(f"{card}, {versions}", size, smoke, table, found)
    print(text)
    if os.environ.get("OUT"):
        (Path(os.environ["OUT"]) / "on_device.md").write_text(text)


if __name__ == "__main__":
    main()
