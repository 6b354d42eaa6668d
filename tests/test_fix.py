"""`kit fix`: any script, in place; what it says, and what it exits with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import GUARDED, REPOSITORY, TRAIN, Done, Kit, git, kit_process, write

from kit import fixes

FIXED = GUARDED.replace(
    "    for epoch in range(10):\n",
    "    for epoch in range(10):\n        if global_step >= args.max_train_steps:\n            break\n",
)
FIXED += '            accelerator.print("")\n'
FLAX = TRAIN.replace("def main(args, accelerator):", "def main(args):").partition("    def save")[0] + (
    "    global_step = 0\n    for epoch in range(10):\n        for batch in range(10):\n"
    "            if global_step >= args.max_train_steps:\n                break\n"
)
SAID = """\
train.py:20: applied: progress-print
train.py:17: applied: stop-at-max-steps
train.py:13: applied: weights-pop
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write(Path.cwd(), {"train.py": TRAIN}) / "train.py"


def test_in_place_and_once(kit: Kit, script: Path) -> None:
    script.chmod(0o755)
    assert kit("fix", "train.py") == Done(1, SAID, "")
    assert (script.read_text(), script.stat().st_mode & 0o777) == (FIXED, 0o755)
    assert kit("fix", "train.py") == Done(0, "", "")
    assert [path.name for path in Path.cwd().iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("places", "told"),
    [(1, ""), (2, " (also line 4)"), (3, " (also lines 4, 5)"), (8, " (also lines 4, 5, 6, 7, 8 and 2 more)")],
)
def test_a_refusal_names_its_lines(kit: Kit, places: int, told: str) -> None:
    Path("train.py").write_text("import accelerate\ndef f(x):\n" + "    x.cuda()\n" * places)
    reason = "`accelerator` is not bound there: hand it in, or skip the fix"
    said = f"train.py:3: conflict: device-placement: {reason}{told}\n"
    assert kit("fix", "--check", "device-placement", "train.py") == Done(1, said, "")


def test_check_writes_nothing(kit: Kit, script: Path) -> None:
    assert kit("fix", "--check", "train.py") == Done(1, SAID.replace(" applied", " would be applied"), "")
    assert script.read_text() == TRAIN
    script.write_text(FIXED)
    assert kit("fix", "--check", "train.py") == Done(0, "", "")


@pytest.mark.parametrize("text", [TRAIN, TRAIN.rstrip("\n"), TRAIN.replace("\n", "\r\n")])
def test_the_diff_applies(kit: Kit, script: Path, text: str) -> None:
    script.write_bytes(text.encode())
    done = subprocess.run([Path(sys.executable).with_name("kit"), "fix", "--diff", "train.py"], capture_output=True)
    assert done.returncode == 1 and script.read_bytes() == text.encode()
    assert done.stdout.startswith(b"--- a/train.py\n+++ b/train.py\n")
    git("init", "-q", at=Path.cwd())
    subprocess.run(["git", "-c", "core.autocrlf=false", "apply"], input=done.stdout, check=True)
    by_diff = script.read_bytes()
    script.write_bytes(text.encode())
    kit("fix", "train.py")
    assert script.read_bytes() == by_diff != text.encode()


def test_only_the_named(kit: Kit, script: Path) -> None:
    assert kit("fix", "weights-pop", "progress-print", "train.py").out.splitlines() == [
        "train.py:20: applied: progress-print",
        "train.py:13: applied: weights-pop",
    ]


def test_verbose_says_why_nothing_was_done(kit: Kit, script: Path) -> None:
    script.write_text(FIXED)
    assert kit("fix", "-v", "weights-pop", "offline-model-card", "train.py") == Done(
        0,
        "train.py: gone: offline-model-card: not about this file\ntrain.py: satisfied: weights-pop: it is so already\n",
        "",
    )


def test_several_places(kit: Kit) -> None:
    two = "def hook(models, weights):\n    weights.pop()\n    weights.pop()\n"
    write(Path.cwd(), {"two.py": two})
    assert kit("fix", "two.py").out == "two.py:2: applied: weights-pop at 2 places\n"
    assert Path("two.py").read_text().count("if weights:") == 2


def test_refused_where_a_name_is_not_bound(kit: Kit) -> None:
    write(Path.cwd(), {"flax.py": FLAX})
    done = kit("fix", "progress-print", "flax.py")
    reason = "`accelerator` is not bound there: print by hand on one process, or skip the fix"
    assert done == Done(1, f"flax.py:14: conflict: progress-print: {reason}\n", "")
    assert Path("flax.py").read_text() == FLAX
    assert kit("fix", "--diff", "progress-print", "flax.py") == Done(1, "", done.out)


SAVE = """\
import os
from accelerate import Accelerator


def main(args):
    accelerator = Accelerator()

    def hook(models, weights, output_dir):
        {pop}

    if accelerator.is_main_process:
        if args.checkpoints_total_limit is not None:
            remove([d for d in os.listdir("there") if d.startswith("checkpoint")])
{otherwise}        here = os.path.join("there", f"checkpoint-{{step}}")
        accelerator.save_state(here)
"""


