"""`kit configure`: what is asked, what is refused before anything is written, what comes of it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Done, Root, snapshot, write

Kit = Callable[..., Done]

OPTIONS = [
    {"name": "data", "default": "photos", "meaning": "your images", "ask": "folder with your images", "path": True},
    {"name": "steps", "default": 10, "meaning": "how many", "ask": "steps"},
    {"name": "kind", "default": "fast", "choices": ["fast", "slow"], "meaning": "how", "ask": "kind"},
    {"name": "quiet", "default": False, "meaning": "say less"},
]
PROFILES = [
    {"name": "large", "set": {}, "meaning": "for large machines"},
    {"name": "small", "set": {"quiet": True}, "meaning": "for small machines"},
]
# Refuses a folder that is not there, and says what it was called with.
CHECK = """\
import json, sys
from pathlib import Path
data = json.loads(Path("settings.json").read_text())["data"]
if not Path(data).is_dir():
    sys.exit(f"for {sys.argv[1:]}: no folder {data} (from {Path.cwd()})")
"""


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def recipe(root: Root) -> Path:
    check = ["up/examples/check.py", "{device}", "{processes}", "{kind}"]
    path = root.recipe(option=OPTIONS, profile=PROFILES, check=check)
    root.overlay({"settings.json.j2": "{{ options | tojson }}\n", "check.py": CHECK})
    return path


def settings(place: str) -> Any:
    return json.loads(Path(place, "up/examples/settings.json").read_text("utf-8"))


def test_without_questions(kit: Kit, recipe: Path) -> None:
    write(Path(), {"my photos/1.png": b""})
    done = kit("configure", recipe, "--device", "cpu", "made", "--data", "my photos", "--set", "steps=3", "--yes")
    assert (done.status, done.err) == (0, "")
    assert settings("made") == {"data": str(Path("my photos").absolute()), "steps": 3, "kind": "fast", "quiet": False}
    before = snapshot(Path("made"))
    again = kit("prepare", recipe, "--device", "cpu", "made", "--data", str(Path("my photos").absolute()), "--steps=3")
    assert "already prepared: made" in again.out and snapshot(Path("made")) == before


def test_questions(kit: Kit, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path(), {"photos/1.png": b""})
    typed = ["gpu", "cpu", "small", "", "few", "7", "slow"]
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in typed)))
    done = kit("configure", recipe, "made")
    assert done.status == 0
    assert settings("made") == {"data": str(Path("photos").absolute()), "steps": 7, "kind": "slow", "quiet": True}
    for said in (
        "device (cpu / npu) [cpu]: ",
        "no 'gpu'\n  one of: cpu, npu",
        "  small: for small machines\n",
        "memory (large / small) [large]: ",
        "folder with your images [photos]: ",
        "option steps is a whole number, not 'few'",
        "kind (fast / slow) [fast]: ",
    ):
        assert said in done.err
    assert "quiet" not in done.err


def test_what_is_given_is_not_asked(kit: Kit, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path(), {"photos/1.png": b""})
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    words = ("--device", "cpu", "--profile", "large", "--data=photos", "--steps=1", "--kind=fast")
    assert kit("configure", recipe, "made", *words).err == ""


def test_refused_before_anything_is_written(kit: Kit, recipe: Path) -> None:
    done = kit("configure", recipe, "--device", "cpu", "made")
    assert (done.status, done.out) == (1, "")
    place = Path("made/up/examples").absolute()
    assert f"for ['cpu', '1', 'fast']: no folder photos (from {place})\n" in done.err and "--set NAME=VALUE" in done.err
    assert not Path("made").exists() and not list(Path().glob(".*"))
    write(Path(), {"photos/1.png": b""})
    assert kit("configure", recipe, "--device", "cpu", "made", "--data=photos").status == 0
    before = snapshot(Path("made"))
    done = kit("configure", recipe, "--device", "cpu", "made", "--data=nowhere", "--processes=3")
    assert done.status == 1 and f"for ['cpu', '3', 'fast']: no folder {Path('nowhere').absolute()} " in done.err
    done = kit("configure", recipe, "--device", "cpu", "made", "--data=org/name")
    assert done.status == 1 and "no folder org/name " in done.err
    assert snapshot(Path("made")) == before


def test_no_options(kit: Kit, root: Root) -> None:
    done = kit("configure", root.recipe(), "--device", "cpu")
    assert (done.status, done.out) == (1, "") and "recipe tiny has no options" in done.err
