"""How long a proof takes: smoke, parity and red of the recipes on the CPU, in seconds and in seconds of processor time.

python tests/bench/bench_proof.py [--workspaces DIR] [--red] [RECIPE…]

Each recipe is prepared under DIR (kept: its environment belongs to it), its environment and what DeepSpeed compiles are
made first and not timed. The baseline of a recipe is its first smoke step, which starts its programs as a user does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import platformdirs

from kit import environment, recipes
from kit.smoke import extensions

RECIPES = ("hidream", "sd3", "sd-lora", "sdxl", "hidream-lokr")
KIT = Path(sys.executable).with_name("kit")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--red", action="store_true", help="leave each fix out, too")
    parser.add_argument(
        "--workspaces", type=Path, default=Path(platformdirs.user_cache_dir("kit-bench")), metavar="DIR"
    )
    options = parser.parse_args()
    options.workspaces.mkdir(parents=True, exist_ok=True)
    levels = ["--smoke", "--parity", *["--red"] * options.red]
    said = ", ".join(level[2:] for level in levels)
    print(f"| recipe | one step, as a user starts it | {said} | ratio | processor time | |")
    print("|---|---|---|---|---|---|")
    whole = spent = 0.0
    failed = 0
    for name in options.recipes:
        place = options.workspaces / f"{name}-cpu"
        run("prepare", name, "--device", "cpu", place, "--force")
        found = recipes.load(name)
        extensions.build(found, environment.ensure(found, found.device("cpu"), place))
        start, before = time.monotonic(), processors()
        report = json.loads(run("verify", place, *levels, "--json"))[0]
        taken, used = time.monotonic() - start, processors() - before
        whole, spent, failed = whole + taken, spent + used, failed + (not report["verified"])
        print(row(name, report, taken, used), flush=True)
    print(f"| all | | {whole:.0f} s | | {spent:.0f} s | |")
    return 1 if failed else 0


def processors() -> float:
    """The processor time of all programs that were run and have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(name: str, report: dict[str, Any], taken: float, used: float) -> str:
    first = report["runs"][0]["seconds"]
    counts = {state: sum(check["ok"] is state for check in report["checks"]) for state in (True, False, None)}
    said = f"{counts[True]} ok, {counts[False]} failed, {counts[None]} skipped"
    return f"| {name} | {first:.0f} s | {taken:.0f} s | {taken / first:.1f}x | {used:.0f} s | {said} |"


def run(*argv: str | Path) -> str:
    """The output of a kit command; its own error line, and an end, where it can't do what it is told."""
    done = subprocess.run([KIT, *map(str, argv)], capture_output=True, encoding="utf-8")
    if done.returncode and not done.stdout.startswith("["):
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
