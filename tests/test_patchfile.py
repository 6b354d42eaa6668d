"""Patch files: what is refused and in which words; that every change survives the round trip, ours and git's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from kit.errors import KitError
from kit.patchfile import Patch, blob_id, parse
from kit.patchfit import apply
from kit.patchwrite import render
from kit.paths import TreePath

PATCHES = Path(__file__).parent / "patches"
AUTHOR, DATE = "kit <kit@localhost>", "Wed, 25 Jun 2025 00:00:00 +0000"
TRAIN = b"""import os


def train(args):
    step = 0
    while step < args.steps:
        step += 1
    weights.pop()
    return step


def main():
    train(parse())
    save()
"""

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


def write(*changes: tuple[bytes | None, bytes], **options: str) -> bytes:
    """A patch of these (before, after) pairs, as files f0, f1, …"""
    named = {TreePath(f"f{number}"): change for number, change in enumerate(changes)}
    return render(options.get("subject", "Change"), options.get("body", ""), named, AUTHOR, DATE)


def refusal(call: Callable[[], object]) -> KitError:
    with pytest.raises(KitError) as caught:
        call()
    assert caught.value.hint, "a refusal says what to do next"
    assert "\n" not in caught.value.message
    return caught.value


def guard() -> Patch:
    return parse((PATCHES / "guard.patch").read_bytes(), "guard.patch")


# Reading


@pytest.mark.parametrize("path", sorted(PATCHES.glob("invalid_*.patch")), ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    error = refusal(lambda: parse(path.read_bytes(), path.name))
    assert error.message == f"{path.name}:{INVALID[path.stem.removeprefix('invalid_')]}"


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


# Applying


def test_applies_exactly() -> None:
    result = apply(guard().files[0], TRAIN, "guard.patch")
    assert b"    if weights:\n        weights.pop()\n" in result
    assert b"    if push:\n        save()\n" in result


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "9: examples/train.py is not in the upstream"),
        (
            TRAIN.replace(b"weights.pop()", b"weights.clear()"),
            "13: {blobs}; context differs at line 8: expected '    weights.pop()\\n', found '    weights.clear()\\n'",
        ),
        (
            b"# a line more\n" + TRAIN.replace(b"    save()", b"    store()"),
            "21: {blobs}; context differs at line 15: expected '    save()\\n', found '    store()\\n'",
        ),
        (
            TRAIN.replace(b"    save()\n", b""),
            "21: {blobs}; context differs at line 14: expected '    save()\\n', found the end of the file",
        ),
        (
            b"",
            "13: {blobs}; context differs at line 1: "
            "expected '    while step < args.steps:\\n', found the end of the file",
        ),
        (b"# one\n# two\n" + TRAIN, "13: {blobs}; its place moved +2 lines"),
        (TRAIN.replace(b"\n\n\ndef main", b"\n\ndef main"), "21: {blobs}; its place moved -1 lines"),
        (TRAIN.replace(b"import os", b"import sys"), "9: {blobs}; the hunks fit, other lines differ"),
        (apply(guard().files[0], TRAIN, ""), "9: {blobs}; upstream has the change: drop the patch"),
        (b"# new\n" + apply(guard().files[0], TRAIN, ""), "9: {blobs}; upstream has the change: drop the patch"),
    ],
    ids=[
        "missing",
        "differs",
        "differs-and-moved",
        "ends-early",
        "empty",
        "moved",
        "moved-back",
        "elsewhere",
        "upstream",
        "upstream-moved",
    ],
)
def test_refuses_another_file(source: bytes | None, message: str) -> None:
    blobs = f"examples/train.py: made for blob {blob_id(TRAIN)[:12]}, found {blob_id(source or b'')[:12]}"
    error = refusal(lambda: apply(guard().files[0], source, "guard.patch"))
    assert error.message == f"guard.patch:{message.format(blobs=blobs)}"


def test_refuses_a_new_file_that_exists() -> None:
    (file,) = parse(write((None, b"new\n")), "new.patch").files
    assert apply(file, None, "new.patch") == b"new\n"
    assert refusal(lambda: apply(file, b"old\n", "new.patch")).message == "new.patch:8: f0 exists already"
    assert refusal(lambda: apply(file, b"new\n", "new.patch")).message == "new.patch:8: upstream has f0: drop the patch"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"+two", b"+2", "8: f0: the result is blob f04eb265ebd7, the patch promises 4cb29ea38f70"),
        (b" one", b" One", "12: f0: context differs at line 1: expected 'One\\n', found 'one\\n'"),
        (b"-1,2 +1,3", b"-3,2 +3,3", "12: f0: context differs at line 3: expected 'one\\n', found the end of the file"),
    ],
    ids=["postimage", "context", "beyond-the-end"],
)
def test_refuses_a_patch_edited_by_hand(old: bytes, new: bytes, message: str) -> None:
    text = write((b"one\nthree\n", b"one\ntwo\nthree\n"))
    assert old in text
    (file,) = parse(text.replace(old, new), "edited.patch").files
    error = refusal(lambda: apply(file, b"one\nthree\n", "edited.patch"))
    assert error.message.startswith(f"edited.patch:{message}")


# Writing


def test_the_committed_example_is_what_render_writes() -> None:
    patch = guard()
    content = apply(patch.files[0], TRAIN, patch.name)
    text = render(patch.subject, patch.body, {patch.files[0].path: (TRAIN, content)}, AUTHOR, DATE)
    assert text == (PATCHES / "guard.patch").read_bytes()


@pytest.mark.parametrize(
    ("subject", "body", "message"),
    [
        ("[npu] fix", "", "f0: git am would not keep the subject '[npu] fix'"),
        ("Re: fix", "", "f0: git am would not keep the subject 'Re: fix'"),
        (" \n", "", "f0: git am would not keep the subject ''"),
        ("fix", "why\n---\nmore", "f0: git am would not keep '---' in the message"),
        ("fix", "why\n--- a/file", "f0: git am would not keep '--- a/file' in the message"),
        ("fix", "diff --git a/x b/x", "f0: git am would not keep 'diff --git a/x b/x' in the message"),
        ("fix", "From: someone", "f0: git am would not keep 'From: someone' in the message"),
    ],
)
def test_refuses_a_message_that_git_would_read_otherwise(subject: str, body: str, message: str) -> None:
    assert refusal(lambda: write((b"", b"x"), subject=subject, body=body)).message == message


def test_refuses_what_a_patch_cannot_say() -> None:
    path = TreePath("a")
    refused: list[tuple[Callable[[], bytes], str]] = [
        (lambda: write((b"a\n", b"\xff\n")), "f0: not UTF-8"),
        (lambda: write((b"a\n", b"a\n")), "Change: nothing changes"),
        (lambda: write(), "Change: nothing changes"),
        (
            lambda: render("Change", "", {TreePath('a"b'): (b"", b"x")}, AUTHOR, DATE),
            'a"b: a patch cannot name a path with a quote',
        ),
        (
            lambda: render("Change", "", {TreePath("../a"): (b"", b"x")}, AUTHOR, DATE),
            "path: '../a' has an empty, '.' or '..' part",
        ),
        (
            lambda: render("Change", "", {path: (b"", b"x")}, "kit", DATE),
            f"Change: 'kit' and {DATE!r} are not author and date",
        ),
    ]
    for call, message in refused:
        assert refusal(call).message == message


# The round trip, ours and git's

LINES = (
    *(
        "",
        "a",
        "a",
        "b",
        "    return x",
        "\t ",
        "---",
        "--- a/f0",
        "+++ b/f0",
        "-- ",
        "diff --git a/x b/x",
        "@@ -1 +1 @@",
    ),
    *("\\ No newline", "From: x", "From 1 Mon Sep 17 00:00:00 2001", "Index: x", "a\r", "a\rb", "\f", "a\u2028b"),
    *("a\x85b", "中文 🤖", "\ufeff"),
)


def any_change(seed: int) -> tuple[bytes | None, bytes]:
    """Two contents, or one and the same with a few lines changed; every other one without a line feed at the end."""
    random = Random(seed)
    old = random.choices(LINES, k=random.randrange(25))
    new = list(old) if seed % 3 else random.choices(LINES, k=random.randrange(25))
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(new) + 1)
        new[at : at + random.randrange(3)] = random.choices(LINES, k=random.randrange(3))
    before, after = ("\n".join(lines).encode() + b"\n" * random.randrange(2) for lines in (old, new))
    return before if seed % 7 else None, after


CHANGES = [
    (None, b""),
    (b"", b"a"),
    (b"a", b""),
    (b"a", b"a\n"),
    (b"a\n", b"a"),
    (b"a\r\n", b"a\n"),
    *(change for change in map(any_change, range(800)) if change[0] != change[1]),
]


def test_round_trip() -> None:
    for before, after in CHANGES:
        text = write((before, after))
        (file,) = parse(text, "x.patch").files
        assert apply(file, before, "x.patch") == after
        assert write((before, after)) == text


@pytest.mark.parametrize("seed", range(40))
def test_rubbish_is_refused_and_never_crashes(seed: int) -> None:
    text = (PATCHES / "guard.patch").read_bytes()
    rubbish = any_change(seed)[1] + b"x" if seed % 2 else Random(seed).randbytes(seed * 5 + 1)
    for damaged in (rubbish, text + rubbish, text.replace(b"@@ -6,5", rubbish + b"@@ -6,5")):
        assert refusal(partial(parse, damaged, "x.patch")).message.startswith("x.patch:")


class Repository:
    """A git repository that knows nothing of this machine's configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "c",
            "GIT_COMMITTER_EMAIL": "c@d",
        }
        private = {"HOME": str(root), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        self.environment = {"PATH": os.environ["PATH"], **names, **private}
        self.git("init", "--quiet")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, env=self.environment, input=stdin, capture_output=True
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def commit(self, files: dict[str, bytes | None]) -> None:
        for path, content in files.items():
            if content is not None:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).write_bytes(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "before")

    def am(self, text: bytes, *options: str) -> str:
        """Apply a mailbox and return the message of the commit."""
        self.git("apply", "--check", "-", stdin=text)
        self.git("am", "--quiet", *options, stdin=text)
        return self.git("log", "-1", "--format=%B").decode()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_git_reads_the_same(repository: Repository) -> None:
    repository.commit({f"f{number}": before for number, (before, _) in enumerate(CHANGES)})
    repository.am(write(*CHANGES), "--keep-cr")
    for number, (_, after) in enumerate(CHANGES):
        assert (repository.root / f"f{number}").read_bytes() == after


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("Short", ""),
        (
            "Guard weights.pop against an empty list, " + "which DeepSpeed leaves on every rank but one, " * 8 + "end",
            "Why.\n\nMore.",
        ),
        ("加速器 保存检查点 🤖", "原因 空列表。\n\n    weights.pop()  # 缩进\n\nhuggingface/diffusers#2606"),
        ("Müller's fix: a — b", "ASCII only here"),
        (
            "fix: [not a prefix] here",
            "a --- b\n\n-- \n----\n> From here\nnot From there\n\nSubject: below the first line",
        ),
        ("  two  spaces\tand a tab ", "\n\ntrailing  \n\n\n\nblank lines\n\n"),
        ("PATCH 1", "# not a comment\n-----BEGIN\nFrom: may stand here"),
    ],
    ids=["plain", "long", "chinese", "latin", "marks", "spaces", "comments"],
)
def test_git_commits_the_message_that_parse_reads(repository: Repository, subject: str, body: str) -> None:
    text = write((None, b"x\n"), subject=subject, body=body)
    patch = parse(text, "x.patch")
    repository.commit({})
    message = repository.am(text)
    assert repository.git("log", "-1", "--format=%an <%ae> %ad", "--date=rfc").decode().strip() == f"{AUTHOR} {DATE}"
    assert message == "\n\n".join(filter(None, (patch.subject, patch.body))) + "\n\n"
    assert patch.subject == " ".join(subject.split())


