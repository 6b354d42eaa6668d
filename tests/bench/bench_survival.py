"""How fixes survive along the history of the files they are for, beside text patches: for each recipe,
python tests/bench/bench_survival.py [RECIPE…] [--versions N] [--no-text]

Every version (distinct blob) of every file of the series, before the pin and after it; or N of each, evenly spread.
A pair of a version and a fix is applicable where the construct is there and lacks the fix, as `judge.py` sees it, which
knows nothing of kit's fixes. Of those: ok (applied, and right in the judge's eyes), wrong (applied, and not right),
refused (gone or in conflict, with the reasons). What is not applicable is counted, and its conflicts are listed.
`git apply`, `git apply --3way` and `patch -F2` get the diff of the pin and the same files; for them, wrong is exit
status 0 and not right. The exit status is 1 if a fix was wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import judge
import judge_changes
import judge_scripts
import judge_words

from kit import drift, git, history, recipe, recipes, series
from kit.devices import Device
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.recipe import Recipe, Upstream

TOOLS = {
    "git apply": ["git", "apply", "{patch}"],
    "git apply --3way": ["git", "apply", "--3way", "{patch}"],
    "patch -F2": ["patch", "-p1", "-s", "-f", "-F2", "-i", "{patch}"],
}


@dataclass(frozen=True)
class Case:
    """One version of one of upstream's files."""

    root: str
    blob: str
    commit: str
    forward: bool  # not an ancestor of the pin
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Told:
    """What came of a fix (or of the text patch of one) on one version: ok, wrong, refused; "" where it is not
    applicable and was left alone."""

    tool: str
    fix: str
    path: str
    commit: str
    forward: bool
    verdict: str
    reason: str
    outcome: str  # of kit's fix, applicable or not; "" for the tools


Pinned = dict[tuple[str, str], tuple[bytes, bytes]]  # by fix and path: before and after it, at the pin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument(
        "--versions", type=int, default=0, metavar="N", help="of each file, evenly spread (default: all)"
    )
    parser.add_argument("--no-text", action="store_true", help="without the text patches")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N")
    given = parser.parse_args()
    told: list[Told] = []
    for name in given.recipes or recipes.names():
        found = recipes.load(name).whole
        for upstream in found.upstream:
            devices = [found.device(each) for each in found.devices if found.series(upstream.name, each)]
            if lacks := history.why_none(upstream):
                print(f"\n{found.name}: {upstream.name} {lacks}")
            elif devices:
                told += survive(found, upstream, devices[0], given.versions, not given.no_text, given.jobs)
    print("\nall")
    table(told)
    return 1 if any(each.tool == "kit" and each.verdict == "wrong" for each in told) else 0


def survive(found: Recipe, upstream: Upstream, device: Device, limit: int, text: bool, jobs: int) -> list[Told]:
    """Every version of an upstream's files; prints the table and whatever was not ok."""
    cases = versions(found, upstream, device, limit)
    pinned = at_pin(found, upstream, device)
    print(
        f"\n{found.name}, {upstream.name}: {len(cases)} versions of {len({case.root for case in cases})} files",
        flush=True,
    )
    work = partial(one, found, upstream, device, pinned, text)
    with ProcessPoolExecutor(jobs, initializer=gc.set_threshold, initargs=(1_000_000,)) as pool:
        told = [each for some in pool.map(work, cases, chunksize=4) for each in some]
    table(told)
    why: dict[tuple[str, str, str, str], list[Told]] = defaultdict(list)
    for each in told:
        left = each.outcome == Outcome.conflict or (each.verdict and each.reason)
        if each.tool == "kit" and left:
            why[each.verdict, each.fix, each.path, re.sub(r"\d+", "N", each.reason)].append(each)
    for (verdict, fix, path, _), some in why.items():
        first = some[0]
        print(f"  {verdict or 'conflict':8}{len(some):4}x {fix}: {path} since {first.commit[:12]}: {first.reason}")
    return told


def table(told: list[Told]) -> None:
    for forward in (True, False):
        found = Counter(each.outcome for each in told if each.tool == "kit" and each.forward == forward)
        if found:
            came = ", ".join(f"{found[outcome]} {outcome}" for outcome in map(str, Outcome))
            print(f"  {'forward' if forward else 'backward':9}{found.total():6} versions of a fix's file: {came}")
        for tool in dict.fromkeys(each.tool for each in told):
            counts = Counter(each.verdict for each in told if each.tool == tool and each.forward == forward)
            applicable = counts["ok"] + counts["wrong"] + counts["refused"]
            if applicable:
                share = f"{100 * counts['ok'] / applicable:5.1f}%"
                direction = "forward" if forward else "backward"
                print(
                    f"  {direction:9}{tool:18}{applicable:6} applicable: {counts['ok']:5} ok ({share}), "
                    f"{counts['wrong']} wrong, {counts['refused']} refused"
                )


