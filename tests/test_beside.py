"""What a recipe brings: found beside it first, then in kit; its code runs only for a command that was given it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from support import REPOSITORY, TRAIN, Done, Root, kit_process, make_upstream, write

from kit import devices, fixes, recipes
from kit.errors import KitError

Kit = Callable[..., Done]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
(FIX,) = re.findall(r"flush_at_end.py`:\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TRACE = "from pathlib import Path\nPath({trace!r}).open('a').write('ran ')\n"
PROFILE = 'name = "abacus"\ntitle = "Abacus"\ndevice = "abacus"\ndistributed_type = "NO"\nbackend = "gloo"\n'
PROFILE += 'precisions = ["no"]\nprocesses = 1\n'
ENDS = f'import sys\n{TRAIN}\n\nif __name__ == "__main__":\n    main(parse_args(), None)\n'


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where the brought fix says that it ran."""
    return tmp_path / "ran"


@pytest.fixture
def port(root: Root, trace: Path) -> Root:
    """A recipe that brings a fix, a device, a tiny model, a template that it includes, and an overlay of kit's name."""
    root.pin = make_upstream(root.upstream, {"examples/train.py": ENDS})
    head, imports, body = FIX.partition("from collections.abc")
    brought = {
        "fixes/flush_at_end.py": head + TRACE.format(trace=str(trace)) + imports + body,
        "profiles/abacus.toml": PROFILE,
        "tiny/bead.py": "",
        "overlays/demo/beads.txt": "mine\n",
        "overlays/mine/said.txt.j2": '{% include "mine/part.j2" %} {{ device.title }}\n',
        "overlays/mine/part.j2": "beads on an",
    }
    write(root.place, brought)
    root.recipe(
        devices=["abacus", "cpu"],
        fix=[{"id": "flush-at-end", "files": ["examples/train.py"]}],
        overlay=[{"source": "mine", "into": "mine"}, {"source": "demo", "into": "demo"}],
        smoke={"tiny": "bead", "folder": "up", "step": [{"name": "one", "run": ["true"]}]},
    )
    (root.place / "overlays/mine/part.j2").rename(root.place / "overlays/part.j2")
    write(root.place, {"overlays/mine/said.txt.j2": '{% include "part.j2" %} {{ device.title }}\n'})
    return root


def test_a_recipe_brings_all_it_needs(port: Root, kit: Kit, trace: Path) -> None:
    path = port.place / "recipes/tiny.toml"
    assert "flush the output after main()" in kit("show", path).out
    assert not trace.exists(), "a fix was run to say what it is"
    assert kit("refresh", path).status == 0 and trace.read_text() == "ran "
    assert [each.name for each in (port.place / "patches/tiny/up").iterdir()] == ["01-flush-at-end.patch"]
    assert kit("prepare", path, "--device", "abacus", "made").status == 0
    assert Path("made/up/mine/said.txt").read_text() == "beads on an Abacus\n"
    assert Path("made/up/demo/beads.txt").read_text() == "mine\n", "an overlay of kit's came first"
    assert not Path("made/up/demo/launcher").exists()
    assert "sys.stdout.flush()" in Path("made/up/examples/train.py").read_text()


def test_what_it_does_not_bring_is_kits(root: Root, kit: Kit) -> None:
    root.recipe(fix=None, overlay=[{"source": "shared", "into": "shared"}], smoke=None)
    write(root.place, {"recipes/own.toml": (root.place / "recipes/tiny.toml").read_text().replace('"tiny"', '"own"')})
    (root.place / "patches").rename(root.place / "patched")
    done = kit("show", root.place / "recipes/own.toml")
    assert "into up/shared" in done.out and "check_device.py" in done.out
    assert fixes.load("weights-pop").TITLE and devices.load("npu", (root.place,)).package == "torch_npu"


def test_a_workspace_alone_runs_nothing_of_it(port: Root, kit: Kit, trace: Path) -> None:
    """`kit verify` was given a workspace, whose lock names a recipe: a stranger may have written both."""
    path = port.place / "recipes/tiny.toml"
    kit("refresh", path)
    kit("prepare", path, "--device", "cpu", "made")
    trace.unlink()
    done = kit_process("verify", "made")  # where nothing of it is in memory
    assert (done.status, trace.exists()) == (0, False), done.out + done.err
    said = "this fix comes with a recipe that the command was not given: `kit verify --smoke` runs it"
    assert f"skip  up: fix flush-at-end holds in train.py: {port.place}/fixes/flush_at_end.py: {said}" in done.out


