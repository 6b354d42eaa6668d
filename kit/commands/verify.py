"""`kit verify [WORKSPACE…] [--smoke] [--parity] [--red]`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import __version__, git, lock, output, recipe, recipes, series, store, verify, whole, workspace
from kit.cache import cache_dir
from kit.errors import KitError
from kit.lock import Lock
from kit.paths import TreePath
from kit.proof import COMPARISONS
from kit.recipe import Recipe
from kit.schema import nearest
from kit.verify import Check

if TYPE_CHECKING:
    from kit.smoke.parity import Row

LEVELS = {
    "tree": "contents",
    "static": "nothing was run",
    "smoke": "run on a tiny model",
    "parity": "it trains the same",
    "red": "each fix left out",
}
MARKS = {True: "ok  ", False: "FAIL", None: "skip"}


@dataclasses.dataclass(frozen=True)
class Proof:
    """What is to be run: the levels above static, and of each the steps, cases and fixes (none: all)."""

    smoke: bool = False
    parity: bool = False
    red: bool = False
    steps: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()

    @property
    def only(self) -> str:
        """What the verdict must say of what was left out."""
        parts = {"smoke": self.steps, "parity": self.cases if self.parity else (), "red": self.fixes}
        return "".join(f", of {level} only {', '.join(names)}" for level, names in parts.items() if names)


def run(
    workspaces: tuple[str, ...],
    smoke: bool,
    parity: bool,
    red: bool,
    steps: tuple[str, ...],
    cases: tuple[str, ...],
    fixes: tuple[str, ...],
    report: str,
    as_json: bool,
) -> int:
    if fixes and not red:
        raise KitError("--fix is for --red, which is not given", f"kit verify --red --fix {fixes[0]}")
    if cases and not parity:
        raise KitError("--case is for --parity, which is not given", f"kit verify --parity --case {cases[0]!r}")
    proof = Proof(smoke or parity or red, parity, red, steps, cases, fixes)
    places = [place for start in workspaces or (".",) for place in workspace.find(Path(start))]
    if report and len(places) != 1:
        raise KitError(f"--report is for one workspace, these are {len(places)}", "name one")
    reports = [_verify(place, proof, quiet=as_json) for place in places]
    if as_json:
        output.as_json(reports)
    if report:
        from kit import report as page

        try:
            whole.write(Path(report), page.html(reports[0]).encode("utf-8", "backslashreplace"))
        except FileNotFoundError:
            raise KitError(f"{report}: there is no folder {Path(report).parent}", "make it, or name another") from None
        output.note(f"report: {report}")
    return 0 if all(each["verified"] for each in reports) else 1


@dataclasses.dataclass
class _Told:
    """What was checked and what ran, printed as it comes unless ``quiet``."""

    quiet: bool
    checks: list[Check] = dataclasses.field(default_factory=list)
    ran: dict[str, list[Any]] = dataclasses.field(default_factory=lambda: {"runs": [], "parity": [], "reds": []})

    def line(self, text: str) -> None:
        if not self.quiet:
            output.line(text)

    def table(self, rows: Sequence[tuple[str, ...]], indent: str) -> None:
        if not self.quiet:
            output.table(rows, indent=indent)

    def level(self, level: str) -> None:
        if not self.checks or self.checks[-1].level != level:
            self.line(f"  {level} ({LEVELS[level]})")

    def add(self, some: Iterator[Check]) -> None:
        for check in some:
            self.level(check.level)
            self.line(f"    {MARKS[check.ok]}  {check.name}{f': {check.detail}' if check.detail else ''}")
            self.checks.append(check)

    def compare(self, rows: Iterator[Row]) -> None:
        """Each comparison of a case as a table, when it is done."""
        for (case, comparison), group in itertools.groupby(rows, lambda row: (row.case, row.comparison)):
            table = list(group)
            self.ran["parity"] += table
            self.level("parity")
            self.line(f"    {case}: {COMPARISONS[comparison]}")
            self.table([(MARKS[row.ok], row.what, row.seen) for row in table], indent="      ")
            self.checks.extend(Check("parity", f"{row.case}: {row.what}", row.ok, row.seen) for row in table)

    def count(self, ok: bool | None) -> int:
        return sum(check.ok is ok for check in self.checks)

    @property
    def levels(self) -> list[str]:
        return list(dict.fromkeys(check.level for check in self.checks))


def _verify(place: Path, proof: Proof, quiet: bool) -> dict[str, Any]:
    """Prove one workspace, printing as it goes unless ``quiet``. Returns the report that --json prints."""
    locked = lock.read(place)
    found = recipes.load(locked.recipe).having(locked.extras).at(locked.device, locked.options)
    found = found if proof.smoke else found.looked_at
    device = found.device(locked.device)
    _check_named(place, found, device.name, proof)
    told = _Told(quiet)
    told.line(f"{output.place(place)}: {found.title} for {device.title}")
    told.add(verify.tree(place, locked, found))
    told.add(verify.static(place, locked, found))
    through = _run(place, locked, found, proof, told) if proof.smoke else ""
    chip = f"{device.title}{', a stand-in' if through else ''}"
    measured = [{**figure, "chip": chip, "task": each.name} for each in told.ran["runs"] for figure in each.measured]
    if measured:
        told.line(f"  measured here, on a tiny model (published figures: kit show {found.called})")
        shown = [(f"{each['value']:g} {each['metric']}", each["task"], each["setting"]) for each in measured]
        told.table(shown, indent="    ")
    verdict = "NOT verified" if told.count(False) else "verified"
    where = (f" {through}" if through else "") + proof.only
    counts = f"{told.count(True)} ok, {told.count(False)} failed, {told.count(None)} skipped"
    told.line(f"  {verdict}{where} ({', '.join(told.levels)}): {counts}")
    return _report(place, locked, found, proof, told) | {
        "through": through,
        "figures": {
            "published": [{**dataclasses.asdict(each), "setting": each.setting} for each in found.figure],
            "measured": measured,
        },
    }


def _check_named(place: Path, found: Recipe, device: str, proof: Proof) -> None:
    """Whether what is to be run alone is there, before anything is built for it. Raises KitError."""
    smoke = found.smoke
    there = {
        "fix": (proof.fixes, [step.id for step in found.fix if found.chosen(step, device)]),
        "smoke step": (proof.steps, [step.name for step in smoke.steps(device, found.extras)] if smoke else []),
        "parity case": (
            proof.cases,
            [case.name for case in smoke.parity if case.on(device, found.extras)] if smoke else [],
        ),
    }
    for kind, (asked, known) in there.items():
        for name in asked:
            if name not in known:
                its = f"its {kind}{'es' if kind == 'fix' else 's'}: {', '.join(known)}"
                hint = its if known else f"recipe {found.name} has none on {device}"
                raise KitError(f"{place}: no {kind} {name!r} here{nearest(name, known)}", hint)


def _report(place: Path, locked: Lock, found: Recipe, proof: Proof, told: _Told) -> dict[str, Any]:
    """What --json prints, but for what was measured."""
    device = found.device(locked.device)
    diffs = _diffs(place, locked)
    return {
        "kit": __version__,
        "workspace": str(place),
        "recipe": found.name,
        "title": found.title,
        "device": device.name,
        "device_title": device.title,
        "verified": not told.count(False),
        "levels": told.levels,
        "only_steps": list(proof.steps),  # of the smoke run; empty: all
        "only_cases": list(proof.cases),  # of parity; empty: all
        "only_fixes": list(proof.fixes),  # of red; empty: all
        "upstreams": {
            name: {"url": each.url, "pin": each.pin, "commit": each.commit} for name, each in locked.upstreams.items()
        },
        "checks": [dataclasses.asdict(check) for check in told.checks],
        "runs": [{**dataclasses.asdict(each), "ok": each.ok} for each in told.ran["runs"]],
        "parity": [dataclasses.asdict(row) for row in told.ran["parity"]],
        "reds": [dataclasses.asdict(each) for each in told.ran["reds"]],
        "fixes": [_fix(diffs, locked, step) for step in found.fix if found.chosen(step, device.name)],
    }


def _run(place: Path, locked: Lock, found: Recipe, proof: Proof, told: _Told) -> str:
    """Levels smoke, parity and red; what they ran through. The working folder is kept where something failed."""
    from kit.smoke import parity, red
    from kit.smoke import run as smoke

    device = found.device(locked.device)
    base = cache_dir() / "smoke"
    base.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{found.name}-{device.name}-", dir=base))
    keep, before = True, len(told.checks)
    try:
        with smoke.begin(found, device, place, work) as running:

            def checks() -> Iterator[Check]:
                for report in smoke.smoke(running, proof.steps):
                    told.ran["runs"].append(report)
                    yield _step_check(report)

            def red_checks() -> Iterator[Check]:
                for report in red.red(running, locked, _at_pin(found, device.name), proof.fixes):
                    told.ran["reds"].append(report)
                    name = f"without {report.fix} the failure it is for appears"
                    yield Check("red", name, report.shown, report.seen)

            told.add(checks())
            if proof.parity:
                told.compare(parity.parity(running, _at_pin(found, device.name), proof.cases))
            if proof.red:
                told.add(red_checks())
        asked = {"smoke": ("step", True), "parity": ("case", proof.parity), "red": ("fix", proof.red)}
        for level, (thing, wanted) in asked.items():
            if wanted and level not in told.levels:
                none = f"unproven: recipe {found.name} has no {level} {thing} on {device.name}"
                told.add(iter([Check(level, LEVELS[level], None, none)]))
        keep = any(check.ok is False for check in told.checks[before:])
    finally:
        if not keep or not any(work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)
    return running.through


def _step_check(report: Any) -> Check:
    """One line a step: what it took, or which finding failed, its log and the last error."""
    failed = [finding.told for finding in report.findings if not finding.ok]
    if failed:
        return Check("smoke", report.name, False, f"{'; '.join(failed)} (log: {report.log})")
    seen = "; ".join(finding.what for finding in report.findings)
    return Check("smoke", report.name, True, f"{report.seconds:.0f} s: {seen}")


def _at_pin(found: Recipe, device: str) -> dict[str, dict[TreePath, bytes]]:
    """For each upstream, the files its fixes change, as they are at the pin."""
    entries = {upstream.name: store.ensure(upstream, found.path.parent) for upstream in found.upstream}
    return {name: entry.files(found.sources(name, device)) for name, entry in entries.items()}


def _fix(diffs: dict[str, str], locked: Lock, step: recipe.FixStep) -> dict[str, str]:
    """A fix for the report: what it is for, its outcome and its diff."""
    subject, body = series.message(step)
    fixes = [fix for name, each in locked.upstreams.items() if name == step.upstream for fix in each.fixes]
    made = next((fix for fix in fixes if fix.id == step.id), None)
    diff = diffs.get(made.commit or "", "") if made else ""
    outcome = made.outcome if made else "left out"
    return {"id": step.id, "title": subject.partition(": ")[2], "why": body, "outcome": outcome, "diff": diff}


def _diffs(place: Path, locked: Lock) -> dict[str, str]:
    """The diff of each fix's commit, by its id; none of an upstream that has lost one, as level tree says."""
    found: dict[str, str] = {}
    for name, upstream in locked.upstreams.items():
        commits = [fix.commit for fix in upstream.fixes if fix.commit]
        with contextlib.suppress(git.GitError):
            shown = (
                git.run("show", "--format=commit %H", "--end-of-options", *commits, at=place / name) if commits else b""
            )
            # no line of a diff begins so
            parts = re.split(r"^commit ([0-9a-f]+)\n+", shown.decode("utf-8", "replace"), flags=re.MULTILINE)
            found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found
