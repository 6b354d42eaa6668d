"""`kit fix [FIX…] FILE…`: the general fixes on any training script, as pyupgrade and pre-commit's hooks work on one."""

from __future__ import annotations

import csv
import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import diff_bytes, unified_diff
from pathlib import Path
from shlex import quote

from packaging.version import InvalidVersion, Version

from kit import devices, fixes, output, whole
from kit.errors import KitError
from kit.fixes import Options, Outcome
from kit.mend import Finding, LooksLike, looks_like, mend, options_for, readable
from kit.schema import nearest


def run(
    fixes_and_files: tuple[str, ...],
    as_diff: bool,
    check: bool,
    list_: bool,
    explain: str | None,
    skip: tuple[str, ...],
    strict: bool,
    summary: bool,
    as_csv: bool,
    verbose: bool,
    device: str | None,
    torch: str | None,
    as_json: bool,
) -> int:
    if list_:
        return _list(fixes.general(), as_json)
    if explain is not None:
        return _explain(explain, device)
    named, files = _split(fixes_and_files)
    chosen = _choose(named, skip, device, torch)
    if not files:
        raise KitError("there is no file to fix", "kit fix train.py")
    gc.set_threshold(10_000_000)  # trees are many small objects each: not gone through while one is made
    report = []
    for file in files:
        entry = _one(file, chosen, write=not (as_diff or check))
        report.append(entry)
        if as_diff and not as_json:
            sys.stdout.flush()
            sys.stdout.buffer.write(entry.diff)
        if not (as_json or summary or as_csv):
            _show(entry, verbose, "would be applied" if as_diff or check else "applied", to_stderr=as_diff)
    if summary or as_csv:
        _summarise(report, as_csv, as_json)
    elif as_json:
        output.as_json([entry.as_dict() for entry in report])
    return 1 if any(entry.changed or entry.refused or (strict and entry.looks_like) for entry in report) else 0


@dataclass(frozen=True)
class File:
    """A file, what came of each fix, what else looks like a fault, and the change as a unified diff (empty: none);
    ``error``: not to be read."""

    path: str
    findings: tuple[Finding, ...] = ()
    looks_like: tuple[LooksLike, ...] = ()
    diff: bytes = b""
    error: KitError | None = None

    @property
    def changed(self) -> bool:
        return bool(self.diff)

    @property
    def refused(self) -> bool:
        return bool(self.error) or any(each.outcome is Outcome.conflict for each in self.findings)

    def as_dict(self) -> dict[str, object]:
        found = [
            {"id": each.fix, "outcome": str(each.outcome), "lines": each.lines, "reason": each.reason}
            for each in self.findings
        ]
        signs = [{"id": each.fix, "line": each.line, "what": each.what} for each in self.looks_like]
        error = self.error.message if self.error else None
        return {"path": self.path, "changed": self.changed, "error": error, "fixes": found, "looks_like": signs}


def _summarise(report: Sequence[File], as_csv: bool, as_json: bool) -> None:
    """Of each fix that was about a file: in how many it was applied and at how many places, refused, looked needed."""
    applied, places, refused, signs = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for entry in report:
        for each in entry.findings:
            applied[each.fix] += each.outcome is Outcome.applied
            places[each.fix] += len(each.lines) * (each.outcome is Outcome.applied)
            refused[each.fix] += each.outcome is Outcome.conflict
        signs.update({each.fix for each in entry.looks_like})
    rows = [
        {
            "fix": name,
            "applied": applied[name],
            "places": places[name],
            "refused": refused[name],
            "looks_like": signs[name],
        }
        for name in fixes.names()
        if applied[name] or refused[name] or signs[name]
    ]
    unread = [entry.error for entry in report if entry.error]
    for error in unread:
        output.error(error.message, error.hint)
    if as_json:
        counts = {"files": len(report), "changed": sum(entry.changed for entry in report), "unread": len(unread)}
        output.as_json({**counts, "fixes": rows})
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, ["fix", "applied", "places", "refused", "looks_like"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        words = [("fix", "files", "places", "refused", "looks like")]
        output.table(words + [tuple(str(value) for value in row.values()) for row in rows], indent="")
        changed = sum(entry.changed for entry in report)
        output.line(f"{len(report)} files, {changed} changed, {len(unread)} not read")


def _explain(name: str, device: str | None) -> int:
    """What a fix does and why, on an example, and where upstream stands on it."""
    known = fixes.general()
    if name not in known:
        raise KitError(f"there is no fix {name} for any script{nearest(name, known)}", "kit fix --list")
    fix = fixes.load(name)
    output.line(f"{name}: {fix.TITLE}{_newer(name)}\n\n{fix.WHY.strip()}\n")
    example = fixes.example(name).encode()
    chosen = options_for(fixes.with_brought([name]), device or "npu")
    after = mend(example, "train.py", chosen)[1]
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(_diff(example.splitlines(True), after.splitlines(True), b"train.py")))
    output.line(f"\nupstream: {fixes.upstream(name)}")
    for link in fix.LINKS:
        output.line(f"  {link}")
    return 0


def _list(known: Sequence[str], as_json: bool) -> int:
    modules = {name: fixes.load(name) for name in known}
    if as_json:
        output.as_json([{"id": name, "title": fix.TITLE, "why": fix.WHY} for name, fix in modules.items()])
    else:
        output.table([(name, f"{fix.TITLE}{_newer(name)}") for name, fix in modules.items()], indent="")
    return 0


