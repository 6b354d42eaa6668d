"""Writing a patch: as git reads it, and what a patch cannot say is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from patching import AUTHOR, DATE, PATCHES, TRAIN, guard, refusal, write

from kit.patchfit import apply
from kit.patchwrite import render
from kit.paths import TreePath


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
        (lambda: write((b"a\n", bytes([97, 10]))), "Change: nothing changes"),
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


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (b"a\nb\nc\n", b"a\nb\ndd\nee\n", 40),
        (b"a\nb\ndd\nee\n", b"a\nb\nc\n", 40),
        (b"xx\na\nb\nc\n", b"a\nb\nc\n", 66),
        (b"a\n", b"b\n", 0),
    ],
)
def test_a_copy_says_how_many_bytes_of_a_hundred_are_kept(before: bytes, after: bytes, percent: int) -> None:
    for name in ("new", "ord"):
        path = TreePath(name)
        text = render("Change", "", {path: (before, after)}, AUTHOR, DATE, copies={path: TreePath("old")})
        assert f"\nsimilarity index {percent}%\ncopy from old\n".encode() in text


def test_many_lines_that_are_alike_are_context() -> None:
    text = write((b"a\n" * 300, b"a\n" * 150 + b"new\n" + b"a\n" * 150))
    assert text.endswith(b"@@ -149,4 +149,5 @@\n a\n a\n+new\n a\n a\n")