def versions(found: Recipe, upstream: Upstream, device: Device, limit: int) -> list[Case]:
    """The distinct blobs of the series' files in all that leads to upstream's newest commit and to the pin."""
    past = history.fetch(upstream)
    paths = sorted(found.sources(upstream.name, device.name))
    shape = ("--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--format=%x01%H")
    backward = set(git.text("rev-list", upstream.pin, at=past.repository).split())
    seen: dict[tuple[str, str], tuple[str, bool]] = {}
    log = git.text("log", "--reverse", *shape, past.tip, upstream.pin, "--", *paths, at=past.repository)
    for part in log.split("\x01")[1:]:
        commit, *lines = part.split("\n")
        for line in filter(None, lines):
            meta, _, path = line.partition("\t")
            blob = meta.split()[3]
            if set(blob) != {"0"}:
                seen.setdefault((path, blob), (commit, commit not in backward))
    chosen = []
    for path in paths:
        own = [key for key in seen if key[0] == path]
        step = max(1, len(own) // limit) if limit else 1
        chosen += own[::step]
    contents = past.contents([blob for _, blob in chosen])
    return [Case(path, blob, *seen[path, blob], contents[blob]) for path, blob in chosen]


def at_pin(found: Recipe, upstream: Upstream, device: Device) -> Pinned:
    """Each fix's files at the pin, before and after it."""
    past = history.fetch(upstream, offline=True)
    paths = sorted(found.sources(upstream.name, device.name))
    blobs = past.blobs_at(upstream.pin, paths)
    contents = past.contents(list(blobs.values()))
    files = {TreePath(path): contents[blob] for path, blob in blobs.items()}
    patches = series.hand_written(found, upstream.name)
    steps, _ = series.apply(found, upstream.name, device, files, patches, generating=True)
    return {(step.fix.id, path): change for step in steps for path, change in step.changes.items()}


def one(found: Recipe, upstream: Upstream, device: Device, pinned: Pinned, text: bool, case: Case) -> list[Told]:
    """The series on one version, fix after fix, each judged; the text patches get what each fix got."""
    alone = drift.alone_on(found, upstream, device, TreePath(case.root))
    told = []
    current: dict[TreePath, bytes] = {TreePath(case.root): case.content}
    if case.root.endswith(".py") and not judge_words.is_python(case.content):
        return []
    for number, step in alone.series(upstream.name, device.name):
        for path in step.files:
            before = current.get(path) or current[step.derive_from]
            current[path] = before
            only = dataclasses.replace(step, files=(path,), derive_from="", devices=())
            just = dataclasses.replace(alone, fix=(*[NEVER] * (number - 1), only))
            patches = series.hand_written(found, upstream.name)
            (done,), files = series.apply(just, upstream.name, device, {path: before}, patches, generating=True)
            after, outcome = files[path], done.outcomes[0]
            # a fix that is upstream at the pin: what it does there is not known, and only its own judge can tell
            judged = partial(told_of, step.use or step.id, pinned.get((step.id, path)), before)
            fixed = after if outcome.outcome is Outcome.applied else None
            verdict, reason = judged(fixed, outcome.reason or str(outcome.outcome))
            told.append(Told("kit", step.id, path, case.commit, case.forward, verdict, reason, str(outcome.outcome)))
            if text and verdict and (step.id, path) in pinned:
                for tool, after_text in by_text(path, *pinned[step.id, path], before):
                    verdict_text, reason = judged(after_text, "refused")
                    told.append(Told(tool, step.id, path, case.commit, case.forward, verdict_text, reason, ""))
            current[path] = after
    return told


NEVER = recipe.FixStep("never", (), devices=recipe.NOWHERE)
# The fixes with a judge of their own; which package is imported is the recipe's to say, so that is judged by the pin.
TOLD = {*judge.LACKING, *judge_scripts.LACKING} - {"device-package"}


def told_of(
    fix: str, pinned: tuple[bytes, bytes] | None, before: bytes, after: bytes | None, reason: str
) -> tuple[str, str]:
    """The verdict on one pair, and why."""
    if pinned and not judge_words.is_python(before):
        wanted = judge_words.lines(*pinned)
        lacking = wanted[0] <= set(before.splitlines()) and not wanted[1] <= set(before.splitlines())
        fault = "" if after is None or judge_words.lines(before, after) == wanted else "other lines than at the pin"
    elif fix in TOLD:
        lacking = bool(judge_scripts.lacking(fix, before))
        fault = judge_scripts.wrong(fix, before, after) if after is not None else ""
        if after is not None and not lacking:
            fault = fault or "applied where the judge sees nothing to do"
    elif pinned is None:
        return "", reason
    else:
        wanted = judge_changes.changes(*pinned)
        tree = judge_words.parse(before)
        lacking = all(change.wanted_in(tree) for change in wanted)
        fault = "" if after is None else judge_changes.differs(wanted, before, after)
    if after is None:
        return ("refused" if lacking else ""), reason
    if fault:
        return "wrong", fault
    if (
        fix not in TOLD
        and pinned
        and judge_words.is_python(before)
        and judge_changes.other_text(judge_changes.changes(*pinned), before, after)
    ):
        return "ok", "what it replaces goes on otherwise than at the pin"
    return "ok", ""


def by_text(path: str, old: bytes, new: bytes, here: bytes) -> Iterator[tuple[str, bytes | None]]:
    """What each text tool makes of a file with the diff of ``old`` and ``new``; None where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        run = partial(subprocess.run, cwd=place, capture_output=True)
        run(["git", "init", "-q"])
        for content in (old, new):
            file.write_bytes(content)
            run(["git", "add", "--all", "--force"])
            run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"])
        patch = Path(f"{folder}.patch")
        patch.write_bytes(run(["git", "diff", "--full-index", "HEAD~", "HEAD"]).stdout)
        try:
            for tool, argv in TOOLS.items():
                file.write_bytes(here)
                run(["git", "reset", "-q"])
                run(["git", "add", "--all", "--force"])
                done = run([word.format(patch=patch) for word in argv])
                yield tool, file.read_bytes() if done.returncode == 0 else None
                run(["git", "clean", "-fdqx"])
        finally:
            patch.unlink()


if __name__ == "__main__":
    sys.exit(main())
