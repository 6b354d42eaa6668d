"""Patch files: mailbox patches that ``git am`` takes, read strictly. Applied they are in `patchfit`, written in
`patchwrite`.

unidiff takes the hunks apart and validates almost nothing; here a refusal says what is wrong, where, and what to do.
Everything is pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from kit.errors import KitError
from kit.paths import TreePath, tree_path

CONTEXT = 2  # lines kept around a change: the least that reads well
NO_BLOB = "0" * 40
EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
NO_NEWLINE = "\\ No newline at end of file"
REFRESH = "write it again: kit refresh"
DROP = "take the fix out of the recipe, and its patch with it"
BY_HAND = "make it with: git format-patch -1 -p --full-index --no-renames --no-signature"
PROSE = "delete it; prose goes into the message, above the first diff"
AS_TEXT = "a patch carries text; put the file into the overlay instead"
PLAIN = "patch plain files only, of mode 100644 or 100755"

# Lines that are refused outside hunks: how they start, what they are, what to do.
REFUSED = (
    (r'diff --git .*"', "a quoted path is not supported", "make the patch with: git -c core.quotePath=false"),
    (r"diff --git (?!a/.+ b/)", "the paths do not start with a/ and b/", "make the patch without --no-prefix"),
    (r"index (?![0-9a-f]{40}\.\.[0-9a-f]{40}( |$))", "the 'index' line does not hold two full blob ids", BY_HAND),
    (r"(new file mode|index \S+) 120000$", "a symbolic link is not supported", PLAIN),
    (r"(new file mode|index \S+) 160000$", "a submodule is not supported", PLAIN),
    (r"(new file mode|index \S+) (?!100(644|755)$)", "this file mode is not supported", PLAIN),
    (r"(old|new) mode ", "changing a file's mode is not supported", "leave the mode; call it through its interpreter"),
    (r"deleted file |\+\+\+ /dev/null", "deleting a file is not supported", "leave the file, and stop using it"),
    (r"rename (from|to) ", "renaming a file is not supported", BY_HAND),
    (r"GIT binary patch|Binary files ", "a binary change is not supported", AS_TEXT),
    (r"\*\*\* |\*{15}", "a context diff is not supported", BY_HAND),
    (r"\d+\.\d+\.\S+$", "a mail signature is not supported", "make the patch with --no-signature"),
    (r"\d+(,\d+)?[acd](\d+(,\d+)?)?$", "an ed script is not supported", BY_HAND),
)
HEADER_LINE = re.compile(r"diff --git |new file mode |similarity index \d+%$|copy (from|to) |index |--- |\+\+\+ ")
HEADER = re.compile(
    r"diff --git a/(?P<old>.+) b/(?P<new>.+)\n"
    r"(?:new file mode (?P<mode>\d+)\n|(?P<copy>similarity index \d+%\ncopy from (?P=old)\ncopy to (?P=new)\n))?"
    r"index (?P<preimage>\w+)\.\.(?P<postimage>\w+)(?: (?P<same_mode>\d+))?\n"
    r"(?P<sides>--- (?:a/(?P=old)|(?P<null>/dev/null))\t?\n\+\+\+ b/(?P=new)\t?\n)?"
)


@dataclass(frozen=True)
class Hunk:
    """One change. ``start`` and ``target`` count lines from 0, in the source and in the result; ``before`` and
    ``after`` are whole lines, with their ends; ``line`` is that of its ``@@`` in the patch file, from 1."""

    line: int
    start: int
    target: int
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


@dataclass(frozen=True)
class FilePatch:
    """What happens to one file. ``source`` is None for a new file, and another path than ``path`` for a copy (taken
    from the tree as it was before this patch, as git takes it). ``preimage`` and ``postimage`` are git blob ids of 40
    hex digits, ``preimage`` None for a new file; ``line`` is that of its ``diff --git`` in the patch file, from 1."""

    path: TreePath
    source: TreePath | None
    mode: int
    preimage: str | None
    postimage: str
    hunks: tuple[Hunk, ...]
    line: int


@dataclass(frozen=True)
class Patch:
    """A patch file; ``name`` is what messages call it, ``subject`` and ``body`` are what ``git am`` would commit."""

    name: str
    subject: str
    body: str
    files: tuple[FilePatch, ...]


def blob_id(data: bytes) -> str:
    """git's id of a file's content: the SHA-1 of ``blob <size>``, a zero byte and the content, as 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their ends; unlike splitlines, only a line feed ends one."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def _error(name: str, line: int, what: str, hint: str) -> KitError:
    return KitError(f"{name}:{line}: {what}", hint)


