"""CONTRIBUTING.md's worked example: its files are written, its commands run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import recipes
from kit.commands import prepare, refresh, show, verify

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The files the page names, in a folder of their own."""
    files = dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return files


def test_the_page_names_one_file_of_each_kind(example):
    assert {path.split("/")[0] for path in example} == {"fixes", "profiles", "recipes", "overlays", "tiny"}
    assert len(example) == 6


def test_worked_example(example, tmp_path, capsys):
    name = "recipes/hello.toml"
    assert refresh.run((name,), check=False, offline=True) == 0
    assert [path.name for path in (tmp_path / "patches/hello/hello").iterdir()] == ["01-flush-at-end.patch"]
    assert refresh.run((name,), check=True, offline=True) == 0
    assert show.run(name, as_json=False) == 0
    assert "flush the output after main()" in capsys.readouterr().out

    options = {
        "without": (),
        "extras": (),
        "settings": (),
        "profile": "",
        "dry_run": False,
        "offline": True,
        "force": False,
        "as_json": False,
    }
    assert prepare.run(name, "abacus", None, **options) == 0
    nothing = {"smoke": False, "parity": False, "red": False, "steps": (), "cases": (), "fixes": ()}
    assert verify.run(("hello-abacus",), **nothing, report="", as_json=False) == 0  # type: ignore[arg-type]
    script = Path("hello-abacus/hello/scripts/run.sh")
    assert 'export ABACUS_BEADS="${ABACUS_BEADS:-10}" # beads on a rod' in script.read_text("utf-8")
    Path("model.json").write_text('{"weight": 2}')
    done = subprocess.run(["bash", str(script), "--model=model.json"], capture_output=True, text=True, check=True)
    assert done.stdout == "trained 3 steps, from 2\n"


def test_the_pages_own_ruff_takes_the_example(example):
    config = PAGE.with_name("ruff.toml")
    for command in (["check"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", str(config), "."]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_command_of_the_page_is_run_here():
    told = re.findall(r"^    kit (\w+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert told == ["refresh", "show", "prepare", "verify", "env", "verify"]


def test_recipes_named_by_path_have_their_own_root(example):
    assert recipes.load("recipes/hello.toml").root == Path.cwd()