def test_a_fix_comes_with_what_it_makes_necessary(kit: Kit) -> None:
    write(Path.cwd(), {"save.py": SAVE.format(pop="weights.pop()", otherwise="")})
    assert kit("fix", "deepspeed-checkpoint", "save.py").out.splitlines() == [
        "save.py:11: applied: deepspeed-checkpoint",
        "save.py:12: applied: checkpoint-rotation",
        "save.py:9: applied: weights-pop",
    ]
    assert "limit is not None and accelerator.is_main_process:" in Path("save.py").read_text()
    assert kit("fix", "save.py").status == 0


def test_lines_are_those_of_the_file_as_it_was(kit: Kit) -> None:
    """`--check` names the place in the file there is, though other fixes would have put lines above it."""
    text = SAVE.format(pop="weights.pop()", otherwise="").replace("from accelerate", "import torch\nfrom accelerate")
    text += '\n\nif __name__ == "__main__":\n    main(None)\n'
    write(Path.cwd(), {"save.py": text})
    said = ["deepspeed-checkpoint: 12", "device-package: 4", "checkpoint-rotation: 13", "weights-pop: 10"]
    assert kit("fix", "--check", "--device", "npu", "save.py").out.splitlines() == [
        f"save.py:{line}: would be applied: {fix}" for fix, line in (each.split(": ") for each in said)
    ]


def test_half_a_fix_is_none(kit: Kit) -> None:
    """Opening the checkpoint to every rank, with a rotation that cannot be guarded, would trade a hang for a race."""
    text = SAVE.format(pop="pass", otherwise="        else:\n            keep()\n")
    write(Path.cwd(), {"save.py": text})
    done = kit("fix", "deepspeed-checkpoint", "save.py")
    assert done.status == 1 and "DEEPSPEED" not in Path("save.py").read_text()
    assert done.out.startswith(
        "save.py:12: conflict: deepspeed-checkpoint: it makes checkpoint-rotation necessary, which"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"def f(:\n", "bad.py:1: not valid Python"),
        (b"x = 1\nprint 'two'\n", "bad.py:2: not valid Python"),
        (b"\x00", "bad.py:1: not valid Python"),
        (b'x = "\xff"\n', "bad.py:1: not valid Python"),
        (b"def hook(weights):\n    # \xff\n    weights.pop()\n", "bad.py:2: not utf-8: invalid start byte"),
        (b"# coding: klingon\n", "bad.py:1: not valid Python"),
        (b"x = " + b"+".join([b"1"] * 100_000) + b"\n", "bad.py:1: expressions too deep to read"),
    ],
    ids=["syntax", "Python 2", "nul", "not UTF-8", "a comment", "unknown encoding", "deep"],
)
def test_a_bad_file_is_one_line_and_the_others_are_fixed(kit: Kit, script: Path, content: bytes, said: str) -> None:
    write(Path.cwd(), {"bad.py": content})
    done = kit("fix", "bad.py", "train.py")
    assert (done.status, done.out) == (1, SAID)
    assert done.err.startswith(f"kit: error: {said}") and len(done.err.splitlines()) == 2
    assert Path("bad.py").read_bytes() == content and script.read_text() == FIXED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no file to fix\n  kit fix train.py"),
        (("weights-pop",), "there is no file to fix\n  kit fix train.py"),
        (("wieghts-pop", "train.py"), "wieghts-pop is neither a file nor a fix; did you mean 'weights-pop'?\n  fixes"),
        (
            ("train.py", "weights-pop"),
            "weights-pop comes after a file\n  fixes come",
        ),
        (("transformer-patches", "train.py"), "fix transformer-patches belongs to a recipe; it is not for any script"),
        ((".",), ". is a folder\n  name its files: kit fix ./*.py"),
    ],
)
def test_wrong_words(kit: Kit, script: Path, arguments: tuple[str, ...], said: str) -> None:
    done = kit("fix", *arguments)
    assert (done.status, done.out) == (1, "") and done.err.startswith(f"kit: error: {said}")
    assert script.read_text() == TRAIN


def test_a_link_stays_one(kit: Kit, script: Path) -> None:
    link = Path("link.py")
    link.symlink_to("train.py")
    assert kit("fix", "link.py").status == 1
    assert link.is_symlink() and script.read_text() == FIXED


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(kit: Kit, script: Path) -> None:
    Path.cwd().chmod(0o500)
    try:
        done = kit("fix", "train.py")
    finally:
        Path.cwd().chmod(0o700)
    assert done.status == 1 and "train.py: Permission denied" in done.err and script.read_text() == TRAIN


