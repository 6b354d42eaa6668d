"""Whether what survives also runs: recipes moved to releases of their upstream, and trained there.

python tests/bench/bench_releases.py [RECIPE@TAG…]

For each: `kit rebase` of a copy of the recipe (its first upstream), `kit prepare` for the CPU, `kit env --lock`, as the
release may ask for other packages, and `kit verify --smoke` with its first step, a training run on a tiny model in the
recipe's own reference environment. The exit status is 1 if one failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kit import environment, recipes

# Those the recipes' pinned packages are new enough for. sd-lora's three upstreams move only together; at releases of
# sd-scripts a fix of sdxl needs mending first, as `kit rebase` says.
RELEASES = (
    *(f"hidream@{tag}" for tag in ("v0.34.0", "v0.35.0", "v0.36.0")),
    *(f"sd3@{tag}" for tag in ("v0.31.0", "v0.33.0")),
    "hidream-lokr@v4.0.5",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", default=RELEASES, metavar="RECIPE@TAG")
    failed = 0
    for release in parser.parse_args().releases:
        name, _, tag = release.partition("@")
        said = trained_at(name, tag)
        failed += not said.startswith("trained")
        print(f"{name:12} {tag:10} {said}", flush=True)
    return 1 if failed else 0


def trained_at(name: str, tag: str) -> str:
    """What came of it: the fixes and the training run in a line, or what failed."""
    found = recipes.load(name)
    assert found.smoke
    step = found.smoke.steps("cpu")[0].name
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for part in ("recipes", "patches", "overlays"):
            shutil.copytree(found.root / part, place / part)
        path, tree = place / "recipes" / f"{name}.toml", place / "tree"
        lines = []
        for argv in (
            ["rebase", path, "--to", tag, "--upstream", found.upstream[0].name],
            ["prepare", path, "--device", "cpu", tree],
            ["env", path, tree, "--device", "cpu", "--lock"],
            ["verify", tree, "--smoke", "--step", step],
        ):
            command = [Path(sys.executable).with_name("kit"), *argv]
            done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8")
            lines = [line.strip() for line in done.stdout.splitlines()]
            if done.returncode:
                said = [line for line in [*lines, *done.stderr.splitlines()] if "FAIL" in line or "error" in line]
                break
        for made in environment.installed():
            if made.workspace == str(tree):
                environment.remove(made)
    return f"{argv[0]} failed: {'; '.join(said)}" if done.returncode else f"trained: {lines[-1]}"


if __name__ == "__main__":
    sys.exit(main())
