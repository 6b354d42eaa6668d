"""`kit configure`: what is asked, what is refused before anything is written, what comes of it."""

from __future__ import annotations

import errno
import io
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Done, Root, snapshot, write

from kit import workspace

Kit = Callable[..., Done]

OPTIONS = [
    {"name": "data", "default": "photos", "meaning": "your images", "ask": "images", "path": "folder"},
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
        "profile (large / small) [large]: ",
        "images [photos]: ",
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
    assert snapshot(Path("made")) == before


# As a recipe of one's own data has it: a folder that is needed, captions in it or one prompt, what only an adapter has.
ASKED = [
    {"name": "data", "default": "photos", "meaning": "m", "ask": "images", "path": "folder", "needed": True},
    {"name": "captions", "default": "prompt", "choices": ["prompt", "files"], "meaning": "m", "ask": "captions"},
    {"name": "prompt", "default": "say", "meaning": "m", "ask": "prompt", "needed": True},
    {"name": "other", "default": "others", "meaning": "m", "ask": "other images (- for none)", "path": "folder"},
    {"name": "model", "default": "org/model", "meaning": "m", "ask": "model", "path": "hub"},
    {"name": "adapter", "default": True, "meaning": "m"},
    {"name": "rank", "default": 4, "meaning": "m", "ask": "rank", "only_with": {"adapter": [True]}},
]
LOOK = """\
import json, sys
from pathlib import Path
found = json.loads(Path("settings.json").read_text())
for data in filter(None, (found["data"], found["other"])):
    images = sorted(Path(data).glob("*.png")) if Path(data).is_dir() else sys.exit(f"no folder {data}")
    if not images:
        sys.exit(f"no images in {data}")
    if found["captions"] == "files" and not images[0].with_suffix(".txt").is_file():
        sys.exit(f"no caption beside {images[0]}")
if found["rank"] == 13:
    sys.exit("13 brings bad luck")
"""


@pytest.fixture
def asked(root: Root) -> Path:
    path = root.recipe(
        option=ASKED,
        profile=[
            {"name": "adapter", "set": {}, "meaning": "trains one"},
            {"name": "whole", "set": {"adapter": False}, "meaning": "trains all"},
        ],
        check=["up/examples/check.py"],
        next=["bash run.sh --help"],
    )
    root.overlay({"settings.json.j2": "{{ options | tojson }}\n", "check.py": LOOK})
    write(Path(), {"photos/1.png": b"", "bare/1.png": b"", "empty/readme": "", "a file": ""})
    return path


@pytest.fixture
def type_(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *lines: monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


def test_each_answer_is_checked_as_it_is_given(kit: Kit, asked: Path, type_: Callable[..., None]) -> None:
    here = Path().absolute()
    images = ("", "-", "nowhere", "a file", "empty", "photos")
    type_("cpu", "adapter", *images, "files", "prompt", "", "it's a $dog", "", "-", "here/there/no", "", "13", "8")
    done = kit("configure", asked, "made")
    assert done.status == 0
    refused = [line.removeprefix("kit: error: ") for line in done.err.splitlines() if "kit: error: " in line]
    assert [line.split(": kit: error: ")[-1] for line in refused] == [
        "this needs an answer",
        "this needs an answer",
        f"no folder {here}/nowhere",
        f"{here}/a file is a file: give the folder it is in",
        f"no images in {here}/empty",
        f"no caption beside {here}/photos/1.png",
        "this needs an answer",
        f"no folder {here}/others",
        f"no folder {here}/here/there/no",
        "13 brings bad luck",
    ]
    for question in ("images: ", "captions (prompt / files) [prompt]: ", "model [org/model]: ", "rank [4]: "):
        assert question in done.err
    assert settings("made")["model"] == "org/model" and settings("made")["other"] == ""
    assert "\n  bash run.sh\n" in done.out
    command = done.err.splitlines()[-1].strip()
    assert command == (
        f"kit prepare {asked} made --device cpu --profile adapter --set data={here}/photos "
        """--set 'prompt=it'"'"'s a $dog' --set other= --set rank=8"""
    )
    again = kit(*shlex.split(command)[1:])
    assert "already prepared: made" in again.out and "\n  bash run.sh\n" in again.out


def test_next_asks_for_help_until_all_is_set(kit: Kit, asked: Path) -> None:
    assert "bash run.sh --help\n" in kit("prepare", asked, "--device", "cpu", "--data", "photos/", "made").out
    assert "bash run.sh\n" in kit("prepare", asked, "--device", "cpu", "--data=photos/", "--prompt=dog", "made").out


def test_what_another_setting_disables_is_neither_asked_nor_taken(
    kit: Kit, asked: Path, type_: Callable[..., None]
) -> None:
    type_("photos", "prompt", "dog", "-", "")
    done = kit("configure", asked, "made", "--device", "cpu", "--profile", "whole")
    assert done.status == 0 and "rank" not in done.err
    for verb in ("configure", "prepare"):
        type_()
        done = kit(verb, asked, "--device", "cpu", "--profile", "whole", "--rank=4")
        assert (done.status, done.out) == (1, "")
        assert "option rank does nothing with adapter=false (profile whole)\n" in done.err
        assert done.err.endswith("  leave it out; it is for adapter=true\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--profile", "hole"), "has no profile 'hole'; did you mean 'whole'?"),
        (("--rank", "few"), "option rank is a whole number, not 'few'"),
        (("photos",), "photos was not made by kit"),
    ],
)
def test_what_no_answer_can_mend_is_said_before_the_first_question(
    kit: Kit, asked: Path, type_: Callable[..., None], words: tuple[str, ...], said: str
) -> None:
    type_("photos")
    profile = () if "--profile" in words else ("--profile", "adapter")
    done = kit("configure", asked, "--device", "cpu", *words, *profile)
    assert done.status == 1 and said in done.err and "images:" not in done.err


