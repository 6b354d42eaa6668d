"""Measure the engine, each time against a baseline that runs beside it: python tests/bench/bench_engine.py

Ours and the baseline take turns, and the medians are compared, so that a busy machine slows both. Nothing is asserted:
aims are printed beside what was measured. It needs git, the real upstream of a recipe, and 1 GB of temporary space.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kit import codemod, fixes, recipes, store
from kit.paths import TreePath
from kit.recipe import Recipe, Upstream

KIT = Path(sys.executable).with_name("kit")
Timed = tuple[float, float]  # medians of ours and of the baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="hidream", help="default: hidream")
    parser.add_argument("--device", default="npu", help="default: npu")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="turns of the quick ones (default: 9)")
    parser.add_argument("--history", action="store_true", help="also `kit drift --history` of all recipes (minutes)")
    parser.add_argument("--clones", type=int, default=3, metavar="N", help="turns of the naive clone (default: 3)")
    given = parser.parse_args()
    found = recipes.load(given.recipe)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {load}; medians of {given.repeat} turns")
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        place = Path(scratch)
        show("kit --help / import click", help_text(given.repeat), aim=2)
        show("codemod / libcst parse and codegen", one_codemod(found, place, given.repeat), aim=2)
        one, every = whole_process(place, given.repeat)
        show("kit fix, one fix / libcst, CPU", one, aim=2)
        show("kit fix, all / libcst, CPU", every, aim=5)
        if given.history:
            show("kit drift --history / three minutes", (history(place), 180.0), aim=1, unit="s", scale=1)
        fetched, cached = warm(found, given.device, place, given.repeat)
        show("warm prepare / git, fetching", fetched, aim=3)
        show("warm prepare / git, from the cache", cached, aim=3)
        if given.clones:
            timed, sizes = cold(found, given.device, place, given.clones)
            show("cold prepare / naive clone, time", timed, aim=1 / 20)
            show("cold prepare / naive clone, size", sizes, aim=1 / 100, unit="MB", scale=1e-6)


def show(what: str, pair: Timed, aim: float, unit: str = "ms", scale: float = 1e3) -> None:
    """One line: both figures, their ratio, and the aim; a baseline of 0 could not be had."""
    ours, baseline = pair
    figures = f"{what:36}{ours * scale:10.1f} {unit}"
    if not baseline:
        print(f"{figures}, baseline not measured")
        return
    ratio = ours / baseline
    aimed = f"{aim:.0f}x" if aim >= 1 else f"1/{1 / aim:.0f}"
    measured = f"{ratio:.2f}x" if ratio >= 0.5 else f"1/{1 / ratio:.0f}"
    verdict = "met" if ratio < aim else "MISSED"
    print(f"{figures} /{baseline * scale:9.1f} {unit} = {measured:>7}  (aim {aimed}: {verdict})")


def of_children() -> float:
    """CPU seconds of the processes started from here that have ended: what others run beside them adds little."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def in_turns(
    repeat: int, *runs: Callable[[int], object], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each, taking turns; each is told its turn. The first turn warms up and does not count."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeat + 1):
        for spent, run in zip(times, runs, strict=True):
            start = clock()
            run(turn)
            if turn:
                spent.append(clock() - start)
    return [statistics.median(spent) for spent in times]


