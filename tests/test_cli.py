"""The command line: exit statuses, one clear line for what is wrong, JSON, completion, and what is imported when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from support import Done, Root, kit_argv, kit_process, write

from kit import __version__, devices, recipes
from kit.cli import cli
from kit.commands import list as list_command
from kit.errors import KitError

Kit = Callable[..., Done]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help(kit: Kit, command: str, flag: str) -> None:
    done = kit(*filter(None, [command, flag]))
    assert (done.status, done.err) == (0, "") and done.out.startswith(f"Usage: kit {command}".rstrip())
    assert all(len(line) <= 80 for line in done.out.splitlines())


@pytest.mark.parametrize("command", cli.commands.values(), ids=list(cli.commands))
def test_every_option_says_what_it_does(command: click.Command) -> None:
    assert command.help and command.help.splitlines()[0].endswith((".", ","))
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_no_command_is_help(kit: Kit) -> None:
    assert kit() == kit("--help")


def test_version(kit: Kit) -> None:
    assert kit("--version").out == f"kit, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["prepair"], "No such command 'prepair'", "kit --help"),
        (["--verbose"], "No such option", "kit --help"),
        (["prepare"], "Missing argument 'RECIPE'.", "kit prepare --help"),
        (["prepare", "demo", "--devise", "cpu"], "No such option", "kit prepare --help"),
        (["prepare", "demo", "made", "more"], "Got unexpected extra argument (more)", "kit prepare --help"),
        (["prepare", "demo", "--machines", "two"], "Invalid value for '--machines'", "kit prepare --help"),
        (["list", "--json=yes"], "Option '--json' does not take a value.", "kit"),
    ],
)
def test_wrong_command_line(kit: Kit, arguments: list[str], said: str, hint: str) -> None:
    done = kit(*arguments)
    first, second = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert first.startswith(f"kit: error: {said}") and second.startswith(f"  {hint}") and second.endswith("--help")


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (["prepare", "demo"], "which device? demo supports npu, cuda, cpu\n  kit prepare demo --device npu"),
        (
            ["prepare", "demo", "--device", "cdua"],
            "recipe demo does not support device 'cdua'; did you mean 'cuda'?\n  supported: npu, cuda, cpu",
        ),
        (
            ["show", "dmo"],
            "unknown recipe 'dmo'; did you mean 'demo'?\n  known recipes: {recipes}; or give the path of a .toml",
        ),
        (["show", "x.toml"], "{cwd}/x.toml: No such file or directory\n  run `kit list` for the recipes there are"),
        (["doctor", "--device", "npux"], "unknown device 'npux'; did you mean 'npu'?\n  known devices: {devices}"),
        (["status"], "there is no workspace at or below {cwd}\n  make one: kit prepare RECIPE --device DEVICE"),
        (["verify", "nowhere"], "{cwd}/nowhere is not a folder\n  give the folder of a workspace"),
        (
            ["verify", "--fix", "weights-pop"],
            "--fix is for --red, which is not given\n  kit verify --red --fix weights-pop",
        ),
    ],
)
def test_expected_errors(kit: Kit, arguments: list[str], err: str) -> None:
    names = {"recipes": ", ".join(recipes.names()), "devices": ", ".join(devices.names()), "cwd": Path.cwd()}
    assert kit(*arguments) == Done(1, "", f"kit: error: {err.format(**names)}\n")


def test_interrupted(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(as_json: bool) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(list_command, "run", interrupt)
    done = kit("list")
    assert (done.status, done.out) == (130, "")
    assert done.err.strip() == ("kit: error: interrupted\n  nothing was left half-written; run the same command again")


def test_a_bug_leaves_a_log(kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(as_json: bool) -> int:
        return len(None)  # type: ignore[arg-type]

    monkeypatch.setattr(list_command, "run", fail)
    done = kit("list")
    log = tmp_path / "cache/kit.log"
    assert (done.status, done.out) == (3, "")
    assert done.err == (
        "kit: error: unexpected TypeError: object of type 'NoneType' has no len()\n"
        f"  this is a bug in kit; please report it with {log}\n"
    )
    text = log.read_text()
    assert f"kit {__version__}, Python {sys.version}" in text and "Traceback" in text and "return len(None)" in text
    monkeypatch.setenv("KIT_CACHE", str(log))  # a file, not a folder
    assert kit("list").err.endswith("please report it with (the log could not be written)\n")


def test_a_bug_that_is_an_os_error(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(as_json: bool) -> int:
        raise FileNotFoundError(2, "No such file or directory", "internal")

    monkeypatch.setattr(list_command, "run", missing)
    assert kit("list").status == 3


def test_an_error_of_kits_is_no_bug(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(as_json: bool) -> int:
        print("half a report")
        raise KitError("no")

    monkeypatch.setattr(list_command, "run", refuse)
    assert kit("list") == Done(1, "half a report\n", "kit: error: no\n")


@pytest.mark.parametrize("arguments", [["list"], ["show", "demo"], ["--help"]])
def test_the_reader_goes_away(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(kit_argv(*arguments), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_json(kit: Kit) -> None:
    listed = kit("list", "--json").json
    assert {each["name"] for each in listed["recipes"]} == set(recipes.names())
    assert [each["name"] for each in listed["devices"]] == devices.names()
    shown = kit("show", "demo", "--json").json
    assert shown["name"] == "demo" and len(shown["fix"]) == 7 and all(fix["why"] for fix in shown["fix"])
    dry = kit("prepare", "demo", "--device", "cpu", "--dry-run", "--json").json
    assert not dry["changed"] and dry["upstreams"]["demo"]["commit"] is None
    made = kit("prepare", "demo", "--device", "cpu", "--json").json
    assert made["changed"] and made["workspace"] == "demo-cpu" and made["backup"] is None
    outcomes = {fix["id"]: fix["outcome"] for fix in made["upstreams"]["demo"]["fixes"]}
    assert outcomes.pop("weights-pop") == "satisfied" and set(outcomes.values()) == {"applied"}
    assert kit("prepare", "demo", "--device", "cpu", "--json").json["changed"] is False
    (status,) = kit("status", "--json").json
    assert status["device"] == "cpu" and status["edits"] == []
    assert status["upstreams"]["demo"]["commit"] == made["upstreams"]["demo"]["commit"]
    Path("demo-cpu/notes").write_text("mine")
    assert kit("status", "--json").json[0]["edits"] == [{"upstream": "", "kind": "untracked", "path": "notes"}]
    (verified,) = kit("verify", "--json").json
    assert verified["verified"] is True and {check["level"] for check in verified["checks"]} == {"tree", "static"}
    wrong = kit("verify", "--red", "--fix", "weights-pup").err
    assert "demo-cpu: no fix 'weights-pup' here; did you mean 'weights-pop'?\n  its fixes: " in wrong
    doctor = kit("doctor", "--device", "npu", "--json")
    assert doctor.status == (0 if doctor.json["ok"] else 1)
    names = [finding["name"] for finding in doctor.json["findings"]]
    assert names[:5] == ["git", "Python", "bash", "uv", "cache"] and "torch_npu package" in names


def test_doctor(kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = kit("doctor")
    assert done.status == 0 and "found    git: " in done.out
    assert f"kit doctor --device {{{','.join(devices.names())}}}" in done.out
    npu = kit("doctor", "--device", "npu")
    assert npu.status == 1 and "MISSING  torch_npu package" in npu.out and "pip install 'torch_npu==2.7.1'" in npu.out
    tpu = kit("doctor", "--device", "tpu")
    for command in ("sudo dpkg -i sophon-*.deb", "pip install torch_tpu-2.1.0.post1-cp39-cp39-linux_x86_64.whl"):
        assert tpu.status == 1 and f"\n           {command}" in tpu.out
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = kit("doctor")
    assert bare.status == 1 and "MISSING  git: not on PATH\n         install git 2.29 or newer" in bare.out
    assert "MISSING  bash" in bare.out and "absent   uv" in bare.out


TORCH = """
__version__ = "2.1.0"
class Tensor:
    def __sub__(self, other): return self
    def __getattr__(self, name): return lambda *arguments: self
    def item(self): return {difference}
