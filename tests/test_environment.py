"""The reference environment, with a uv that only notes what it is asked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support import Done, Root, write

from kit import environment, recipes
from kit.errors import KitError

UV = """#!/bin/sh
echo "$@" >> "$UV_LOG"
[ "$1" != venv ] || { for last; do :; done; mkdir -p "$last/bin"; }
[ "$1 $2" != "pip compile" ] || { echo "torch==2.7.1"; for last; do :; done; tee -a "$UV_LOG" < "$last"; }
[ "$1 $2" != "pip install" ] || [ -z "$UV_FAILS" ] || { echo "x No solution found: torch is not torch" >&2; exit 1; }
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the uv above first on PATH; the file its calls are in."""
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text(UV)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_LOG", str(tmp_path / "uv.log"))
    return tmp_path / "uv.log"


@pytest.fixture
def place(root: Root, kit: object) -> Path:
    """A workspace of the recipe `tiny`, which has a lock."""
    path = root.place / "recipes" / "tiny.toml"
    assert kit("prepare", path, "--device", "cpu", "made").status == 0  # type: ignore[operator]
    lock = environment.lock_path(recipes.load(str(path)))
    lock.parent.mkdir()
    lock.write_text("# installed: 0.1 GB\ntorch==2.7.1\nnumpy==2.2.6 ; python_version < '3.11'\n")
    return path


def env(kit: object, *words: str | Path) -> Done:
    return kit("env", *words)  # type: ignore[operator, no-any-return]


def test_it_is_built_once_and_listed_and_removed(place: Path, uv: Path, kit: object) -> None:
    write(Path("made/up"), {"setup.py": ""})
    done = env(kit, place, "--device", "cpu", "made", "--json")
    made = json.loads(done.out)
    assert (done.status, made["packages"]) == (0, 2)
    assert "2 packages, about 0.1 GB on disk" in done.err
    calls = uv.read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["venv", "pip", "pip"]
    assert f"-r {environment.lock_path(recipes.load(str(place)))}" in calls[1]
    assert "--no-deps --editable" in calls[2]
    again = env(kit, place, "--device", "cpu", "made")
    assert again.status == 0 and again.err == "" and len(uv.read_text().splitlines()) == 3
    assert made["path"] in env(kit, place, "--list").out
    (compiled,) = [each.extensions for each in environment.installed()]
    compiled.mkdir(parents=True)
    assert env(kit, place, "--remove").out.startswith("removed ")
    assert not Path(made["path"]).exists() and not compiled.exists()
    assert "there is no environment" in env(kit, place, "--list").out


def test_a_stamp_of_another_kit_is_listed_and_removed(place: Path, uv: Path, kit: object) -> None:
    made = json.loads(env(kit, place, "--device", "cpu", "made", "--json").out)
    stamp = Path(made["path"]) / environment.STAMP
    table = json.loads(stamp.read_text())
    del table["lock"]
    stamp.write_text(json.dumps({**table, "from_another_version": 1}))
    assert made["path"] in env(kit, place, "--list").out
    assert env(kit, place, "--remove").status == 0 and not Path(made["path"]).exists()


def test_each_environment_keeps_what_it_compiles_to_itself() -> None:
    """Its folder is in the compiler's flags: shared, each run of the one would have the other compile again."""
    one, other = (
        environment.Environment(Path(name), "tiny", "cpu", name, lock="the same") for name in ("one", "other")
    )
    assert one.extensions != other.extensions


def test_another_lock_is_another_environment(place: Path, uv: Path, kit: object) -> None:
    first = json.loads(env(kit, place, "--device", "cpu", "made", "--json").out)["path"]
    lock = environment.lock_path(recipes.load(str(place)))
    lock.write_text(lock.read_text() + "peft==0.17.1\n")
    assert json.loads(env(kit, place, "--device", "cpu", "made", "--json").out)["path"] != first


def test_a_conflict_is_uvs_own_words_and_one_line_of_advice(
    place: Path, uv: Path, kit: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_FAILS", "1")
    done = env(kit, place, "--device", "cpu", "made")
    assert done.status == 1
    assert "No solution found: torch is not torch" in done.err
    assert done.err.splitlines()[-1].strip().startswith("change the pins under [environment.packages]")
    monkeypatch.delenv("UV_FAILS")
    assert env(kit, place, "--device", "cpu", "made").status == 0  # what was half-built was built anew


def test_without_a_lock(place: Path, uv: Path, kit: object) -> None:
    environment.lock_path(recipes.load(str(place))).unlink()
    done = env(kit, place, "--device", "cpu", "made")
    assert done.status == 1 and "has no requirements lock" in done.err and "--lock" in done.err


def test_lock_keeps_the_measured_size(place: Path, uv: Path, kit: object) -> None:
    assert env(kit, place, "--device", "cpu", "made", "--lock").status == 0
    text = environment.lock_path(recipes.load(str(place))).read_text()
    assert text.splitlines()[1:] == ["# installed: 0.1 GB", "torch==2.7.1"]


def test_the_trees_are_resolved_together_and_are_not_in_the_lock(place: Path, uv: Path, kit: object) -> None:
    (Path("made") / "up" / "setup.py").write_text("")
    assert env(kit, place, "--device", "cpu", "made", "--lock").status == 0
    assert uv.read_text().splitlines()[-1] == f"-e {Path('made/up').absolute().as_uri()}"
    assert "-e" not in environment.lock_path(recipes.load(str(place))).read_text()


def test_another_torch_is_another_python_and_lock(root: Root, uv: Path, kit: object) -> None:
    """As the workspace was prepared: by an option, or by the default on its device."""
    options = {"name": "torch", "default": "2.7.1", "choices": ["2.7.1", "2.1.0"], "meaning": "torch"}
    other = {"python": "3.9", "packages": {"numpy": "1.26.4"}}
    environment_ = {"python": "3.10", "packages": {"torch": "2.7.1", "peft": "0.17.1"}, "other": {'"2.1.0"': other}}
    path = root.recipe(environment=environment_, option=[options])
    assert kit("prepare", path, "--device", "cpu", "plain").status == 0  # type: ignore[operator]
    assert kit("prepare", path, "--device", "cpu", "made", "--set", "torch=2.1.0").status == 0  # type: ignore[operator]
    assert env(kit, path, "--device", "cpu", "plain", "--lock").status == 0
    done = env(kit, path, "--device", "cpu", "made", "--lock")
    assert done.out == f"wrote {path.with_suffix('')}/requirements-torch-2.1.0.txt\n"
    calls = uv.read_text().splitlines()
    assert "--python-version 3.9" in calls[-4] and calls[-3:] == ["torch==2.1.0", "peft==0.17.1", "numpy==1.26.4"]
    assert env(kit, path, "--device", "cpu", "made").status == 0
    assert "requirements-torch-2.1.0.txt" in uv.read_text().splitlines()[-1], "a tree that is no package is left alone"


def test_uv_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(KitError, match="uv was not found on PATH"):
        environment.uv("pip", "list")


def test_find_python() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = environment.find_python(here)
    assert Path(found).is_absolute() and os.access(found, os.X_OK)
    assert environment.find_python("3.99") == "3.99"


def test_programs_start_without_what_is_about_the_callers_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    monkeypatch.setenv("KEPT", "1")
    variables = environment.variables()
    assert variables["KEPT"] == "1" and not {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"} & set(variables)
