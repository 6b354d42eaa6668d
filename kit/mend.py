"""The general fixes on one script: what came of each, what else looks like a fault, what its comments leave out."""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from shlex import quote

from kit import devices, fixes
from kit.errors import KitError
from kit.fixes import Options, Outcome
from kit.fixes import _roles as roles
from kit.fixes._ast import decoded, parse, undecodable
from kit.schema import nearest

_SKIP = re.compile(r"#\s*kit:\s*skip\b(?:\s*=\s*([\w-]+(?:\s*,\s*[\w-]+)*))?")
_ALL = "*"


@dataclass(frozen=True)
class Finding:
    """What came of a fix on a file: the lines (from 1) of the places that needed it in the file as it was, or of those
    that it refuses at and why, and at how many places it was applied (several may be on a line)."""

    fix: str
    outcome: Outcome
    lines: tuple[int, ...]
    reason: str
    places: int = 0


@dataclass(frozen=True)
class LooksLike:
    """A place with the sign of a fault in a form that its fix does not know: its line in the file as it was."""

    fix: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"looks like {self.what}, in a form this fix does not know"


@dataclass(frozen=True)
class Skips:
    """What comments leave out, `# kit: skip=FIX,…`: fixes of the whole file, and of the statements at a line."""

    whole: frozenset[str] = frozenset()
    lines: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def of(self, fix: str) -> frozenset[int]:
        """The lines at which a fix does nothing."""
        return frozenset(line for line, names in self.lines.items() if names & {fix, _ALL})

    def file(self, fix: str) -> bool:
        """Whether a fix does nothing in the whole file."""
        return bool(self.whole & {fix, _ALL})


def mend(content: bytes, name: str, chosen: Mapping[str, Options]) -> tuple[list[Finding], bytes]:
    """Try fixes, in the order of ``chosen`` (name to options), on the script ``content``, at however many places.

    Returns what came of each, and the script as they leave it. Raises KitError with file and line where ``content`` is
    not Python.
    """
    findings = []
    original = content
    whole = skips(content, name)
    for fix in chosen:
        if whole.file(fix):
            findings.append(Finding(fix, Outcome.satisfied, (), "the file says to skip it"))
            continue
        finding, after = _try(fix, content, name, chosen)
        found = _found_before(original, content, finding)
        if finding.outcome is Outcome.applied:
            made = after
            for other in (other for other in fixes.brings(fix) if other in chosen and not whole.file(other)):
                seen, (brought, made) = made, _try(other, made, name, chosen)
                if brought.outcome is Outcome.conflict:
                    brought = _found_before(original, seen, brought)
                    reason = f"it makes {other} necessary, which refuses: {brought.reason}"
                    found, after = Finding(fix, Outcome.conflict, brought.lines, reason), content
                    break
        findings.append(found)
        content = after
    return findings, content


def looks_like(
    original: bytes, content: bytes, name: str, chosen: Mapping[str, Options], findings: Sequence[Finding] = ()
) -> list[LooksLike]:
    """What still has the sign of a fault once the fixes have done what they can, but for what they refused."""
    found = []
    left = skips(content, name)
    for fix in chosen:
        signs = getattr(fixes.load(fix), "looks_like", None)
        refused = {
            line for each in findings if each.fix == fix and each.outcome is Outcome.conflict for line in each.lines
        }
        if signs and not left.file(fix):
            for sign in signs(parse(content, name), chosen[fix]):
                (line,) = _lines_before(original, content, (sign.line,))
                if line not in refused and sign.line not in left.of(fix):
                    found.append(LooksLike(fix, line, sign.what))
    return sorted(set(found), key=lambda each: (each.line, each.fix))