rand = lambda *shape: Tensor()
class nn:
    class Linear:
        def __init__(self, *sizes): pass
        def __call__(self, batch): return batch
        def to(self, device): return self
class no_grad:
    __enter__ = __exit__ = lambda *arguments: None
"""


@pytest.mark.parametrize(
    ("difference", "package", "found", "said"),
    [
        ("1e-6", "", True, "torch 2.1.0 computes on tpu: at most 1e-06 from the CPU's result"),
        ("0.5", "", False, "tpu computes something else: it is 0.5 from the CPU's result"),
        ("float('nan')", "", False, "tpu computes something else"),
        ("0", "raise ImportError('libsophon.so: no such file')", False, "tpu cannot be used: libsophon.so"),
    ],
    ids=["right", "wrong", "not a number", "not there"],
)
def test_doctor_tries_the_device(
    difference: str, package: str, found: bool, said: str, kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the Python on PATH, where torch and the device's package are."""
    write(tmp_path / "modules", {"torch.py": TORCH.format(difference=difference), "torch_tpu.py": package})
    python = f'#!/bin/sh\nPYTHONPATH={tmp_path}/modules exec {sys.executable} "$@"\n'
    write(tmp_path / "bin", {"python3*": python})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    findings = {each["name"]: each for each in kit("doctor", "--device", "tpu", "--json").json["findings"]}
    assert findings["torch_tpu package"]["detail"] == f"{tmp_path}/modules/torch_tpu.py"
    tried = findings["a layer on the device"]
    assert tried["found"] is found and tried["detail"].startswith(said)


