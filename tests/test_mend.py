"""What `kit fix` says besides: what looks like a fault, what comments leave out, summaries, other files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from support import Done, Kit

from kit import fixes
from kit.errors import KitError
from kit.mend import mend, options_for, readable, skips

HOOK = """\
def save_model_hook(models, weights, folder):
    weights.pop(){comment}
    for model in models:
        weights.pop()
"""
BY_PLACE = "def save_model_hook(models, weights, folder):\n    weights.pop(0)\n    weights.pop(1)\n"
SIGN = (
    "looks like weights popped by their place from a list that may be empty (`weights`), "
    "in a form this fix does not know"
)


def test_what_looks_like_a_fault_is_said_and_counts_with_strict(kit: Kit) -> None:
    Path("own.py").write_text(BY_PLACE)
    assert kit("fix", "own.py") == Done(0, f"own.py:2: weights-pop: {SIGN} (2 places)\n", "")
    assert kit("fix", "--strict", "own.py").status == 1
    (entry,) = kit("fix", "--json", "own.py").json
    assert [(each["id"], each["line"]) for each in entry["looks_like"]] == [("weights-pop", 2), ("weights-pop", 3)]
    assert kit("fix", "--skip", "weights-pop", "own.py") == Done(0, "", "")
    assert kit("fix", "progress-print", "own.py") == Done(0, "", "")


def test_a_fix_left_out(kit: Kit) -> None:
    Path("own.py").write_text(HOOK.format(comment=""))
    assert kit("fix", "--skip", "weights-pop", "own.py") == Done(0, "", "")
    assert kit("fix", "--skip", "wieghts-pop", "own.py").err.startswith(
        "kit: error: --skip wieghts-pop: there is no such fix; did you mean 'weights-pop'?"
    )


@pytest.mark.parametrize(
    ("text", "guards"),
    [
        (HOOK.format(comment=""), 2),
        (HOOK.format(comment="  # kit: skip=weights-pop"), 1),
        (HOOK.format(comment="  # the first one; kit: skip=weights-pop"), 2),  # in another comment it is only spoken of
        (HOOK.format(comment="  # kit: skip=progress-print, weights-pop"), 1),
        (HOOK.format(comment="  # kit: skip"), 1),
        (HOOK.format(comment="  # kit: skip=progress-print"), 2),
        ("# kit: skip=weights-pop\n" + HOOK.format(comment=""), 0),
        (HOOK.format(comment="") + "# kit: skip\n", 0),
        (HOOK.replace("    for", "    # kit: skip=weights-pop\n    for").format(comment=""), 2),
        (HOOK.replace("        weights", "        # kit: skip=weights-pop\n        weights").format(comment=""), 1),
        (HOOK.format(comment="") + 'text = "# kit: skip=weights-pop"\n', 2),
    ],
)
def test_comments(text: str, guards: int) -> None:
    after = mend(text.encode(), "own.py", options_for(["weights-pop"], None))[1].decode()
    assert after.count("if weights:") == guards
    assert mend(after.encode(), "own.py", options_for(["weights-pop"], None))[1].decode() == after


def test_a_comment_with_a_name_that_is_no_fix() -> None:
    with pytest.raises(KitError, match=r"own\.py:2: there is no fix weights-poop; did you mean 'weights-pop'"):
        skips(b"x = 1\n# kit: skip=weights-poop\n", "own.py")


def test_a_comment_that_is_not_utf8() -> None:
    """Python lets it pass."""
    with pytest.raises(KitError, match=r"own\.py:2: not utf-8: ") as raised:
        skips(b"x = 1  # kit: skip\n# \xff\n", "own.py")
    assert raised.value.hint == "save the file as UTF-8"
    assert skips("# coding: latin-1\nx = 'é'  # kit: skip\n".encode("latin-1"), "own.py").of("weights-pop") == {2}


def test_a_summary_over_many_files(kit: Kit) -> None:
    for number in range(3):
        Path(f"own{number}.py").write_text(HOOK.format(comment=""))
    Path("other.py").write_text(BY_PLACE)
    files = ["own0.py", "own1.py", "own2.py", "other.py"]
    done = kit("fix", "--check", "--summary", *files)
    assert done.status == 1
    assert [line.split() for line in done.out.splitlines()] == [
        ["fix", "files", "places", "refused", "looks", "like"],
        ["weights-pop", "3", "6", "0", "1"],
        ["4", "files,", "3", "changed,", "0", "not", "read"],
    ]
    rows = list(csv.DictReader(io.StringIO(kit("fix", "--check", "--csv", *files).out)))
    assert rows == [{"fix": "weights-pop", "applied": "3", "places": "6", "refused": "0", "looks_like": "1"}]
    told = kit("fix", "--check", "--summary", "--json", *files).json
    assert (told["files"], told["changed"], told["fixes"][0]["applied"]) == (4, 3, 3)


@pytest.mark.parametrize("name", fixes.general())
def test_every_fix_is_explained_on_an_example(kit: Kit, name: str) -> None:
    told = kit("fix", "--explain", name)
    assert told.status == 0 and told.out.startswith(f"{name}: ") and "\nupstream: " in told.out
    chosen = options_for(fixes.with_brought([name]), "npu")
    findings, after = mend(fixes.example(name).encode(), "train.py", chosen)
    assert after.decode() != fixes.example(name)
    assert [str(each.outcome) for each in findings if each.fix == name] == ["applied"]


def test_explain_what_there_is_not(kit: Kit) -> None:
    assert kit("fix", "--explain", "weight-pop").err.startswith("kit: error: there is no fix weight-pop for any script")


def test_a_notebook_and_a_newer_python_are_named(kit: Kit) -> None:
    Path("a.ipynb").write_text('{"cells": []}')
    done = kit("fix", "a.ipynb")
    assert done.status == 1
    assert done.err == (
        "kit: error: a.ipynb is a notebook: only scripts are read\n"
        "  jupyter nbconvert --to script a.ipynb; kit fix a.py\n"
    )
    with pytest.raises(KitError) as raised:
        readable("bad.py", b"def f(:\n")
    assert "install kit on that one" in raised.value.hint and "bad.py:1: not valid Python" in raised.value.message


@pytest.mark.parametrize("ends", [("\r\n", "\n"), ("\n", "\r\n")])
def test_new_lines_end_as_those_beside_them(ends: tuple[str, str]) -> None:
    first, other = ends
    text = f"#!/usr/bin/env python{first}" + HOOK.format(comment="").replace("\n", other)
    after = mend(text.encode(), "own.py", options_for(["weights-pop"], None))[1].decode()
    assert after.count(first) - (first == "\n") * after.count(other) == 1
    assert len(after.split(other)) == len(text.split(other)) + 2


def test_a_reason_names_lines_of_the_script_as_it_was() -> None:
    names = ["accelerator-cache", "deepspeed-checkpoint", "checkpoint-rotation"]
    text = (
        "import os, shutil, torch\nfrom accelerate import Accelerator\n"
        "def main(args, accelerator, save_path):\n    torch.cuda.empty_cache()\n    with open('a', 'w') as f:\n"
        "        f.write('a')\n    if accelerator.is_main_process:\n"
        "        if args.checkpoints_total_limit:\n            shutil.rmtree(os.listdir('.')[0])\n"
        "        try:\n            accelerator.save_state(save_path)\n        except OSError:\n            pass\n"
    )
    _, *refused = mend(text.encode(), "own.py", options_for(names, None))[0]
    assert [each.lines for each in refused] == [(8,), (8,)]
    assert all("the save (line 11) stands" in each.reason for each in refused)
