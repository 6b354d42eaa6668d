"""Reading a patch: what is refused, with its line, and that damage is never applied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from patching import PATCHES, TRAIN, guard, refusal, write

from kit.errors import KitError
from kit.patchfile import EMPTY_BLOB, parse
from kit.patchfit import apply

# tests/patches/invalid_<key>.patch is guard.patch with one thing wrong; this is said of it, after the file name.
INVALID = {
    "absolute_path": "9: '/etc/train.py' is absolute",
    "binary": "12: a binary change is not supported",
    "binary_files_differ": "11: a binary change is not supported",
    "blank_after_diff": "27: not a line of a hunk (which starts with ' ', '-' or '+')",
    "body_header": "6: git am would not keep 'Subject: an empty list' in the message",
    "body_mail": "7: git am would not keep 'From the start the list is empty on every rank.' in the message",
    "context_diff": "11: a context diff is not supported",
    "copy_differs": "9: the header cannot be used: its lines contradict each other",
    "crlf": "1: its lines end in CRLF",
    "cut_off": "26: cut off: the last line has no end",
    "deletion": "10: deleting a file is not supported",
    "different_paths": "9: the paths of a/ and b/ differ, and it is not a copy",
    "diffstat": "8: 'diff --git' belongs here, and nothing else",
    "ed_script": "9: an ed script is not supported",
    "ed_script_in_diff": "11: an ed script is not supported",
    "empty": "1: the file is empty",
    "empty_subject": "4: git am would not keep the subject ''",
    "encoded": "1: the mail is encoded",
    "file_twice": "27: examples/train.py is patched twice, first at line 9",
    "git_path": "9: '.git/hooks/post-commit' is inside .git",
    "hunk_without_change": "13: the hunk changes nothing",
    "hunks_out_of_order": "19: the hunk overlaps the one above it, or belongs before it",
    "line_after_last": "13: lines follow one marked '\\\\ No newline at end of file'",
    "line_zero": "13: the header of the hunk counts from line 0",
    "mode_change": "10: changing a file's mode is not supported",
    "new_with_preimage": "9: a new file or a change? 'new file mode', 'index' and '---' do not agree",
    "no_context": "13: the hunk has no context to hold on to",
    "no_diff": "8: 'diff --git' belongs here, and nothing else",
    "no_hunks": "9: examples/train.py has no hunks",
    "no_index": "9: the header cannot be used: there is no 'index' line",
    "no_message": "1: no 'Subject:' in the mail header",
    "no_mode": "9: a new file or a change? 'new file mode', 'index' and '---' do not agree",
    "no_prefix": "9: the paths do not start with a/ and b/",
    "no_sides": "9: a new file or a change? 'new file mode', 'index' and '---' do not agree",
    "no_subject": "1: no 'Subject:' in the mail header",
    "not_a_mail": "1: not a mailbox patch, which starts 'From <commit> Mon Sep 17 …'",
    "not_utf8": "6: not UTF-8",
    "other_mode": "10: this file mode is not supported",
    "overlapping_hunks": "21: the hunk overlaps the one above it, or belongs before it",
    "parent_path": "9: '../train.py' has an empty, '.' or '..' part",
    "plain_diff": "9: 'diff --git' belongs here, and nothing else",
    "prose_after_diff": "27: not a line of a hunk (which starts with ' ', '-' or '+')",
    "prose_before_diff": "9: 'diff --git' belongs here, and nothing else",
    "prose_before_hunk": "13: prose where a hunk belongs",
    "prose_between_headers": "11: prose where a hunk belongs",
    "prose_between_hunks": "21: not a line of a hunk (which starts with ' ', '-' or '+')",
    "quoted_path": "9: a quoted path is not supported",
    "rename": "11: renaming a file is not supported",
    "same_blobs": "9: the blob ids of the 'index' line are not those of a change",
    "short_hunk": "21: the hunk has fewer lines than its header counts",
    "short_index": "10: the 'index' line does not hold two full blob ids",
    "sides_differ": "9: the header cannot be used: its lines contradict each other",
    "signature": "28: a mail signature is not supported",
    "subject_charset": "4: git am would not keep the subject '=?nowhere?b?AA?='",
    "subject_prefix": "4: git am would not keep the subject '[npu] Guard weights.pop against an empty list'",
    "submodule": "10: a submodule is not supported",
    "surplus_lines": "27: the hunk has more lines than its header counts",
    "surplus_target": "13: the hunk has more lines than its header counts",
    "symlink": "10: a symbolic link is not supported",
    "symlink_change": "10: a symbolic link is not supported",
    "unchanged_copy": "9: the header cannot be used: there is no 'index' line",
    "unreadable_hunk": "13: the header of the hunk cannot be read",
    "wrong_count": "13: the hunk has more lines than its header counts",
    "wrong_target": "21: the header says that lines moved by +7; the hunks above moved them by +1",
}


# Reading


@pytest.mark.parametrize("path", sorted(PATCHES.glob("invalid_*.patch")), ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    error = refusal(lambda: parse(path.read_bytes(), path.name))
    said = INVALID[path.stem.removeprefix("invalid_")]
    assert error.message == f"{path.name}:{said}"
    head, subject, rest = path.read_bytes().partition(b"Subject: ")
    if int(said.partition(":")[0]) > 1:  # it is of a line: one further down, with a line more above it
        error = refusal(lambda: parse(head + b"X-Line: 4\n" + subject + rest, path.name))
        below = re.sub(r"^(\d+)|(?<=at line )\d+", lambda line: str(int(line[0]) + 1), said)
        assert error.message == f"{path.name}:{below}"


@pytest.mark.parametrize(
    ("taken", "put", "said"),
    [
        (b" 100644\n--- a/examples/train.py\n+++ b/examples/train.py", b"", "9: a new file or a change?"),
        (b"+    if weights:\n", b"+    if weights:\n\\ No newline at end of file\n", "13: lines follow one marked"),
        (b"     return step\n", b"     return step\n" * 40, "21: the hunk has more lines than its header counts"),
        (
            b"+        weights.pop()\n",
            b"+        weights.pop()\n\\ No newline at end of file\n",
            "13: lines follow one marked",
        ),
        (b"-    weights.pop()\n", b"-    weights.pop()\n\\ No newline at end of file\n", "13: lines follow one marked"),
        (
            b"@@ -12,3 +13,4 @@",
            b"@@ -12,3 +6,4 @@",
            "21: the header says that lines moved by -6; the hunks above moved them by +1",
        ),
    ],
    ids=["no mode and no sides", "a line after the last", "a long hunk", "after", "before", "moved up"],
)
def test_two_things_wrong(taken: bytes, put: bytes, said: str) -> None:
    content = (PATCHES / "guard.patch").read_bytes()
    error = refusal(lambda: parse(content.replace(taken, put), "x.patch"))
    assert error.message.startswith(f"x.patch:{said}")


@pytest.mark.parametrize(("before", "after", "line"), [(b"a\nb\n", b"c\n", b"-a\n"), (b"c\n", b"a\nb\n", b"+a\n")])
def test_the_last_line_alone_has_no_end(before: bytes, after: bytes, line: bytes) -> None:
    content = write((before, after)).replace(line, line + b"\\ No newline at end of file\n")
    assert "lines follow one marked" in refusal(lambda: parse(content, "x.patch")).message


def test_a_new_file_is_not_a_change_of_one() -> None:
    content = write((None, b"x\n")).replace(b"/dev/null", b"a/f0")
    index = re.search(rb"index .*", content)
    assert index
    error = refusal(lambda: parse(content.replace(index[0], index[0] + b" 100644"), "x.patch"))
    assert "a new file or a change?" in error.message
    error = refusal(lambda: parse(write((None, b"x\n")).replace(b"new file mode 100644\n", b""), "x.patch"))
    assert "a new file or a change?" in error.message


@pytest.mark.parametrize("blob", [b"0" * 39 + b"1", b"f" * 40])
def test_a_new_file_without_hunks_is_an_empty_one(blob: bytes) -> None:
    content = write((None, b""))
    assert parse(content, "x.patch").files[0].hunks == ()
    error = refusal(lambda: parse(content.replace(EMPTY_BLOB.encode(), blob), "x.patch"))
    assert "f0 has no hunks" in error.message


def test_every_expected_refusal_has_its_file() -> None:
    assert {path.stem.removeprefix("invalid_") for path in PATCHES.glob("invalid_*.patch")} == set(INVALID)


def test_what_is_read() -> None:
    patch = guard()
    assert patch.subject == "Guard weights.pop against an empty list"
    assert patch.body == "Under DeepSpeed the list is empty on every rank."
    (file,) = patch.files
    assert (file.path, file.source, file.mode, file.line) == ("examples/train.py", "examples/train.py", 0o100644, 9)
    assert [(hunk.line, hunk.start, hunk.target) for hunk in file.hunks] == [(13, 5, 5), (21, 11, 12)]
    assert file.hunks[1].before == (b"def main():\n", b"    train(parse())\n", b"    save()\n")


def test_the_subject_may_come_first() -> None:
    content = re.sub(rb"\nFrom: .*\nDate: .*\n", b"\n", write((b"a\n", b"b\n")))
    assert content.split(b"\n")[1].startswith(b"Subject: ") and parse(content, "x.patch").subject == "Change"


def test_hunks_may_touch() -> None:
    header, hunk = write((b"a\nb\n", b"A\nB\n")).split(b"@@ -1,2 +1,2 @@\n")
    assert hunk == b"-a\n-b\n+A\n+B\n"
    (file,) = parse(header + b"@@ -1 +1 @@\n-a\n+A\n@@ -2 +2 @@\n-b\n+B\n", "x.patch").files
    assert apply(file, b"a\nb\n", "x.patch") == b"A\nB\n"


def test_every_single_damaged_line_is_refused_or_harmless() -> None:
    """Drop, double or swap any line of a patch: it is refused on reading or applying, or gives the same result."""
    lines = (PATCHES / "guard.patch").read_bytes().splitlines(keepends=True)
    good = apply(guard().files[0], TRAIN, "guard.patch")
    first = next(at for at, line in enumerate(lines) if line.startswith(b"diff "))
    refused = 0
    for at in range(first, len(lines)):
        swapped = [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]]
        for damaged in (lines[:at] + lines[at + 1 :], lines[:at] + lines[at : at + 1] + lines[at:], swapped):
            try:
                patch = parse(b"".join(damaged), "damaged.patch")
                results = [apply(file, TRAIN, "damaged.patch") for file in patch.files]
            except KitError as error:
                refused += 1
                assert error.message.startswith("damaged.patch:")
            else:
                # Removal and addition in the other order are the same change; the last line has none to swap with.
                assert results == [good]
    assert refused >= 3 * (len(lines) - first) - 5
