"""Apply a patch to a file: it fits to the byte, or is refused with what differs.

``git apply`` accepts an offset silently, GNU patch takes fuzz; here there is neither. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from itertools import zip_longest

from kit.errors import KitError
from kit.patchfile import DROP, REFRESH, FilePatch, Hunk, blob_id, split_lines


class Misfit(KitError):
    """A patch that is sound does not fit a file. ``where`` is the line of the patch file, ``place`` that of the file it
    is for, both from 1; ``why`` says what differs."""

    def __init__(self, name: str, where: int, why: str, hint: str, place: int = 1) -> None:
        super().__init__(f"{name}:{where}: {why}", hint)
        self.where, self.why, self.place = where, why, place


def apply(patch: FilePatch, source: bytes | None, name: str) -> bytes:
    """The file's new content. ``source`` is the content of ``patch.source``; for a new file, what is in its place.

    Exact: ``source`` is the very blob the patch was made from, every hunk fits where its header says, and the result
    is the blob the patch promises. Raises Misfit otherwise; its message starts with ``name:line``.
    """
    if patch.preimage is None and source is not None:
        if blob_id(source) == patch.postimage:
            raise Misfit(name, patch.line, f"upstream has {patch.path}: drop the patch", DROP)
        raise Misfit(name, patch.line, f"{patch.path} exists already", "give the new file another path")
    if patch.preimage is not None and source is None:
        raise Misfit(name, patch.line, f"{patch.source} is not in the upstream", "check the path and the pin")
    content = source or b""
    if patch.preimage not in (None, blob_id(content)):
        raise _mismatch(patch, content, name)
    lines, result, done = split_lines(content), list[bytes](), 0
    for hunk in patch.hunks:
        end = hunk.start + len(hunk.before)
        if tuple(lines[hunk.start : end]) != hunk.before:
            number, said = _difference(hunk, lines, hunk.start)
            raise Misfit(name, hunk.line, f"{patch.path}: {said}", REFRESH, number)
        result += [*lines[done : hunk.start], *hunk.after]
        done = end
    content = b"".join([*result, *lines[done:]])
    if (found := blob_id(content)) != patch.postimage:
        what = f"{patch.path}: the result is blob {found[:12]}, the patch promises {patch.postimage[:12]}"
        raise Misfit(name, patch.line, what, REFRESH)
    return content


def _mismatch(patch: FilePatch, content: bytes, name: str) -> Misfit:
    """Why ``patch`` does not fit ``content``, which is not the blob it was made from."""
    blobs = f"{patch.source}: made for blob {str(patch.preimage)[:12]}, found {blob_id(content)[:12]}"
    lines = split_lines(content)
    places = [(hunk, *_place(hunk.before, lines, hunk.start)) for hunk in patch.hunks]
    wrong = next(((hunk, place) for hunk, place, fits in places if not fits), None)
    moved = next(((hunk, place) for hunk, place, fits in places if place != hunk.start), None)
    if wrong and all(_place(hunk.after, lines, hunk.target)[1] for hunk in patch.hunks):
        return Misfit(name, patch.line, f"{blobs}; upstream has the change: drop the patch", DROP)
    if wrong:
        number, said = _difference(wrong[0], lines, wrong[1])
        return Misfit(name, wrong[0].line, f"{blobs}; {said}", REFRESH, number)
    if moved:
        what = f"{blobs}; its place moved {moved[1] - moved[0].start:+d} lines"
        return Misfit(name, moved[0].line, what, REFRESH, moved[1] + 1)
    return Misfit(name, patch.line, f"{blobs}; the hunks fit, other lines differ", REFRESH)


def _place(wanted: tuple[bytes, ...], lines: list[bytes], start: int) -> tuple[int, bool]:
    """Where most of ``wanted`` is found, of equals the nearest to ``start``; and whether all of it is there."""

    def alike(at: int) -> int:
        return sum(map(bytes.__eq__, wanted, lines[at : at + len(wanted)]))

    best = max(range(len(lines) + 1), key=lambda at: (alike(at), -abs(at - start)))
    return best, alike(best) == len(wanted)


def _difference(hunk: Hunk, lines: list[bytes], place: int) -> tuple[int, str]:
    """The first line of ``hunk.before`` that ``lines`` lacks when it starts at index ``place``: its number (from 1) and
    how it differs."""
    pairs = enumerate(zip_longest(hunk.before, lines[place : place + len(hunk.before)]), place + 1)
    number, sides = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    wanted, found = ("the end of the file" if side is None else repr(side.decode(errors="replace")) for side in sides)
    return number, f"context differs at line {number}: expected {wanted}, found {found}"
