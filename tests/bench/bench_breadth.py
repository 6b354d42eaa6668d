"""`kit fix` over every training script of diffusers: python tests/bench/bench_breadth.py [COMMIT…]

For each commit (default: the one the HiDream recipe pins, and upstream's newest) and each general fix: how many scripts
lack it, as `judge.py` and `judge_scripts.py` see it, how many of those are mended, how many refused, and the reason of
each refusal. Every result must compile, be right in the judge's eyes, and be left alone by a second run; the exit
status is 1 if one is not.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import judge_scripts
import judge_words

from kit import codemod, fixes, git, recipes, store
from kit.commands.fix import mend, options_for
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.recipe import Upstream

URL = "https://github.com/huggingface/diffusers"
FOLDER = TreePath("examples")
DEVICE = "npu"  # device-package differs by device


@dataclass
class Judged:
    """A script after `kit fix`: outcomes by fix, the fixes it lacked before, refusals, and what went wrong."""

    path: str
    outcomes: dict[str, str] = field(default_factory=dict)
    lacked: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def main() -> int:
    commits = sys.argv[1:] or [recipes.load("hidream").upstream[0].pin, git.text("ls-remote", URL, "HEAD").split()[0]]
    return 1 if sum([breadth(commit) for commit in commits]) else 0


def breadth(commit: str) -> int:
    """Print the table of one commit; return how many scripts went wrong."""
    start = time.perf_counter()
    entry = store.ensure(Upstream("diffusers", URL, commit, sparse=(FOLDER,)), Path())
    ids = {path: id for path, (_, id) in entry.tree.items() if path.startswith(f"{FOLDER}/") and path.endswith(".py")}
    blobs = entry.blobs(ids.values())
    with ProcessPoolExecutor(max_workers=2, initializer=gc.set_threshold, initargs=(10_000_000,)) as pool:
        scripts = list(pool.map(one, ids, [blobs[id] for id in ids.values()], chunksize=8))
    changed = sum(Outcome.applied in script.outcomes.values() for script in scripts)
    seconds = time.perf_counter() - start
    print(f"diffusers {commit[:12]}: {len(scripts)} files under {FOLDER}/, {changed} changed, in {seconds:.0f} s")
    print(f"  {'fix':24}{'lacking':>8}{'mended':>8}{'refused':>8}{'neither':>8}{'in order':>9}{'gone':>6}")
    for name in fixes.general():
        outcomes = Counter(script.outcomes.get(name, "") for script in scripts)
        lacking = sum(name in script.lacked for script in scripts)
        neither = sum(
            name in script.lacked and script.outcomes.get(name) in ("satisfied", "gone") for script in scripts
        )
        numbers = [lacking, outcomes["applied"], outcomes["conflict"], neither]
        print(f"  {name:24}" + "".join(f"{n:8}" for n in numbers) + f"{outcomes['satisfied']:9}{outcomes['gone']:6}")
    for script in scripts:
        for name, reason in script.refused.items():
            print(f"  refused  {script.path}: {name}: {reason}")
        for fault in script.faults:
            print(f"  WRONG    {script.path}: {fault}")
    return sum(bool(script.faults) for script in scripts)


def one(path: str, content: bytes) -> Judged:
    """Every general fix on one script, each judged by itself, then all of them together."""
    found = Judged(path)
    chosen = options_for(fixes.general(), DEVICE)
    findings, after = mend(content, path, chosen)
    found.outcomes = {each.fix: str(each.outcome) for each in findings}
    found.refused = {f.fix: f"line {f.lines[0]}: {f.reason}" for f in findings if f.outcome is Outcome.conflict}
    for name in chosen:
        lines = judge_scripts.lacking(name, content)
        if lines:
            found.lacked.append(name)
            if found.outcomes[name] in ("satisfied", "gone"):
                found.faults.append(f"{name}: the judge sees line {lines[0]}")
        elif found.outcomes[name] == "applied" and name not in BROUGHT:
            found.faults.append(f"{name}: applied where the judge sees nothing to do")
        if found.outcomes[name] == "applied":
            before = content  # a fix that another brings has its place only after that one
            for other in (other for other in chosen if name in fixes.brings(other)):
                before = codemod.run(fixes.load(other), before, path, None).content
            alone = codemod.run(fixes.load(name), before, path, None, chosen[name]).content
            if fault := judge_scripts.wrong(name, before, alone):
                found.faults.append(f"{name}: {fault}")
    compile(after, path, "exec", dont_inherit=True)
    if after != content and mend(after, path, chosen)[1] != after:
        found.faults.append("a second run changes it again")
    if loose := judge_words.undefined(after) - judge_words.undefined(content):
        found.faults.append(f"not defined: {', '.join(loose)}")
    return found


BROUGHT = {other for name in fixes.general() for other in fixes.brings(name)}


if __name__ == "__main__":
    sys.exit(main())
