"""`kit fix [FIX…] FILE…`: the general fixes on any training script, as pyupgrade and pre-commit's hooks work on one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, diff_bytes, unified_diff
from pathlib import Path

from packaging.version import InvalidVersion, Version

from kit import devices, fixes, output, whole
from kit.errors import KitError
from kit.fixes import Options, Outcome
from kit.fixes._ast import parse
from kit.schema import nearest


@dataclass(frozen=True)
class Finding:
    """What came of a fix on a file: the lines (from 1) of the places that needed it in the file as it was, or why
    it did not happen."""

    fix: str
    outcome: Outcome
    lines: tuple[int, ...]
    reason: str


def run(
    fixes_and_files: tuple[str, ...],
    as_diff: bool,
    check: bool,
    list_: bool,
    verbose: bool,
    device: str | None,
    torch: str | None,
    as_json: bool,
) -> int:
    if list_:
        return _list(fixes.general(), as_json)
    named, files = _split(fixes_and_files)
    chosen = _choose(named, device, torch)
    if not files:
        raise KitError("there is no file to fix", "kit fix train.py")
    report = []
    for file in files:
        entry = _one(file, chosen, write=not (as_diff or check))
        report.append(entry)
        if as_diff and not as_json:
            sys.stdout.flush()
            sys.stdout.buffer.write(entry.diff)
        if not as_json:
            _show(entry, verbose, "would be applied" if as_diff or check else "applied", to_stderr=as_diff)
    if as_json:
        output.as_json([entry.as_dict() for entry in report])
    return 1 if any(entry.changed or entry.refused for entry in report) else 0


@dataclass(frozen=True)
class File:
    """A file, what came of each fix, and the change as a unified diff (empty: none); ``error``: not to be read."""

    path: str
    findings: tuple[Finding, ...] = ()
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
        error = self.error.message if self.error else None
        return {"path": self.path, "changed": self.changed, "error": error, "fixes": found}


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
            line(f"{entry.path}:{each.lines[0]}: conflict: {each.fix}: {each.reason}")
        elif verbose:
            line(f"{entry.path}: {each.outcome}: {each.fix}: {each.reason}")


def _newer(name: str) -> str:
    return f" (torch {version} or newer)" if (version := fixes.oldest_torch(name)) else ""


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of fixes that come first, and the files after them. Raises KitError for a word that is neither."""
    known = fixes.names()
    first = next((index for index, word in enumerate(words) if word not in known), len(words))
    for word in words[first:]:
        if not os.path.lexists(word):
            hint = f"fixes come before files: {', '.join(fixes.general())}"
            raise KitError(f"{word} is neither a file nor a fix{nearest(word, known)}", hint)
    return list(words[:first]), list(words[first:])


def _choose(named: Sequence[str], device: str | None, torch: str | None) -> dict[str, Options]:
    """The fixes to try, each with its options: the named ones, or all general ones, and what those bring."""
    known = fixes.general()
    for name in named:
        if name not in known:
            hint = f"name a file as ./{name}, or a fix of these: {', '.join(known)}"
            raise KitError(f"fix {name} belongs to a recipe; it is not for any script", hint)
    wanted = fixes.with_brought(named or known)
    newer = _too_new(wanted, torch)
    chosen = options_for([name for name in wanted if name not in newer], device)
    for name in named:
        if name in newer:
            raise KitError(
                f"fix {name} needs torch {fixes.oldest_torch(name)}, not {torch}", "leave out --torch, or the fix"
            )
        if name not in chosen:
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


def options_for(names: Sequence[str], device: str | None) -> dict[str, Options]:
    """Each fix's options. Left out are those that need to know a device where there is none, and those that are about
    something the device has not (a package of its own)."""
    templates = {name: getattr(fixes.load(name), "OPTIONS", {}) for name in names}
    if device is None:
        return {name: {} for name in names if not templates[name]}
    profile = devices.load(device)
    filled = {
        name: {key: value.format(device=profile) for key, value in template.items()}
        for name, template in templates.items()
    }
    return {name: options for name, options in filled.items() if all(options.values())}


def _one(path: str, chosen: dict[str, Options], write: bool) -> File:
    """Fix one file; what is wrong with it does not stop the others."""
    place = Path(path)
    try:
        if place.is_dir():
            raise KitError(f"{path} is a folder", f"name its files: kit fix {path.rstrip('/')}/*.py")
        before = place.read_bytes()
        findings, after = mend(before, path, chosen)
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
    return File(path, tuple(findings), b"".join(_diff(*lines, name)))


def mend(content: bytes, name: str, chosen: dict[str, Options]) -> tuple[list[Finding], bytes]:
    """Try fixes, in the order of ``chosen`` (name to options), on the script ``content``, at however many places.

    Returns what came of each, and the script as they leave it. Raises KitError with file and line where ``content`` is
    not Python.
    """
    findings = []
    original = content
    for fix in chosen:
        finding, after = _try(fix, content, name, chosen)
        if finding.outcome is Outcome.applied:
            made = after
            for other in fixes.brings(fix):
                brought, made = _try(other, made, name, chosen)
                if brought.outcome is Outcome.conflict:
                    reason = f"it makes {other} necessary, which refuses: {brought.reason}"
                    finding, after = Finding(fix, Outcome.conflict, brought.lines, reason), content
                    break
        findings.append(replace(finding, lines=_lines_before(original, content, finding.lines)))
        content = after
    return findings, content


def _lines_before(original: bytes, content: bytes, lines: tuple[int, ...]) -> tuple[int, ...]:
    """Where lines of ``content`` (from 1) are in the script it was made from; the next one for those that are new."""
    if content == original or not lines:
        return lines
    blocks = SequenceMatcher(None, original.splitlines(), content.splitlines()).get_opcodes()
    return tuple(
        next(min(start + line - begin, max(stop, start + 1)) for _, start, stop, begin, end in blocks if line <= end)
        for line in lines
    )


def _try(fix: str, content: bytes, name: str, chosen: dict[str, Options]) -> tuple[Finding, bytes]:
    module, options = fixes.load(fix), chosen[fix]
    sites = module.sites(parse(content, name), options)
    todo = tuple(site.line for site in sites if not site.done)
    if not todo:
        nothing = (Outcome.satisfied, (), "it is so already") if sites else (Outcome.gone, (), "not about this file")
        return Finding(fix, *nothing), content
    from kit import codemod

    result = codemod.run(module, content, name, None, options)
    lines = todo if result.outcome is Outcome.applied else (result.line,)
    return Finding(fix, result.outcome, lines, result.reason), result.content


def _diff(before: list[bytes], after: list[bytes], name: bytes) -> Iterator[bytes]:
    """A unified diff of lines with their ends; a last line without one gets its mark."""
    for line in diff_bytes(unified_diff, before, after, b"a/" + name, b"b/" + name):
        yield line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