def test_by_name_from_a_folder_of_ones_own(port: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kit("show", "tiny").err.startswith("kit: error: unknown recipe 'tiny'")
    monkeypatch.setenv("KIT_RECIPES", str(port.place / "recipes"))
    assert recipes.load("tiny").called == "tiny"
    assert "tiny " in kit("list").out
    assert kit("show", "tiny").out.endswith("next: kit prepare tiny --device abacus\n")
    monkeypatch.delenv("KIT_RECIPES")
    monkeypatch.chdir(port.place)
    assert recipes.load("tiny").path == port.place / "recipes/tiny.toml"
    assert kit("refresh").out.count("flush-at-end") == 1, "without a name it is about the recipes here"
    monkeypatch.chdir(port.place / "recipes")
    assert recipes.load("tiny.toml").called == "tiny.toml"


def test_a_recipe_in_any_folder(root: Root, tmp_path: Path) -> None:
    """What it brings is beside it where its folder is not called `recipes`."""
    text = root.recipe(overlay=[{"source": "near", "into": "near"}]).read_text()
    place = write(tmp_path / "port", {"tiny.toml": text, "overlays/near/a.txt": "", "profiles/abacus.toml": PROFILE})
    assert recipes.load(str(place / "tiny.toml")).root == place
    assert devices.load("abacus", (place,)).title == "Abacus"


def test_a_link_is_refused(port: Root) -> None:
    (port.place / "profiles/abacus.toml").rename(port.place / "far.toml")
    (port.place / "profiles/abacus.toml").symlink_to(port.place / "far.toml")
    with pytest.raises(KitError, match="a symbolic link"):
        recipes.load(str(port.place / "recipes/tiny.toml")).device("abacus")


def test_a_fix_that_does_not_run_is_named_with_its_line(port: Root, kit: Kit) -> None:
    write(port.place, {"fixes/flush_at_end.py": 'TITLE = "t"\nWHY = "w"\nLINKS = ()\nimport nowhere\n'})
    done = kit("refresh", port.place / "recipes/tiny.toml")
    assert done.status == 1
    assert f"{port.place}/fixes/flush_at_end.py:4: ModuleNotFoundError: No module named 'nowhere'" in done.err


def test_an_unknown_tiny_model_is_refused_when_the_recipe_is_read(port: Root) -> None:
    smoke = {"tiny": "beed", "folder": "up", "step": [{"name": "one", "run": ["true"]}]}
    path = port.recipe(smoke=smoke, devices=["cpu"], fix=None, overlay=None)
    with pytest.raises(KitError, match="there is no tiny model of 'beed'; did you mean 'bead'"):
        recipes.load(str(path))


def test_every_hint_is_a_command_that_works(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a recipe by path, each command that a message names finds the recipe."""
    monkeypatch.chdir(root.place)
    write(root.place, {"ports/spare room/tiny.toml": (root.place / "recipes/tiny.toml").read_text()})
    port = root.place / "ports/spare room"
    (root.place / "overlays").rename(port / "overlays")
    (root.place / "patches").rename(port / "patches")
    (root.place / "recipes").rename(root.place / "old")
    path = "ports/spare room/tiny.toml"
    environment = f"kit env {shlex.quote(path)} --device cpu"
    said = {
        ("show", path): f"next: kit prepare {shlex.quote(path)} --device cpu",
        ("prepare", path): f"kit prepare {shlex.quote(path)} --device cpu",
        ("doctor", path): f"kit doctor {shlex.quote(path)} --device cpu",
        ("env", path): environment,
        ("env", path, "--lock"): f"{environment} --lock",
        ("env", path, "--device", "cpu"): f"make it: kit prepare {shlex.quote(path)} --device cpu tiny-cpu",
    }
    for words, hint in said.items():
        done = kit(*words)
        assert hint in done.out + done.err, words
        command = (done.out + done.err).rstrip().splitlines()[-1].partition("kit ")[2]
        assert shlex.split(command)[1] == path
    assert kit("prepare", path, "--device", "cpu").status == 0
    assert kit("env", path, "--device", "cpu").err.splitlines()[1:] == [f"  write it: {environment} --lock tiny-cpu"]