def _show(entry: File, verbose: bool, applied: str, to_stderr: bool) -> None:
    line = output.note if to_stderr else output.line  # a diff may be on its way to `git apply`
    if entry.error:
        output.error(entry.error.message, entry.error.hint)
    for each in entry.findings:
        if each.outcome is Outcome.applied:
            places = f" at {len(each.lines)} places" if len(each.lines) > 1 else ""
            line(f"{entry.path}:{each.lines[0]}: {applied}: {each.fix}{places}{_newer(each.fix)}")
        elif each.outcome is Outcome.conflict:
            line(f"{entry.path}:{each.lines[0]}: conflict: {each.fix}: {each.reason}{_also(each.lines[1:])}")
        elif verbose:
            line(f"{entry.path}: {each.outcome}: {each.fix}: {each.reason}")
    signs = Counter((sign.fix, str(sign)) for sign in entry.looks_like)
    for (fix, said), count in signs.items():
        first = next(sign.line for sign in entry.looks_like if (sign.fix, str(sign)) == (fix, said))
        line(f"{entry.path}:{first}: {fix}: {said}" + f" ({count} places)" * (count > 1))


def _also(lines: Sequence[int]) -> str:
    """The other lines that a refusal is about: the first five, and how many more."""
    told = ", ".join(map(str, lines[:5])) + f" and {len(lines) - 5} more" * (len(lines) > 5)
    return f" (also line{'s' * (len(lines) > 1)} {told})" if lines else ""


def _newer(name: str) -> str:
    return f" (torch {version} or newer)" if (version := fixes.oldest_torch(name)) else ""


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of fixes that come first, and the files after them. Raises KitError for a word that is neither."""
    known = fixes.names()
    first = next((index for index, word in enumerate(words) if word not in known), len(words))
    for word in words[first:]:
        if not os.path.lexists(word):
            hint = f"fixes come before files: {', '.join(fixes.general())}"
            what = "comes after a file" if word in known else f"is neither a file nor a fix{nearest(word, known)}"
            raise KitError(f"{word} {what}", hint)
    return list(words[:first]), list(words[first:])


def _choose(named: Sequence[str], skip: Sequence[str], device: str | None, torch: str | None) -> dict[str, Options]:
    """The fixes to try, each with its options: the named ones, or all general ones, and what those bring."""
    known = fixes.general()
    for name in named:
        if name not in known:
            hint = f"name a file as ./{name}, or a fix of these: {', '.join(known)}"
            raise KitError(f"fix {name} belongs to a recipe; it is not for any script", hint)
    for name in skip:
        if name not in known:
            raise KitError(f"--skip {name}: there is no such fix{nearest(name, known)}", "kit fix --list")
    wanted = [name for name in fixes.with_brought(named or known) if name not in skip]
    newer = _too_new(wanted, torch)
    chosen = options_for([name for name in wanted if name not in newer], device)
    for name in named:
        if name in newer:
            raise KitError(
                f"fix {name} needs torch {fixes.oldest_torch(name)}, not {torch}", "leave out --torch, or the fix"
            )
        if name not in chosen and name not in skip:
            fitting = ",".join(each for each in devices.names() if options_for([name], each))
            hint = f"kit fix --device {{{fitting}}} {name} FILE…"
            raise KitError(f"fix {name} " + ("differs by device" if device is None else f"is not for {device}"), hint)
    return chosen


def _too_new(names: Sequence[str], torch: str | None) -> list[str]:
    """The fixes whose text runs on a newer torch only. Raises KitError where ``torch`` is no version."""
    if torch is None:
        return []
    try:
        installed = Version(torch)
    except InvalidVersion:
        raise KitError(f"--torch {torch} is no version", "kit fix --torch 2.1 train.py") from None
    return [name for name in names if (needed := fixes.oldest_torch(name)) and installed < Version(needed)]


def _one(path: str, chosen: dict[str, Options], write: bool) -> File:
    """Fix one file; what is wrong with it does not stop the others."""
    place = Path(path)
    try:
        if place.is_dir():
            raise KitError(f"{path} is a folder", f"name its files: kit fix {quote(path.rstrip('/'))}/*.py")
        before = place.read_bytes()
        readable(path, before)
        findings, after = mend(before, path, chosen)
        signs = looks_like(before, after, path, chosen, findings)
        if write and after != before:
            whole.write(place, after)
    except OSError as error:
        return File(path, error=KitError(f"{path}: {error.strerror}", "give access to it, then try again"))
    except RecursionError:
        return File(path, error=KitError(f"{path}:1: expressions too deep to read", "leave the file out"))
    except KitError as error:
        return File(path, error=error)
    lines = (before.splitlines(True), after.splitlines(True))
    name = os.fsencode(path.removeprefix("/"))
    return File(path, tuple(findings), tuple(signs), b"".join(_diff(*lines, name)))


def _diff(before: list[bytes], after: list[bytes], name: bytes) -> Iterator[bytes]:
    """A unified diff of lines with their ends; a last line without one gets its mark."""
    for line in diff_bytes(unified_diff, before, after, b"a/" + name, b"b/" + name):
        yield line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
