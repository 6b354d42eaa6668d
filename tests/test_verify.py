"""`kit verify`: each way of breaking a workspace turns the check that is about it red, and no other way round."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from support import Done, Root, git, make_upstream, write

from kit import devices, recipes, verify
from kit.devices import Signature
from kit.errors import KitError

Kit = Callable[..., Done]


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


KNOWN = {
    "torch_npu.fuse": Signature(("query", "key", "heads", "scale"), keyword_only=("scale",), optional=("scale",)),
    "torch_npu.norm": Signature(("x", "gamma", "epsilon"), optional=("epsilon",)),
}


@pytest.mark.parametrize(
    ("name", "positional", "keywords", "problem"),
    [
        ("torch_npu.fuse", 3, [], ""),
        ("torch_npu.fuse", 2, ["heads", "scale"], ""),
        ("torch_npu.fuse", 0, [None], ""),
        ("torch_npu.norm", 3, [], ""),
        ("torch_npu.fuze", 3, [], "torch_npu.fuze is not in the published API; did you mean 'torch_npu.fuse'?"),
        ("torch_npu.fuse", 4, [], "torch_npu.fuse takes 3 arguments by position, not 4"),
        ("torch_npu.fuse", 3, ["scael"], "torch_npu.fuse has no parameter 'scael'; did you mean 'scale'?"),
        ("torch_npu.fuse", 2, ["scale"], "torch_npu.fuse needs heads"),
        ("torch_npu.norm", 0, [], "torch_npu.norm needs x, gamma"),
        ("torch_npu.norm", 2, ["x"], "torch_npu.norm is given x twice"),
    ],
)
def test_misuse(name: str, positional: int, keywords: list[str | None], problem: str) -> None:
    assert devices.misuse(KNOWN, name, positional, keywords) == problem


def test_device_calls(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "signatures", lambda name, roots: KNOWN)
    good = "import torch_npu\n\nx = torch_npu.norm(a, b).sum()\ny = other.norm()\n"
    root.overlay({"calls.py": good})
    assert kit("prepare", root.place / "recipes/tiny.toml", "--device", "npu", "made").status == 0
    done = kit("verify", "made", "--json")
    assert failures(done) == {}
    assert "up: 1 device-API calls exist in torch_npu" in [check["name"] for check in done.json[0]["checks"]]
    write(Path("made/up/examples"), {"calls.py": good + "z = [torch_npu.norm(a, eps=1), torch.npu.nothing()]\n"})
    said = failures(kit("verify", "made", "--json"))["up: 3 device-API calls exist in torch_npu"]
    assert "calls.py:5: torch_npu.norm has no parameter 'eps'" in said
    assert "calls.py:5: torch.npu.nothing is not in the published API" in said


def test_upstreams_own_device_calls_are_said_not_judged(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' training_utils.py calls torch.npu.manual_seed_all: that is no line of kit's."""
    monkeypatch.setattr(devices, "signatures", lambda name, roots: KNOWN)
    root.pin = make_upstream(
        root.upstream, {"examples/train.py": f"import torch\n\ntorch.npu.seed_all(1)\n{support.TRAIN}"}
    )
    path = root.recipe()
    kit("refresh", path)
    assert kit("prepare", path, "--device", "npu", "made").status == 0
    done = kit("verify", "made", "--json")
    assert failures(done) == {}
    checks = {check["name"]: check for check in done.json[0]["checks"]}
    said = checks["up: upstream's own calls that npu.api.toml does not list"]
    assert said["ok"] is None and said["detail"].endswith("examples/train.py:3: torch.npu.seed_all")
    path = Path("made/up/examples/train.py")
    path.write_text(path.read_text().replace("weights.pop()", "weights.pop(torch.npu.nothing())"))
    wrong = failures(kit("verify", "made", "--json"))
    assert "torch.npu.nothing is not in the published API" in wrong["up: 1 device-API calls exist in torch_npu"]


def test_an_api_is_a_function_a_line(tmp_path: Path) -> None:
    write(tmp_path, {"profiles/abacus.api.toml": '"beads.sum" = "(x, dim=..., *, out=...)"\n"beads.any" = "(*args)"\n'})
    known = devices.signatures("abacus", (tmp_path,))
    assert known["beads.sum"] == Signature(("x", "dim", "out"), keyword_only=("out",), optional=("dim", "out"))
    assert devices.misuse(known, "beads.any", 9, ["what"]) == ""
    write(tmp_path, {"profiles/abacus.api.toml": '"beads.sum" = "x, dim"\n'})
    with pytest.raises(KitError) as refused:
        devices.signatures("abacus", (tmp_path,))
    assert "abacus.api.toml:1: beads.sum: 'x, dim' is no signature" in str(refused.value)


def test_the_npus_api_is_whole() -> None:
    """Made from the wheel by tests/bench/api_of_wheel.py: operators, torch.npu and its amp."""
    known = devices.signatures("npu")
    assert len(known) > 300 and known["torch.npu.manual_seed_all"].parameters == ("seed",)
    assert known["torch_npu.npu_fusion_attention"].parameters[:5] == (
        "query",
        "key",
        "value",
        "head_num",
        "input_layout",
    )
    assert set(known["torch_npu.npu_grouped_matmul"].optional) == set(
        known["torch_npu.npu_grouped_matmul"].keyword_only
    )


@pytest.mark.parametrize("name", devices.names())
def test_profiles(name: str) -> None:
    device = devices.load(name)
    assert device.name == name and device.precisions and device.processes >= 1
    assert all(variable.name.isidentifier() and variable.meaning for variable in device.environment)
    assert isinstance(devices.signatures(name), dict)


def test_the_npu_has_the_twelve_variables_of_the_seed() -> None:
    assert len({variable.name for variable in devices.load("npu").environment}) >= 12
