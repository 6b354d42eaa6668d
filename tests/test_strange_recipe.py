"""A recipe that came from a stranger: preparing it renders its templates, fills in its options, and runs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import support
from support import Kit, Root, write

RECIPE = "recipes/tiny.toml"

ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch ran').read() }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(device) }}",
    "attr filter": "{{ device | attr('__class__') | attr('__init__') }}",
    "undefined": "{{ nothing.__init__.__globals__ }}",
    "self": "{{ self.__init__.__globals__ }}",
    "itself": "{% include 'tiny/run.sh.j2' %}",
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "range": "{% for x in range(10**12) %}{% endfor %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "outside": "{% include '../recipes/tiny.toml' %}",
    "link": "{% include 'tiny/link' %}",
}


@pytest.mark.parametrize("how", ESCAPES)
def test_a_template_reaches_its_names_and_no_more(root: Root, kit: Kit, how: str) -> None:
    folder = root.overlay({"run.sh.j2": "one\n" + ESCAPES[how]})
    if how == "link":
        write(root.place / "overlays", {"other/a": "1"})
        (root.place / "overlays/other/link").symlink_to("/etc/passwd")
        (folder / "run.sh.j2").write_text("one\n{% include 'other/link' %}")
    done = kit("prepare", root.place / RECIPE, "--device", "cpu", "made")
    assert done.status == 1 and "run.sh.j2:" in done.err and "prepare" not in done.out, done
    assert not Path("ran").exists() and not Path("made").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{device.__class__}",
        "{device.name.__class__}",
        "{device.__init__.__globals__[sys]}",
        "{device.environment[0]}",
        "{device.name:>1000000000}",
        "{device!r:a}",
        "{0}",
        "{",
        "}",
        "{{device.name}",
    ],
)
def test_an_option_of_a_fix_reaches_plain_data_only(root: Root, kit: Kit, text: str) -> None:
    fix = {"id": "weights-pop", "files": ["examples/train.py"], "options": {"accelerator": text}}
    path = root.recipe(fix=[fix])
    done = kit("show", path)
    assert done.status == 1 and f"option accelerator: {text!r}: " in done.err and "{device.device}" in done.err, done


@pytest.mark.parametrize("text", ["{steps.__class__}", "{steps[0]}", "{steps:>9}", "{device.name}", "{", "{}"])
def test_a_word_of_a_check_is_filled_with_plain_data_only(root: Root, kit: Kit, text: str) -> None:
    option = {"name": "steps", "default": 1, "meaning": "how many"}
    done = kit("show", root.recipe(option=[option], check=["up/examples/helper.py", text]))
    assert done.status == 1 and f"check: {text!r}: " in done.err and "there are: device, processes, steps" in done.err


LINKS: dict[str, Callable[[Root], tuple[Path, str]]] = {
    "an overlay": lambda root: (root.place / "overlays/tiny", "overlays"),
    "a folder of an overlay": lambda root: (root.place / "overlays/tiny/sub", "overlays"),
    "the patches": lambda root: (root.place / "patches/tiny/up", "patches"),
    "a patch": lambda root: (root.patches() / "01-weights-pop.patch", "patches"),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_link_in_a_recipe_is_not_followed(root: Root, kit: Kit, tmp_path: Path, what: str) -> None:
    write(root.place / "overlays/tiny", {"sub/a": "1"})
    path, _ = LINKS[what](root)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = support.snapshot(tmp_path / "elsewhere") if path.is_dir() else path.read_bytes()
    for command in ("prepare", "refresh"):
        done = kit(command, root.place / RECIPE, *(["--device", "cpu", "made"] if command == "prepare" else []))
        if command == "prepare" or "patch" in what:
            assert done.status == 1 and f"{path}: a symbolic link" in done.err, done
    assert before == (support.snapshot(tmp_path / "elsewhere") if path.is_dir() else path.read_bytes())


@pytest.mark.parametrize("what", ["the folder", "a folder", "a file", "a pipe"])
def test_a_link_in_a_carried_upstream_is_not_followed(root: Root, kit: Kit, tmp_path: Path, what: str) -> None:
    folder = write(root.place / "recipes/tiny", {"examples/train.py": "1\n", "sub/a": "1"})
    path = {"the folder": folder, "a folder": folder / "sub"}.get(what, folder / "sub/a")
    path.rename(tmp_path / "elsewhere")
    os.mkfifo(path) if what == "a pipe" else path.symlink_to(tmp_path / "elsewhere")
    root.recipe(upstream={"url": "tiny", "pin": "0" * 40}, fix=None)
    done = kit("prepare", root.place / RECIPE, "--device", "cpu", "made")
    kind = "not a regular file" if what == "a pipe" else "a symbolic link"
    assert done.status == 1 and done.err.startswith(f"kit: error: {path}: {kind}\n"), done


DEEP = {
    "list": "x = " + "[" * 50_000 + "]" * 50_000,
    "table": "x = " + "{a=" * 50_000 + "1" + "}" * 50_000,
    "number": "x = " + "9" * 10_000,
    "date": "x = 2020-99-99",
    "keys": ".".join(["a"] * 10_000) + " = 1",
    "header": "[" + ".".join(["a"] * 50_000) + "]",
}


@pytest.mark.parametrize("how", DEEP)
def test_a_deep_recipe(root: Root, kit: Kit, how: str) -> None:
    path = root.place / RECIPE
    path.write_text(path.read_text() + "\n" + DEEP[how] + "\n")
    done = kit("show", path)
    assert done.status == 1 and done.err.startswith(f"kit: error: {path}:") and len(done.err) < 1000, done.err[:1000]


DEEP_FILES = {
    "a.json": "[" * 100_000 + "]" * 100_000,
    "a.toml": "a = " + "[" * 50_000 + "]" * 50_000,
    "a.yaml": "[" * 5_000 + "]" * 5_000,
    "a.py": "a = " + "(" * 5_000 + ")" * 5_000,
    "b.py": "a = " + "-" * 20_000 + "1",
    "c.py": "a" + ".b" * 10_000,
    "d.py": "if 1:\n  pass\n" + "elif 1:\n  pass\n" * 3_000,
    "laughs.yaml": "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in pairwise("abcdefghijklm")),
}


@pytest.mark.parametrize("name", DEEP_FILES)
def test_a_deep_file_in_a_workspace(root: Root, kit: Kit, name: str) -> None:
    root.overlay({name: DEEP_FILES[name]})
    assert kit("prepare", root.place / RECIPE, "--device", "npu", "made").status == 0
    done = kit("verify", "made")
    assert done.status in (0, 1) and "(tree, static): " in done.out, done


@pytest.mark.parametrize("name", ["b.py", "c.py", "d.py"])
def test_a_deep_script_upstream(root: Root, kit: Kit, name: str) -> None:
    pin = support.make_upstream(root.upstream, {"examples/train.py": support.TRAIN + DEEP_FILES[name]})
    path = root.recipe(upstream={"pin": pin})
    done = kit("prepare", path, "--device", "cpu", "made")
    assert done.status == 1 and "expressions too deep to read" in done.err, done
    assert "examples/train.py:1: " in done.err
