"""Applying a patch: exactly, or not at all."""

from __future__ import annotations

import pytest
from patching import LONG, LONGER, TRAIN, guard, refusal, write

from kit.patchfile import blob_id, parse
from kit.patchfit import Misfit, _place, apply


def test_of_equal_places_the_nearest() -> None:
    lines = [b"a\n", b"b\n", b"a\n", b"b\n", b"a\n", b"b\n"]
    assert [_place((b"a\n", b"b\n"), lines, start) for start in (0, 2, 5)] == [(0, True), (2, True), (4, True)]
    assert _place((b"a\n", b"c\n"), lines, 3)[1] is False


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


def test_what_differs_in_a_long_file() -> None:
    for before, after in ((LONG, LONGER), (LONGER, LONG)):
        (file,) = parse(write((before, after)), "long.patch").files
        said = refusal(lambda file=file, before=before: apply(file, b"0" + before, "long.patch")).message  # type: ignore[misc]
        assert said.endswith("; the hunks fit, other lines differ")
        said = refusal(lambda file=file, after=after: apply(file, b"0" + after, "long.patch")).message  # type: ignore[misc]
        assert said.endswith("; upstream has the change: drop the patch")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (b"# one\n" + TRAIN, 7),
        (b"# one\n# two\n" + TRAIN, 8),
        (TRAIN.replace(b"weights.pop()", b"weights.clear()"), 8),
        (TRAIN.replace(b"import os", b"import sys"), 1),
    ],
)
def test_a_misfit_says_where_in_the_file(source: bytes, place: int) -> None:
    with pytest.raises(Misfit) as caught:
        apply(guard().files[0], source, "guard.patch")
    assert caught.value.place == place


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
    assert error.message == f"edited.patch:{message}"


@pytest.mark.parametrize("new", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_refuses_what_gives_another_file_than_it_promises(new: bytes) -> None:
    text = write((b"one\nthree\n", b"one\ntwo\nthree\n")).replace(b"+two", b"+" + new)
    found = blob_id(b"one\n" + new + b"\nthree\n")[:12]
    error = refusal(lambda: apply(parse(text, "edited.patch").files[0], b"one\nthree\n", "edited.patch"))
    assert error.message == f"edited.patch:8: f0: the result is blob {found}, the patch promises 4cb29ea38f70"