def test_show_needs_no_network(root: Root, kit: Kit) -> None:
    path = root.recipe(upstream={"url": "https://example.invalid/up"})
    done = kit("show", path)
    assert done.status == 0 and done.err == ""
    for said in ("Tiny", root.pin, "1. weights-pop: guard", "IndexError", "examples/train.py", "run.sh", "helper.py"):
        assert said in done.out
    assert not (Path(os.environ["KIT_CACHE"]) / "upstreams").exists()


def test_shows_the_published_figures(kit: Kit) -> None:
    out = kit("show", "hidream").out
    for figure in ("18.37", "19.61", "1.27", "1.88"):
        assert figure in out


def test_shows_which_setting_a_published_figure_belongs_to(root: Root, kit: Kit) -> None:
    common = {"metric": "FPS", "cards": 8, "source": "a page", "batch_size": 4, "details": "flips are random"}
    figures = [
        {**common, "task": "training", "value": 10, "chip": "one"},
        {**common, "task": "training", "value": 20.5, "chip": "another"},
        {**common, "task": "training", "value": 1, "chip": "one", "batch_size": 1},
    ]
    options = [{"name": "rate", "default": 1, "meaning": "m"}]
    profiles = [{"name": "published", "set": {"rate": 2}, "meaning": "as measured"}]
    path = root.recipe(figure=figures, option=options, profile=profiles)
    shown = kit("show", path).out
    assert shown.partition("reports)\n")[2] == (
        "  training, with 8 cards, batch 4\n    flips are random\n    10 FPS    one\n    20.5 FPS  another\n"
        "  training, with 8 cards, batch 1\n    flips are random\n    1 FPS  one\n"
        f"  their settings: kit prepare {path} --device cpu --profile published\n\n"
        f"next: kit prepare {path} --device cpu\n"
    )
    assert "--profile published" not in kit("show", root.recipe(figure=figures)).out


# Completion, as bash asks for it.


def complete(kit: Kit, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    monkeypatch.setenv("_KIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    return [line.partition(",")[2] for line in kit().out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kit pre", ["prepare"]),
        ("kit show de", ["demo"]),
        ("kit prepare ", recipes.names()),
        ("kit prepare demo --device c", ["cpu", "cuda"]),
        ("kit prepare demo --without pro", ["progress-print"]),
        ("kit prepare nothing --without pro", []),
        ("kit prepare --dry", ["--dry-run"]),
        ("kit doctor --device n", ["npu"]),
    ],
)
def test_completion(kit: Kit, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]) -> None:
    assert complete(kit, monkeypatch, words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(kit: Kit, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_KIT_COMPLETE", f"{shell}_source")
    done = kit()
    assert done.status == 0 and f"_KIT_COMPLETE={shell}_complete" in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, text=True, check=True)


# What is imported when.

HEAVY = ("git", "libcst", "jinja2", "rich", "unidiff", "yaml", "filelock", "kit.planning", "kit.workspace")
IMPORTED = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))"