def _try(fix: str, content: bytes, name: str, chosen: Mapping[str, Options]) -> tuple[Finding, bytes]:
    module, options = fixes.load(fix), chosen[fix]
    skipped = skips(content, name).of(fix)
    sites = [site for site in fixes.sites(module, parse(content, name), options) if site.line not in skipped]
    todo = tuple(dict.fromkeys(site.line for site in sites if not site.done))
    if not todo:
        nothing = (Outcome.satisfied, (), "it is so already") if sites else (Outcome.gone, (), "not about this file")
        return Finding(fix, *nothing), content
    from kit import codemod

    result = codemod.run(module, content, name, None, options, lambda text: skips(text, name).of(fix))
    lines = todo if result.outcome is Outcome.applied else (result.line, *result.more)
    return Finding(fix, result.outcome, lines, result.reason, result.places), result.content


def skips(content: bytes, name: str) -> Skips:
    """What a script's comments leave out: beside a statement, for it; alone on a line that is indented, for the
    statement below; alone on a line that is not, for the file. Raises KitError where there is no such fix."""
    if b"kit: skip" not in content and b"kit:skip" not in content:
        return Skips()
    whole: set[str] = set()
    lines: dict[int, frozenset[str]] = {}
    script = roles.read(parse(content, name))
    try:
        comments = list(_comments(decoded(content)[0]))
    except UnicodeDecodeError as error:
        raise undecodable(content, name, error) from None
    for line, column, alone, names in comments:
        for each in names - {_ALL, *fixes.names()}:
            raise KitError(f"{name}:{line}: there is no fix {each}{nearest(each, fixes.names())}", "kit fix --list")
        if alone and not column:
            whole |= names
        else:
            below = [node.lineno for node, _ in script.statements if node.lineno > line] if alone else []
            at = min(below, default=line) if alone else script.at(line).lineno
            lines[at] = lines.get(at, frozenset()) | names
    return Skips(frozenset(whole), lines)


def _comments(text: str) -> Iterator[tuple[int, int, bool, set[str]]]:
    """The comments that leave fixes out: the line, the column, whether it is alone there, and the fixes."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        found = _SKIP.search(token.string) if token.type == tokenize.COMMENT else None
        if found:
            names = re.split(r"\s*,\s*", found[1]) if found[1] else [_ALL]
            line, column = token.start
            yield line, column, not token.line[:column].strip(), set(names)


def _found_before(original: bytes, content: bytes, finding: Finding) -> Finding:
    """What was found in ``content``, with the lines of the script it was made from."""

    def before(line: re.Match[str]) -> str:
        return str(*_lines_before(original, content, (int(line[0]),)))

    reason = re.sub(r"(?<=\bline )\d+", before, finding.reason)
    return replace(finding, lines=_lines_before(original, content, finding.lines), reason=reason)


def _lines_before(original: bytes, content: bytes, lines: tuple[int, ...]) -> tuple[int, ...]:
    """Where lines of ``content`` (from 1) are in the script it was made from; the next one for those that are new."""
    if content == original or not lines:
        return lines
    blocks = SequenceMatcher(None, original.splitlines(), content.splitlines()).get_opcodes()
    return tuple(
        next(min(start + line - begin, max(stop, start + 1)) for _, start, stop, begin, end in blocks if line <= end)
        for line in lines
    )


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


def readable(path: str, content: bytes) -> None:
    """Say of a file what it is where it is no script of this Python. Raises KitError."""
    if path.endswith(".ipynb"):
        script = quote(f"{path.removesuffix('.ipynb')}.py")
        hint = f"jupyter nbconvert --to script {quote(path)}; kit fix {script}"
        raise KitError(f"{path} is a notebook: only scripts are read", hint)
    try:
        parse(content, path)
    except KitError as error:
        if "not valid Python" not in error.message:  # too deep, or in another encoding: no version reads that
            raise
        import libcst

        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        try:
            libcst.parse_module(content)
        except Exception:  # it is no Python of any version that libcst knows
            hint = f"mend the file first; if it is for a Python newer than {version}, install kit on that one"
            raise KitError(error.message, hint) from None
        what = error.message.replace("not valid Python", f"not Python {version}, on which kit runs, but a newer one")
        raise KitError(what, "install kit on the Python that the script is for (python3.13 -m venv …)") from None
