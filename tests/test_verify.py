"""`kit verify`: each way of breaking a workspace turns the check that is about it red, and no other way round."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import support
from support import Done, Kit, Root, git, prepare, write

from kit import recipes, verify
from kit.commands.verify import LEVELS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo, prepared for the NPU; it comes with kit and needs no network."""
    place = tmp_path_factory.mktemp("demo")
    with support.sandbox(place):
        assert support.kit_process("prepare", "demo", "--device", "npu", place / "made").status == 0
    yield place / "made"


@pytest.fixture
def demo(prepared: Path) -> Path:
    """A copy of it, at ./made."""
    return Path(shutil.copytree(prepared, "made", symlinks=True))


def failures(done: Done) -> dict[str, str]:
    """The checks that failed, with what they say."""
    (report,) = done.json
    found = {check["name"]: check["detail"] for check in report["checks"] if check["ok"] is False}
    assert report["verified"] is (not found) and done.status == (1 if found else 0)
    return found


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Replace ``old``, which must be there once, in a file of the upstream."""

    def change(up: Path) -> None:
        text = (up / name).read_text()
        assert text.count(old) == 1
        (up / name).write_text(text.replace(old, new))

    return change


def commit(up: Path) -> None:
    write(up, {"examples/train_line.py": (up / "examples/train_line.py").read_text() + "# mine\n"})
    git("commit", "--quiet", "--all", "--message", "mine", at=up)


def link(up: Path) -> None:
    (up / PATCHES).rename("elsewhere.py")
    (up / PATCHES).symlink_to(Path("elsewhere.py").absolute())


TRAIN, RUN, PATCHES = "examples/train_line.py", "examples/finetune_line.sh", "examples/transformer_patches.py"
TABLE = "examples/launcher/programs.json"
HASHES = "demo: 27 files kit wrote have their hashes"
EDITED = "nothing kit or upstream wrote was edited"
HOLD = [f"demo: fix {fix.id} holds in train_line.py" for fix in recipes.load("demo").fix]
FLAGS = "demo: the 6 flags finetune_line.sh passes exist in train_line.py"

# How it is broken; the checks that must fail, and part of what each says.
BROKEN: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "comment in a fixed file": (
        edit(TRAIN, "#!/usr/bin/env python\n", "#!/usr/bin/env python\n# mine\n"),
        {HASHES: "train_line.py: changed", EDITED: "modified demo/examples/train_line.py"},
    ),
    "upstream's own file": (
        lambda up: write(up, {"README.md": "mine\n"}),
        {EDITED: "modified demo/README.md"},
    ),
    "fix undone": (
        edit(TRAIN, '            accelerator.print("")\n', ""),
        {
            HASHES: "train_line.py: changed",
            EDITED: "modified",
            "demo: fix progress-print holds in train_line.py": "train_line.py:",
        },
    ),
    "upstream's guard undone": (
        edit(TRAIN, "            if weights:\n                weights.pop()\n", "            weights.pop()\n"),
        {HASHES: "", EDITED: "", "demo: fix weights-pop holds in train_line.py": "undone at "},
    ),
    "construct gone": (
        edit(TRAIN, "            if weights:\n                weights.pop()\n", "            pass\n"),
        {
            HASHES: "",
            EDITED: "",
            "demo: fix weights-pop holds in train_line.py": "the construct it is about is not there",
        },
    ),
    "unknown flag": (
        edit(TABLE, '["max_train_steps"]', '["max_train_stesp"]'),
        {HASHES: "", EDITED: "", FLAGS: "programs.json:{line}: --max_train_stesp is not an option of train_line.py"},
    ),
    "script gone": (
        lambda up: (up / TRAIN).unlink(),
        {
            HASHES: "train_line.py: changed",
            EDITED: "deleted demo/examples/train_line.py",
            FLAGS: "there is no ",
            **dict.fromkeys(HOLD, "No such file"),
        },
    ),
    "overlay file gone": (
        lambda up: (up / PATCHES).unlink(),
        {HASHES: "transformer_patches.py: changed", EDITED: "deleted demo/examples/transformer_patches.py"},
    ),
    "shell syntax": (
        edit(RUN, "set +a\n", "if true\nset +a\n"),
        {HASHES: "", EDITED: "", "demo: finetune_line.sh passes bash -n": "syntax error"},
    ),
    "python syntax": (
        edit(PATCHES, "def apply_patches() -> None:", "def apply_patches() -> None"),
        {HASHES: "", EDITED: "", "demo: transformer_patches.py parses as Python 3.10": "transformer_patches.py:8: "},
    ),
    "python syntax of the script": (
        edit(TRAIN, "def main(args):", "def main(args)"),
        {
            HASHES: "",
            EDITED: "",
            FLAGS: "train_line.py:42: not valid Python: ",
            "demo: train_line.py parses as Python 3.10": "train_line.py:42: ",
            **dict.fromkeys(HOLD, "train_line.py:42: not valid Python: "),
        },
    ),
    "not UTF-8": (
        lambda up: write(up, {RUN: (up / RUN).read_bytes() + b"# \xff\n"}),
        {HASHES: "", EDITED: ""},
    ),
    "newer python": (
        lambda up: write(up, {PATCHES: "try:\n    pass\nexcept* ValueError:\n    pass\n"}),
        {HASHES: "", EDITED: "", "demo: transformer_patches.py parses as Python 3.10": "transformer_patches.py:"},
    ),
    "run bit": (
        lambda up: (up / RUN).chmod(0o755 if not (up / RUN).stat().st_mode & 0o100 else 0o644),
        {HASHES: "finetune_line.sh: changed", EDITED: "modified demo/examples/finetune_line.sh"},
    ),
    "link for a file": (
        link,
        {HASHES: "transformer_patches.py: changed", EDITED: "demo/examples/transformer_patches.py"},
    ),
    "commit on top": (
        commit,
        {
            "demo: HEAD is the commit of the lock": "the lock says",
            "demo: its tree is that of the lock": "the lock says",
            HASHES: "train_line.py: changed",
            EDITED: "committed demo/",
        },
    ),
    "empty commit on top": (
        lambda up: git("commit", "--quiet", "--allow-empty", "--message", "mine", at=up),
        {"demo: HEAD is the commit of the lock": "the lock says", EDITED: "committed demo/"},
    ),
    "history rewritten": (
        lambda up: (git("checkout", "--quiet", "--orphan", "new", at=up), git("commit", "-qm", "all", at=up)),
        {
            "demo: HEAD is the commit of the lock": "the lock says",
            "demo: built on the pin": "the lock says",
            EDITED: "committed demo/",
        },
    ),
    "repository gone": (
        lambda up: shutil.rmtree(up / ".git"),
        {"demo: repository": "not a git repository", EDITED: "missing demo/."},
    ),
}


def test_whole(demo: Path, kit: Kit) -> None:
    done = kit("verify", "made", "--json")
    assert failures(done) == {} and done.err == ""
    names = [check["name"] for check in done.json[0]["checks"] if check["ok"]]
    assert {HASHES, EDITED, FLAGS, "demo: built on the pin"} < set(names)
    assert sum(name.startswith("demo: fix ") for name in names) == 7
    text = kit("verify", "made")
    assert text.status == 0 and re.search(r"\n  verified \(tree, static\): \d+ ok, 0 failed, ", text.out)


@pytest.mark.parametrize("how", BROKEN)
def test_broken(demo: Path, kit: Kit, how: str) -> None:
    change, expected = BROKEN[how]
    change(demo / "demo")
    found = failures(kit("verify", "made", "--json"))
    assert found.keys() == expected.keys()
    lines = (demo / "demo" / TABLE).read_text(errors="replace").splitlines()
    line = next((number for number, text in enumerate(lines, 1) if "stesp" in text), 0)
    for name, said in expected.items():
        assert said.format(line=line) in found[name], name
    text = kit("verify", "made")
    assert text.status == 1 and text.out.count("FAIL") == len(expected) and "  NOT verified (tree, static)" in text.out


SMOKE = {
    "tiny": "hidream",
    "folder": "up",
    "step": [{"name": "train", "run": ["true"]}],
    "parity": [{"name": "captions", "run": ["true"], "trained": "{out}/lora.safetensors"}],
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--smoke --step trian", "no smoke step 'trian' here; did you mean 'train'?\n  its smoke steps: train"),
        (
            "--parity --case caption",
            "no parity case 'caption' here; did you mean 'captions'?\n  its parity cases: captions",
        ),
        (
            "--red --fix weights",
            "no fix 'weights' here; did you mean 'weights-pop'?\n  its fixes: weights-pop, progress-print",
        ),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_built(root: Root, kit: Kit, words: str, said: str) -> None:
    root.recipe(smoke=SMOKE)
    assert prepare(root, kit).status == 0
    done = kit("verify", "made", *words.split())
    assert (done.status, done.out) == (1, "") and said in done.err


def test_a_level_of_which_there_is_nothing_is_not_said_to_have_passed(
    root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.recipe(smoke={**SMOKE, "parity": []})
    assert prepare(root, kit).status == 0
    run = SimpleNamespace(through="", recipe=SimpleNamespace(smoke=None))
    monkeypatch.setattr("kit.smoke.run.begin", lambda *given: contextlib.nullcontext(run))
    monkeypatch.setattr("kit.smoke.run.smoke", lambda *given: iter(()))
    out = kit("verify", "made", "--parity").out
    for level, thing in (("smoke", "step"), ("parity", "case")):
        assert f"skip  {LEVELS[level]}: unproven: recipe tiny has no {level} {thing} on cpu\n" in out
    assert "  verified (tree, static, smoke, parity): " in out


def test_files_beside_are_only_listed(demo: Path, kit: Kit) -> None:
    write(demo, {"demo/examples/line-model/line.txt": "2 1\n", "notes.txt": "mine\n"})
    done = kit("verify", "made", "--json")
    assert failures(done) == {}
    assert [check["detail"] for check in done.json[0]["checks"] if check["name"] == "files beside them, not kit's"] == [
        "untracked notes.txt; untracked demo/examples/line-model/"
    ]


def test_lock_changed_by_hand(demo: Path, kit: Kit) -> None:
    body = json.loads((demo / "kit.lock").read_text())
    body["upstreams"]["demo"]["files"].clear()
    (demo / "kit.lock").write_text(json.dumps(body))
    done = kit("verify", "made")
    assert done.status == 1 and "kit.lock:1: its hash does not match its content: it was changed by hand" in done.err


CONFIGS = {"a.json": ("{}\n", "{", "is JSON"), "a.toml": ("a = 1\n", "a =\n", "is TOML")}
CONFIGS |= dict.fromkeys(("a.yaml", "a.yml"), ("a: 1\n", "a: [1\n", "is YAML"))


def test_configs(root: Root, kit: Kit) -> None:
    root.overlay({name: good for name, (good, _, _) in CONFIGS.items()})
    assert kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made").status == 0
    assert failures(kit("verify", "made", "--json")) == {}
    write(Path("made/up/examples"), {name: bad for name, (_, bad, _) in CONFIGS.items()})
    found = failures(kit("verify", "made", "--json"))
    for name, (_, _, what) in CONFIGS.items():
        assert re.search(rf"{re.escape(name)}:\d+: ", found[f"up: {name} {what}"])


def test_nowhere_and_several(demo: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch, prepared: Path) -> None:
    shutil.copytree(prepared, "second", symlinks=True)
    assert [Path(report["workspace"]).name for report in kit("verify", "--json").json] == ["made", "second"]
    assert [Path(report["workspace"]).name for report in kit("verify", "second", "--json").json] == ["second"]
    (Path("second/demo") / PATCHES).unlink()
    done = kit("verify")
    assert done.status == 1 and "  verified" in done.out and "  NOT verified" in done.out
    monkeypatch.chdir("made/demo/examples")
    assert [Path(report["workspace"]).name for report in kit("verify", "--json").json] == ["made"]
    monkeypatch.chdir("/")
    Path(prepared.parent / "none").mkdir(exist_ok=True)
    done = kit("verify", prepared.parent / "none")
    assert done.status == 1 and done.err == (
        f"kit: error: there is no workspace at or below {prepared.parent / 'none'}\n"
        "  make one: kit prepare RECIPE --device DEVICE\n"
    )


# How launch scripts are read.


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("python3 train.py --a=1 --b 2\n", {"train.py": {"--a": 1, "--b": 1}}),
        (
            'accelerate launch --num_processes 2 "train.py" \\\n  --a="$x" \\\n  --b_c \\\n  "$@"\n',
            {"train.py": {"--a": 2, "--b_c": 3}},
        ),
        ("python train.py\n", {}),
        ("echo 'see train.py'\n", {}),
        ("# python train.py --a\n", {}),
        ("python train.py --a # --b\n", {"train.py": {"--a": 1}}),
        (
            "command=(accelerate launch --config_file c.yaml train.py --a 1)\ncommand+=(--b=2)\n"
            'if x; then\n  command+=(\n    --c "$c"  # why\n    --d-e\n  )\nfi\n"${command[@]}"\n',
            {"train.py": {"--a": 1, "--b": 2, "--c": 5, "--d-e": 6}},
        ),
        ("#!/bin/bash\n# one\n\n  # two\npython train.py --a\n", {"train.py": {"--a": 5}}),
        ("python one.py --a\npython two.py --b\n", {"one.py": {"--a": 1}, "two.py": {"--b": 2}}),
        ("flags=(--a --b)\npython train.py --c\n", {"train.py": {"--c": 2}}),
        ("PYTHONPATH=x python3 ../scripts/train.py \\\n\t--a\n", {"train.py": {"--a": 2}}),
        ("python - <<'END'\nsee tool.py --x\nEND\npython train.py --a\n", {"train.py": {"--a": 4}}),
        ('python3 "$here/../scripts/train.py" --a\n', {"../scripts/train.py": {"--a": 1}}),
        ('t=(\n  "$here/../a/train.py"\n  --b=1\n)\n', {"../a/train.py": {"--b": 3}}),
    ],
)
def test_launched(script: str, expected: dict[str, dict[str, int]]) -> None:
    assert verify.launched(script) == expected


def test_parser_flags() -> None:
    source = b"""
parser = argparse.ArgumentParser()
parser.add_argument("--one", "-o", type=int)
parser.add_argument("positional")
group = parser.add_argument_group()
group.add_argument("-t", "--two_words", action="store_true")
def more(other):
    other.add_argument(
        "--three-words",
    )
add_argument("--not-a-method")
print("--nor-this")
"""
    assert verify.parser_flags(source, "x.py") == {"--one", "--two_words", "--three-words"}