def test_a_complaint_that_no_answer_changes_is_said_to_be_about_something_else(
    kit: Kit, asked: Path, type_: Callable[..., None]
) -> None:
    type_("empty", "nowhere", "photos", "bare", "photos")
    done = kit("configure", asked, "--device", "cpu", "--profile", "adapter", "--rank=13")
    complaint, hint = (
        "kit: error: 13 brings bad luck\n",
        "  the same as before: another setting may be wrong; Ctrl-C ends",
    )
    assert done.status == 1 and done.err.count(complaint) == 3 and done.err.count(hint) == 1


def test_answers_are_kept_when_questions_or_preparing_end(
    kit: Kit, asked: Path, type_: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"your answers are kept in this command, which goes on from here:\n  kit configure {asked} made --device cpu"
    words = (asked, "made", "--device", "cpu", "--profile=adapter", "--processes=3")
    data = f"--set data={Path('photos').absolute()}"
    type_("photos")
    done = kit("configure", *words)
    assert done.status == 1 and f"{kept} --profile adapter --processes 3 {data}\n" in done.err
    assert "the input ended before the questions did" in done.err

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        type_("photos")
        lines = iter(["photos"])
        patch.setattr("builtins.input", lambda: next(lines, None) or interrupt())
        done = kit("configure", *words)
    assert done.status == 130 and f"{kept} --profile adapter --processes 3 {data}\n" in done.err

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "made")

    monkeypatch.setattr(workspace, "prepare", full)
    type_("photos", "", "dog", "-", "", "8")
    done = kit("configure", *words)
    assert done.status == 1 and "made: No space left on device" in done.err
    assert (
        f"{data} --set captions=prompt --set prompt=dog --set other= --set model=org/model --set rank=8\n" in done.err
    )


def test_no_options(kit: Kit, root: Root) -> None:
    done = kit("configure", root.recipe(), "--device", "cpu")
    assert (done.status, done.out) == (1, "") and "recipe tiny has no options" in done.err