def parse(text: bytes, name: str) -> Patch:
    """Read a patch file, refusing whatever is not exactly a mail header, a message and git diffs.

    Raises KitError; its message starts with ``name:line``.
    """
    if not text:
        raise _error(name, 1, "the file is empty", REFRESH)
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _error(name, text.count(b"\n", 0, error.start) + 1, "not UTF-8", AS_TEXT) from None
    if lines.pop():
        raise _error(name, len(lines) + 1, "cut off: the last line has no end", REFRESH)
    if lines[0].endswith("\r"):
        raise _error(name, 1, "its lines end in CRLF", "check it out as it is: add '*.patch -text' to .gitattributes")
    subject, body, first = _read_message(lines, name)
    starts = [at for at in range(first, len(lines)) if lines[at].startswith("diff --git ")]
    files = tuple(_read_file(lines[:end], start, name) for start, end in pairwise([*starts, len(lines)]))
    seen: dict[TreePath, int] = {}
    for file in files:
        if file.path in seen:
            what = f"{file.path} is patched twice, first at line {seen[file.path]}"
            raise _error(name, file.line, what, "join the two")
        seen[file.path] = file.line
    return Patch(name, subject, body, files)


def _stray(name: str, lines: list[str], at: int, what: str, hint: str) -> KitError:
    """The error for the line at index ``at``: what REFUSED knows it to be, otherwise ``what``."""
    known = (row[1:] for row in REFUSED if at < len(lines) and re.match(row[0], lines[at]))
    return _error(name, min(at, len(lines) - 1) + 1, *next(known, (what, hint)))


def _read_message(lines: list[str], name: str) -> tuple[str, str, int]:
    """Subject, body and the index of the first ``diff --git`` line."""
    if not re.fullmatch(r"From [0-9a-f]{40} Mon Sep 17 00:00:00 2001", lines[0]):
        raise _stray(name, lines, 0, "not a mailbox patch, which starts 'From <commit> Mon Sep 17 …'", BY_HAND)
    blank = lines.index("") if "" in lines else len(lines)
    unfolded = re.sub(r"\n[ \t]+", " ", "\n".join(lines[1:blank]))
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in unfolded.split("\n"))}
    if "subject" not in headers:
        raise _error(name, 1, "no 'Subject:' in the mail header", BY_HAND)
    if headers.get("content-transfer-encoding", "8bit").lower() not in ("7bit", "8bit"):
        raise _error(name, 1, "the mail is encoded", "write it as plain text: Content-Transfer-Encoding: 8bit")
    subject = headers["subject"]
    if "=?" in subject:  # git format-patch writes a subject so that is not ASCII
        from email.errors import MessageError
        from email.header import decode_header, make_header

        with suppress(MessageError, LookupError, ValueError):  # left encoded, it is refused below
            subject = str(make_header(decode_header(subject)))
    end = next((at for at in range(blank, len(lines)) if _ends_message(lines[at])), len(lines))
    first = end + 2 if lines[end : end + 2] == ["---", ""] else end + (lines[end : end + 1] == ["---"])
    if first >= len(lines) or not lines[first].startswith("diff --git "):
        raise _stray(name, lines, first, "'diff --git' belongs here, and nothing else", BY_HAND)
    body = "\n".join(lines[blank + 1 : end])
    title = next(at for at, line in enumerate(lines, 1) if line.lower().startswith("subject:"))
    subject, body = check_message(
        re.sub(r"^\[PATCH[^]]*\] *", "", subject),
        body,
        f"{name}:{title}",
        lambda number: f"{name}:{blank + 1 + number}",
    )
    return subject, body, first


def _ends_message(line: str) -> bool:
    """Whether git am takes the message to end at this line (git, mailinfo.c, patchbreak)."""
    return re.match(r"diff -|Index: |---( \S|\s*$)", line) is not None


def check_message(subject: str, body: str, where: str, where_in_body: Callable[[int], str]) -> tuple[str, str]:
    """Subject and body as ``git am`` commits them: spaces squeezed, trailing ones and doubled blank lines dropped.

    Raises KitError for what ``git am`` would take for something else (git, mailinfo.c): a prefix it drops from a
    subject; a line of the body, counted from 1, that looks like a mail header, the next mail or the patch.
    """
    subject = re.sub(r"[ \t\r\n]+", " ", subject).strip(" ")
    if not subject or re.match(r"re:|[:\[]", subject, re.IGNORECASE) or "=?" in subject or "\0" in subject + body:
        raise KitError(f"{where}: git am would not keep the subject {subject!r}", "start it with a plain word")
    started = False
    for number, line in enumerate(body.split("\n"), 1):
        header = re.match(r"(from|subject|date):|>from\s|\[PATCH\]\s", line, re.IGNORECASE) and not started
        if header or _ends_message(line) or line.startswith("From "):
            what = f"{where_in_body(number)}: git am would not keep {line!r} in the message"
            raise KitError(what, "start the line with another word")
        started = started or bool(line.strip())
    body = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\r]+$", "", body, flags=re.MULTILINE)).strip("\n")
    return subject, body