def imported(*arguments: str | Path) -> set[str]:
    subprocess.run(kit_argv(*arguments, before=IMPORTED), check=True, capture_output=True)
    return set(Path("modules").read_text().split())


def test_help_imports_little() -> None:
    assert imported("--help").isdisjoint(HEAVY)
    assert imported("list").isdisjoint({*HEAVY} - {"filelock"})


def test_the_fast_path_needs_no_libcst(root: Root) -> None:
    path = root.place / "recipes/tiny.toml"
    found = imported("prepare", path, "--device", "cpu")
    assert {"kit.series", "unidiff"} <= found and found.isdisjoint({"libcst", "rich", "yaml", "kit.codemod"})
    for patch in root.patches().iterdir():
        patch.unlink()
    assert "libcst" in imported("refresh", path)  # what is looked for would be seen


def test_a_process_of_its_own() -> None:
    done = kit_process("list", "--json")
    assert done.status == 0 and json.loads(done.out)["recipes"]
    assert kit_process("verify").status == 1


def test_an_option_of_the_recipe(kit: Kit, root: Root) -> None:
    """`--name value` is `--set name=value`; what is not at its default is said, rendered and kept in the lock."""
    options = [
        {"name": "speed", "default": 1, "meaning": "how fast"},
        {"name": "kind_of", "default": "fast", "choices": ["fast", "slow"], "meaning": "how"},
    ]
    profile = [{"name": "slow", "set": {"speed": 0}, "meaning": "no hurry"}]
    recipe_file = root.recipe(option=options, profile=profile)
    root.overlay({"run.txt.j2": "{{ options.speed }} {{ options.kind_of }}\n"})
    made = [
        (["--set", "speed=2"], "2 fast\n", {"speed": 2}),
        (["--speed", "2"], "2 fast\n", {"speed": 2}),
        (["--speed=3", "--kind-of=slow"], "3 slow\n", {"speed": 3, "kind_of": "slow"}),
        (["--profile", "slow"], "0 fast\n", {"speed": 0}),
        (["--profile", "slow", "--set", "speed=1"], "1 fast\n", {}),
    ]
    commits = set()
    for words, text, kept in made:
        done = kit("prepare", recipe_file, "--device", "cpu", "made", "--force", *words)
        assert (done.status, done.err) == (0, ""), done
        assert ("  options: " in done.out) == bool(kept)
        assert Path("made/up/examples/run.txt").read_text("utf-8") == text
        locked = json.loads(Path("made/kit.lock").read_text("utf-8"))
        assert locked["options"] == kept
        commits.add(locked["upstreams"]["up"]["commit"])
    assert len(commits) == 4
    wrong = kit("prepare", recipe_file, "--device", "cpu", "made", "--sped", "2")
    assert wrong.status == 2 and "No such option" in wrong.err
    shown = kit("show", recipe_file).out
    assert "  kind_of  fast  how (one of fast, slow)\n" in shown and "  slow  no hurry: speed=0\n" in shown


def test_an_extra_fix(kit: Kit, root: Root) -> None:
    """`--with` applies it, the lock keeps it, `kit verify` looks for it; without it nothing says it was left out."""
    fixes = [
        {"id": "weights-pop", "files": ["examples/train.py"]},
        {"id": "progress-print", "files": ["examples/train.py"], "extra": True},
    ]
    recipe_file = root.recipe(fix=fixes)
    root.refresh()
    for words, applied in (([], ["weights-pop"]), (["--with", "progress-print"], ["weights-pop", "progress-print"])):
        done = kit("prepare", recipe_file, "--device", "cpu", "made", *words)
        assert (done.status, done.err) == (0, "")
        locked = json.loads(Path("made/kit.lock").read_text("utf-8"))
        assert [fix["id"] for fix in locked["upstreams"]["up"]["fixes"]] == applied
        assert locked["extras"] == applied[1:]
        verified = kit("verify", "made").out
        assert ("fix progress-print holds" in verified) == (len(applied) == 2) and "left out" not in verified
    assert "progress-print (only with --with progress-print)" in kit("show", recipe_file).out
    assert kit("prepare", recipe_file, "--device", "cpu", "made", "--with", "weights-pop").status == 1