def test_a_kill_while_writing_leaves_the_old_file(kit: Kit, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    assert kit("fix", "train.py").status == 130
    assert script.read_text() == TRAIN and [path.name for path in Path.cwd().iterdir()] == ["train.py"]


def test_list_and_json(kit: Kit, script: Path) -> None:
    listed = kit("fix", "--list").out.splitlines()
    assert [line.split()[0] for line in listed] == fixes.general()
    assert [entry["id"] for entry in kit("fix", "--list", "--json").json] == fixes.general()
    done = kit("fix", "--check", "--json", "train.py")
    (entry,) = done.json
    assert done.status == 1 and entry["path"] == "train.py" and entry["changed"] and entry["error"] is None
    assert {"id": "weights-pop", "outcome": "applied", "lines": [13], "reason": ""} in entry["fixes"]


def test_a_fix_that_differs_by_device(kit: Kit, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixes.load("weights-pop"), "OPTIONS", {"package": "{device.package}"}, raising=False)
    done = kit("fix", "weights-pop", "train.py")
    assert done.err.startswith("kit: error: fix weights-pop differs by device\n  kit fix --device {npu,")
    assert kit("fix", "train.py").out == "".join(SAID.splitlines(True)[:2])
    assert kit("fix", "--device", "npu", "weights-pop", "train.py").out == SAID.splitlines(True)[2]


def test_a_device_of_its_own_package(kit: Kit) -> None:
    """One script has no overlay: it imports the package itself; a device without one has nothing to import."""
    write(Path.cwd(), {"own.py": "import os\nimport torch\n\nprint(torch.device('npu'))\n"})
    assert kit("fix", "own.py") == Done(0, "", "")
    done = kit("fix", "--device", "cuda", "device-package", "own.py")
    assert done.err.startswith(
        "kit: error: fix device-package is not for cuda\n  kit fix --device {npu,tpu} device-package"
    )
    assert kit("fix", "device-package", "own.py").err.startswith("kit: error: fix device-package differs by device\n")
    assert kit("fix", "--device", "npu", "own.py").out == "own.py:3: applied: device-package\n"
    assert "import torch\n\nimport torch_npu  # noqa: F401" in Path("own.py").read_text()
    assert kit("fix", "--device", "npu", "own.py") == Done(0, "", "")


def test_an_older_torch(kit: Kit) -> None:
    text = "import torch\nbatch = load().pin_memory()\n"
    write(Path.cwd(), {"own.py": text})
    assert kit("fix", "--torch", "2.1.0+cpu", "own.py") == Done(0, "", "")
    done = kit("fix", "--torch", "2.1", "pin-memory-guard", "own.py")
    assert done.err == "kit: error: fix pin-memory-guard needs torch 2.6, not 2.1\n  leave out --torch, or the fix\n"
    assert kit("fix", "--torch", "new", "own.py").err.startswith("kit: error: --torch new is no version\n")
    assert kit("fix", "--torch", "2.6", "own.py").out == "own.py:2: applied: pin-memory-guard (torch 2.6 or newer)\n"


def test_every_fix_comes_before_what_it_brings() -> None:
    order = fixes.general()
    assert all(order.index(name) < order.index(other) for name in order for other in fixes.brings(name))
    assert fixes.with_brought(["deepspeed-checkpoint"]) == [
        "deepspeed-checkpoint",
        "checkpoint-rotation",
        "weights-pop",
    ]


def test_the_published_hooks_are_commands(script: Path) -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [hook["id"] for hook in hooks] == ["kit-fix", "kit-fix-check"]
    for hook in reversed(hooks):
        assert hook["language"] == "python" and hook["types"] == ["python"]
        assert kit_process(*hook["entry"].split()[1:], "train.py").status == 1
        assert (script.read_text() == FIXED) == (hook["id"] == "kit-fix")


def test_a_fix_comes_after_those_whose_places_it_would_hide() -> None:
    known = fixes.general()
    assert known.index("sample-caches") < known.index("resume-order")


NO_SYMBOLS = {
    "argument": ("def f(a, a):\n    pass\n", 1, "duplicate argument 'a' in function definition"),
    "global": ("def f():\n    x = 2\n    global x\n", 3, "name 'x' is assigned to before global declaration"),
    "nonlocal": ("def f():\n    nonlocal y\n", 2, "no binding for nonlocal 'y' found"),
    "module": ("nonlocal y\n", 1, "nonlocal declaration not allowed at module level"),
    "star": ("def f():\n    from os import *\n", 2, "import * only allowed at module level"),
}


@pytest.mark.parametrize("how", NO_SYMBOLS)
def test_a_script_that_parses_and_does_not_compile(kit: Kit, how: str) -> None:
    """It is refused, with its line, and the other files are mended."""
    text, line, said = NO_SYMBOLS[how]
    lines = TRAIN.count("\n")
    write(Path(), {"bad.py": TRAIN + text, "good.py": TRAIN})
    done = kit("fix", "bad.py", "good.py")
    assert done.status == 1 and "good.py:" in done.out and (Path("good.py").read_text() != TRAIN)
    assert f"bad.py:{lines + line}: not valid Python: {said}" in done.err, done.err
    assert Path("bad.py").read_text() == TRAIN + text