def test_parse_reads_what_git_writes(repository: Repository) -> None:
    """What the hint says to type makes a patch that is read, and whose message is the commit's."""
    repository.commit({"dir/a file.py": TRAIN, "b": b"b"})
    (repository.root / "dir/a file.py").write_bytes(TRAIN.replace(b"save()", b"store()"))
    (repository.root / "b").write_bytes(b"b\n")
    (repository.root / "new").write_bytes(b"")
    subject, body = "Ein Überblick über das, was hier geändert wird, und " + "noch " * 20 + "mehr", "Grund: ä.\n\nMehr."
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", f"{subject}\n\n{body}")
    text = repository.git("format-patch", "-1", "-p", "--full-index", "--no-renames", "--no-signature", "--stdout")
    patch = parse(text, "git.patch")
    assert (patch.subject, patch.body) == (subject, body)
    assert [file.path for file in patch.files] == ["b", "dir/a file.py", "new"]
    assert apply(patch.files[0], b"b", "git.patch") == b"b\n"
    assert apply(patch.files[1], TRAIN, "git.patch") == TRAIN.replace(b"save()", b"store()")
    assert apply(patch.files[2], None, "git.patch") == b""


def test_copies_executables_and_names(repository: Repository) -> None:
    start, copy, script = TreePath("lib/train b/x.py"), TreePath("lib/derived 中.py"), TreePath("run.sh")
    changed = TRAIN.replace(b"save()", b"store()")
    repository.commit({start: TRAIN, script: b"old\n"})
    (repository.root / script).chmod(0o755)
    repository.commit({})
    changes = {copy: (TRAIN, changed), start: (TRAIN, TRAIN + b"end\n"), script: (b"old\n", b"new\n")}
    text = render("Derive", "", changes, AUTHOR, DATE, executables={script}, copies={copy: start})
    patch = parse(text, "copy.patch")
    assert [(file.path, file.source, file.mode) for file in patch.files] == [
        (copy, start, 0o100644),
        (start, start, 0o100644),
        (script, script, 0o100755),
    ]
    assert [apply(file, changes[file.path][0], "x") for file in patch.files] == [changed, TRAIN + b"end\n", b"new\n"]
    repository.am(text)
    assert [(repository.root / path).read_bytes() for path in changes] == [after for _, after in changes.values()]
    assert repository.git("ls-files", "--stage", script).startswith(b"100755")


def test_blob_id_is_gits(repository: Repository) -> None:
    for content in (b"", b"a\r\n", bytes(range(256))):
        assert repository.git("hash-object", "--stdin", stdin=content).decode().strip() == blob_id(content)