def command(*words: str | Path, cache: Path | None = None) -> None:
    """Run a command quietly. Raises SystemExit with its complaints."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", **({"KIT_CACHE": str(cache)} if cache else {})}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, words))}\n{done.stdout}{done.stderr}")


def help_text(repeat: int) -> Timed:
    """The console script, as the shell runs it, against an interpreter that loads click and ends."""
    ours, baseline = in_turns(
        repeat,
        lambda turn: command(KIT, "--help"),
        lambda turn: command(sys.executable, "-c", "import click"),
    )
    return ours, baseline


def one_codemod(found: Recipe, place: Path, repeat: int) -> Timed:
    """A fix of the recipe on its script, checks included, against libcst reading and writing that script."""
    import libcst

    os.environ["KIT_CACHE"] = str(place / "cache")
    step = next(step for step in found.fix if step.id == "progress-print")
    entry = store.ensure(upstream_of(found), found.path.parent)
    blob = entry.tree[step.files[0]][1]
    content = entry.blobs([blob])[blob]
    fix = fixes.load(step.id)
    if codemod.run(fix, content, step.files[0]).outcome is not fixes.Outcome.applied:
        raise SystemExit(f"{step.id} does not apply to {step.files[0]}")
    print(f"codemod {step.id} on {len(content.splitlines())} lines")

    def ours(turn: int) -> None:
        codemod.run(fix, content + b"# %d\n" % turn, step.files[0])  # another file each time: nothing is remembered

    mine, baseline = in_turns(repeat, ours, lambda turn: libcst.parse_module(content + b"# %d\n" % turn).bytes)
    return mine, baseline


FLUX = TreePath("examples/dreambooth/train_dreambooth_lora_flux.py")  # 1,800 lines that lack most general fixes


def whole_process(place: Path, repeat: int) -> tuple[Timed, Timed]:
    """CPU seconds of `kit fix --check`, with one fix and with all general ones, as the shell runs it, against an
    interpreter that has libcst read and write the same script."""
    up = dataclasses.replace(upstream_of(recipes.load("hidream")), sparse=(TreePath("examples/dreambooth"),))
    script = place / "train_flux.py"
    script.write_bytes(store.ensure(up, place).files([FLUX])[FLUX])
    raw = "import libcst, sys; libcst.parse_module(open(sys.argv[1], 'rb').read()).bytes"

    def fix(*names: str) -> None:
        done = subprocess.run([KIT, "fix", "--check", *names, script], capture_output=True, text=True)
        if done.returncode != 1 or done.stderr:  # it would be changed
            raise SystemExit(done.stdout + done.stderr)

    one, every, baseline = in_turns(
        repeat,
        lambda turn: fix("progress-print"),
        lambda turn: fix(),
        lambda turn: command(sys.executable, "-c", raw, script),
        clock=of_children,
    )
    return (one, baseline), (every, baseline)


def history(place: Path) -> float:
    """Seconds that `kit drift --history` of every recipe takes with nothing cached, the fetching included."""
    start, spent = time.perf_counter(), of_children()
    done = subprocess.run([KIT, "drift", "--history"], env={**os.environ, "KIT_CACHE": str(place / "history")})
    if done.returncode not in (0, 4, 5):
        raise SystemExit(done.returncode)
    print(f"kit drift --history: {of_children() - spent:.0f} s of CPU")
    return time.perf_counter() - start


def upstream_of(found: Recipe) -> Upstream:
    return found.upstream[0]


def warm(found: Recipe, device: str, place: Path, repeat: int) -> tuple[Timed, Timed]:
    """`kit prepare` with everything cached, to a new folder, against the least that git alone must do: fetch the pin
    without history and without blobs, check the sparse folders out, apply the same patches. And against the same with
    the objects of kit's cache in place of the fetch."""
    up = upstream_of(found)
    cache = place / "cache"
    command(KIT, "prepare", found.name, "--device", device, place / "first", cache=cache)
    os.environ["KIT_CACHE"] = str(cache)
    patches = sorted((found.root / "patches" / found.name / up.name).glob("*.patch"))
    ours = [str(patch) for patch in patches if "@" not in patch.name or f"@{device}." in patch.name]
    start = f"""set -e
        git init -q "$1"; cd "$1"; git remote add origin {shlex.quote(up.url)}
        git config remote.origin.promisor true; git config remote.origin.partialclonefilter blob:none"""
    fetch = f"git fetch -q --depth=1 --filter=blob:none --no-tags origin {up.pin}"
    entry = shlex.quote(str(store.entry_path(up)))
    share = f"cp {entry}/shallow .git/; echo {entry}/objects > .git/objects/info/alternates"
    finish = f"""git sparse-checkout set {shlex.join(up.sparse)}; git checkout -q {up.pin}
        git -c user.name=a -c user.email=b@c am -q --keep-cr {shlex.join(ours)}"""
    mine, fetching, cached = in_turns(
        repeat,
        lambda turn: command(KIT, "prepare", found.name, "--device", device, place / f"warm-{turn}", cache=cache),
        lambda turn: command("sh", "-c", f"{start}\n{fetch}\n{finish}", "floor", place / f"fetching-{turn}"),
        lambda turn: command("sh", "-c", f"{start}\n{share}\n{finish}", "floor", place / f"cached-{turn}"),
    )
    return (mine, fetching), (mine, cached)


def cold(found: Recipe, device: str, place: Path, repeat: int) -> tuple[Timed, Timed]:
    """`kit prepare` with an empty cache against cloning all of upstream and checking the pin out: time, and bytes of
    objects that came. Where such a clone cannot be made (a mirror that lacks objects), its figures are 0."""
    up = upstream_of(found)

    def ours(turn: int) -> None:
        words = (KIT, "prepare", found.name, "--device", device, place / f"cold-{turn}")
        command(*words, cache=place / f"cache-{turn}")

    def clone(turn: int) -> None:
        shutil.rmtree(place / "clone", ignore_errors=True)
        command("git", "clone", "-q", up.url, place / "clone")
        command("git", "-C", place / "clone", "-c", "advice.detachedHead=false", "checkout", "-q", up.pin)

    try:
        mine, naive = in_turns(repeat, ours, clone)
        cloned = size(place / "clone" / ".git" / "objects")
    except SystemExit as error:
        print(error)
        (mine,), naive, cloned = in_turns(repeat, lambda turn: ours(turn + repeat + 1)), 0.0, 0.0
    return (mine, naive), (size(place / "cache-0"), cloned)


def size(folder: Path) -> float:
    """Bytes of the git objects below a folder."""
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "objects" in path.parts))


if __name__ == "__main__":
    main()
