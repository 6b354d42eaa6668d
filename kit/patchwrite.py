"""Write patch files that ``git am`` takes, with the least context that reads well. Pure: the same arguments give
the same bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

from kit.errors import KitError
from kit.patchfile import AS_TEXT, CONTEXT, NO_BLOB, NO_NEWLINE, blob_id, check_message, split_lines
from kit.paths import TreePath, tree_path


def render(
    subject: str,
    body: str,
    changes: Mapping[TreePath, tuple[bytes | None, bytes]],
    author: str,
    date: str,
    executables: Collection[TreePath] = (),
    copies: Mapping[TreePath, TreePath] | None = None,
) -> bytes:
    """The patch file that turns each path's first content (None: a new file) into its second.

    ``author`` is ``name <address>``, ``date`` as in a mail header, ``executables`` the paths of mode 100755; ``copies``
    says for a path from which other path its first content comes. The same arguments give the same bytes; ``parse``
    and ``git am`` (``--keep-cr`` where content has CRLF) read them back. Raises KitError for what a patch cannot say.
    """
    where = ", ".join(sorted(changes)) or "patch"
    subject, body = check_message(subject, body, where, lambda number: where)
    if not changes or any(before == after for before, after in changes.values()):
        raise KitError(f"{subject}: nothing changes", "drop the patch, or the file that stays as it is")
    if not re.fullmatch(r"[^\n<>]+ <[^\s<>]+>", author) or "\n" in date:
        raise KitError(f"{subject}: {author!r} and {date!r} are not author and date", "write: Name <address>")
    head = [f"From {NO_BLOB} Mon Sep 17 00:00:00 2001", f"From: {author}", f"Date: {date}"]
    head += [f"Subject: [PATCH] {subject}"]
    if not "".join((*head, body)).isascii():
        head += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=UTF-8", "Content-Transfer-Encoding: 8bit"]
    message = "\n".join([*head, "", *([body] if body else []), "---", "", ""]).encode("utf-8")
    return message + b"".join(
        _write_file(path, (copies or {}).get(path, path), *changes[path], "100755" if path in executables else "100644")
        for path in sorted(changes)
    )


def _write_file(path: TreePath, old: TreePath, before: bytes | None, after: bytes, mode: str) -> bytes:
    """One file's ``diff --git``."""
    if '"' in tree_path(path) + tree_path(old):
        raise KitError(f"{path}: a patch cannot name a path with a quote", "rename the file")
    lines, wanted = split_lines(before or b""), split_lines(after)
    matcher = SequenceMatcher(None, lines, wanted, autojunk=False)
    header = f"diff --git a/{old} b/{path}\n"
    if before is None:
        header += f"new file mode {mode}\nindex {NO_BLOB}..{blob_id(after)}\n"
    else:
        if old != path:
            kept = sum(len(b"".join(lines[at : at + size])) for at, _, size in matcher.get_matching_blocks())
            alike = 100 * kept // max(len(before), len(after))
            header += f"similarity index {alike}%\ncopy from {old}\ncopy to {path}\n"
        header += f"index {blob_id(before)}..{blob_id(after)} {mode}\n"
    if before is not None or after:  # git ends a name that holds a space with a tab
        sides = ("--- ", "/dev/null" if before is None else f"a/{old}"), ("+++ ", f"b/{path}")
        header += "".join(mark + side + "\t" * (" " in side) + "\n" for mark, side in sides)
    hunks = b"".join(_write_hunk(group, lines, wanted) for group in matcher.get_grouped_opcodes(CONTEXT))
    try:
        hunks.decode("utf-8")
    except UnicodeDecodeError:
        raise KitError(f"{path}: not UTF-8", AS_TEXT) from None
    return header.encode("utf-8") + hunks


def _write_hunk(group: list[tuple[str, int, int, int, int]], lines: list[bytes], wanted: list[bytes]) -> bytes:
    """One hunk from difflib's opcodes: removals before additions, and a mark where a last line has no end."""

    def span(start: int, end: int) -> str:
        return f"{start + 1}" if end == start + 1 else f"{start + (end > start)},{end - start}"

    def marked(mark: bytes, some: Iterable[bytes]) -> Iterable[bytes]:
        return (mark + line + (b"" if line.endswith(b"\n") else f"\n{NO_NEWLINE}\n".encode()) for line in some)

    text = [f"@@ -{span(group[0][1], group[-1][2])} +{span(group[0][3], group[-1][4])} @@\n".encode()]
    for kind, start, end, to_start, to_end in group:
        if kind == "equal":
            text += marked(b" ", lines[start:end])
        else:
            text += [*marked(b"-", lines[start:end]), *marked(b"+", wanted[to_start:to_end])]
    return b"".join(text)