def _read_file(lines: list[str], start: int, name: str) -> FilePatch:
    """The file whose ``diff --git`` is at index ``start``, down to the end of ``lines``."""
    first = next((at for at in range(start, len(lines)) if lines[at].startswith("@@ ")), len(lines))
    for at in range(start, first):
        if not HEADER_LINE.match(lines[at]) or any(re.match(pattern, lines[at]) for pattern, *_ in REFUSED):
            raise _stray(name, lines, at, "prose where a hunk belongs", PROSE)
    header = "".join(line + "\n" for line in lines[start:first])
    found = HEADER.fullmatch(header)
    if not found:
        what = "its lines contradict each other" if "\nindex " in header else "there is no 'index' line"
        raise _error(name, start + 1, f"the header cannot be used: {what}", BY_HAND)
    path, old = (tree_path(found[side], f"{name}:{start + 1}") for side in ("new", "old"))
    if path != old and not found["copy"]:
        raise _error(name, start + 1, "the paths of a/ and b/ differ, and it is not a copy", BY_HAND)
    new, preimage, postimage = found["mode"] is not None, found["preimage"], found["postimage"]
    if not new == (preimage == NO_BLOB) == (not found["same_mode"]) == bool(found["null"] or not found["sides"]):
        what = "a new file or a change? 'new file mode', 'index' and '---' do not agree"
        raise _error(name, start + 1, what, BY_HAND)
    if postimage in (NO_BLOB, preimage):
        raise _error(name, start + 1, "the blob ids of the 'index' line are not those of a change", REFRESH)
    if first == len(lines) and not (new and postimage == EMPTY_BLOB):
        raise _error(name, start + 1, f"{path} has no hunks", "write the change, or delete its 'diff --git'")
    mode = int(found["mode"] or found["same_mode"], 8)
    hunks = _read_hunks(lines, first, name)
    return FilePatch(path, None if new else old, mode, None if new else preimage, postimage, hunks, start + 1)


def _read_hunks(lines: list[str], first: int, name: str) -> tuple[Hunk, ...]:
    """The hunks from index ``first`` to the end of ``lines``, each where the ones above it put it."""
    for at in range(first, len(lines)):
        if not lines[at].startswith(("@@ ", " ", "+", "-")) and lines[at] != NO_NEWLINE:
            raise _stray(name, lines, at, "not a line of a hunk (which starts with ' ', '-' or '+')", PROSE)
    starts = [at for at in range(first, len(lines)) if lines[at].startswith("@@ ")]
    hunks = tuple(_read_hunk(lines[:end], start, name) for start, end in pairwise([*starts, len(lines)]))
    for above, hunk in pairwise(hunks):
        if hunk.start < above.start + len(above.before):
            raise _error(name, hunk.line, "the hunk overlaps the one above it, or belongs before it", REFRESH)
    moved = 0
    for hunk in hunks:
        if hunk.target != hunk.start + moved:
            said = hunk.target - hunk.start
            what = f"the header says that lines moved by {said:+d}; the hunks above moved them by {moved:+d}"
            raise _error(name, hunk.line, what, REFRESH)
        moved += len(hunk.after) - len(hunk.before)
    return hunks


def _read_hunk(lines: list[str], start: int, name: str) -> Hunk:
    """The hunk whose header is at index ``start``; unidiff counts its lines against the header."""
    try:
        files = PatchSet(["--- a\n", "+++ b\n", *(line + "\n" for line in lines[start:])])
    except (UnidiffParseError, ValueError) as error:
        amount = "fewer" if "shorter" in str(error) else "more"
        raise _error(name, start + 1, f"the hunk has {amount} lines than its header counts", REFRESH) from None
    if not files or not files[0]:
        raise _error(name, start + 1, "the header of the hunk cannot be read", REFRESH)
    [hunk] = files[0]
    if len(hunk) < len(lines) - start - 1:
        raise _error(name, start + 2 + len(hunk), "the hunk has more lines than its header counts", REFRESH)
    content: list[tuple[str, bytes]] = []
    for line in hunk:
        if line.line_type != "\\":
            content.append((line.line_type, line.value.encode("utf-8")))
        elif content:
            content[-1] = (content[-1][0], content[-1][1].removesuffix(b"\n"))
    before, after = (tuple(value for kind, value in content if kind in side) for side in (" -", " +"))
    if before == after:
        raise _error(name, start + 1, "the hunk changes nothing", "delete it")
    if not all(line.endswith(b"\n") for line in before[:-1] + after[:-1]):
        raise _error(name, start + 1, f"lines follow one marked {NO_NEWLINE!r}", REFRESH)
    # A side without lines is placed by the line it comes after, any other by its first line.
    source, target = hunk.source_start - bool(before), hunk.target_start - bool(after)
    if source < 0:
        raise _error(name, start + 1, "the header of the hunk counts from line 0", REFRESH)
    if source > 0 and not before:
        raise _error(name, start + 1, "the hunk has no context to hold on to", REFRESH)
    return Hunk(start + 1, source, target, before, after)
