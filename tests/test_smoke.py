"""The parts of the smoke run that need no reference environment."""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import support

from kit import devices, recipes
from kit.environment import Environment
from kit.paths import TreePath
from kit.proof import Red, Smoke, SmokeStep
from kit.recipe import FixStep
from kit.smoke import findings, process, red, scratch
from kit.smoke import run as smoke
from kit.smoke.endpoint import no_hub
from kit.smoke.ground import Run


def run(code: str, tmp_path: Path, limit: float = 20) -> process.Done:
    return process.run([sys.executable, "-c", code], tmp_path, os.environ, tmp_path / "logs" / "run.log", limit)


def test_exit_status_and_output(tmp_path: Path) -> None:
    done = run("import sys; print('one', flush=True); print('two', file=sys.stderr); sys.exit(3)", tmp_path)
    assert (done.status, done.text().split(), done.tail(1)) == (3, ["one", "two"], "two")


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("print('x'); raise ValueError('no such flag')", "ValueError: no such flag"),
        ("print('[rank0]: FileNotFoundError: gone'); print('done')", "[rank0]: FileNotFoundError: gone"),
        ("print('launch.sh: error: no model'); print('bye')", "launch.sh: error: no model"),
        ("print('just this')", "just this"),
        ("pass", "it printed nothing"),
    ],
)
def test_last_error(tmp_path: Path, said: str, last: str) -> None:
    assert run(said, tmp_path).last_error() == last


@pytest.mark.parametrize("session", ["False", "True"], ids=["in its group", "in a session of its own"])
def test_a_hang_is_ended_with_every_process_gone(tmp_path: Path, session: str) -> None:
    child = f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session={session})"
    start = time.monotonic()
    done = run(f"import subprocess, sys, time; print({child}.pid, flush=True); time.sleep(600)", tmp_path, limit=1)
    assert done.status is None and time.monotonic() - start < 10
    assert support.gone(int(done.text()))


def test_a_child_that_outlives_its_parent_is_ended(tmp_path: Path) -> None:
    done = run(
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "stdout=subprocess.DEVNULL, start_new_session=True).pid)",
        tmp_path,
    )
    assert done.status == 0 and support.gone(int(done.text()))


def test_the_hub_has_nothing_and_remembers_who_asked() -> None:
    with no_hub() as (url, requests):
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"{url}/my-lora/resolve/main/README.md")
        assert (missing.value.code, missing.value.headers["X-Error-Code"]) == (404, "RepoNotFound")
        assert requests == ["GET /my-lora/resolve/main/README.md"]


def test_as_a_proxy_it_hears_of_other_hosts() -> None:
    with no_hub() as (url, requests):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"https": url}))
        with pytest.raises(OSError):
            opener.open("https://pypi.example/simple")
        assert requests == ["CONNECT pypi.example:443"]


ASK = "import os, urllib.request as u; u.urlopen(os.environ['HF_ENDPOINT'] + '/x/resolve/main/README.md')"


def steps(tmp_path: Path, *some: SmokeStep, names: tuple[str, ...] = ()) -> list[smoke.StepReport]:
    """Run smoke steps in tmp_path with this Python in place of a reference environment."""
    made = Environment(tmp_path / "env", "demo", "cpu", str(tmp_path), 0, "", False)
    plan = Smoke(tiny="none", folder=".", step=some)
    where = Run(
        recipes.load("demo"), plan, devices.load("cpu"), made, tmp_path, tmp_path / "out", tmp_path / "tiny", {}
    )
    return list(smoke.smoke(where, names))


def step(code: str, **expected: object) -> SmokeStep:
    return SmokeStep(name="it", run=(sys.executable, "-c", code), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (step("print('FPS : 3')", prints={"a figure": "FPS : [0-9]"}), []),
        (step("print('FPS : ')", prints={"a figure": "FPS : [0-9]"}), ["prints a figure (looked for FPS : [0-9])"]),
        (step("raise ValueError('no')"), ["ends with exit status 0 (exit 1: ValueError: no)"]),
        (step("import time; time.sleep(60)", limit=1), ["ends within 1 s (it hung, and was ended)"]),
        (step("open('made', 'w')", files=("made", "{out}"), absent=("missing",)), []),
        (
            step("open('made', 'w')", files=("{out}/train/missing",), absent=("made",)),
            ["missing is there (looked for OUT/train/missing)", "made is not there (looked for made)"],
        ),
        (
            step(f"try: {ASK}\nexcept OSError: pass".replace("; u.", "\n    u.").replace("try: ", "try:\n    ")),
            ["asks nothing of the network (asked for GET /x/resolve/main/README.md)"],
        ),
        (step("pass", losses=2, events="{out}/none"), ["logs 2 finite losses (no loss was logged)"]),
        (step("pass", moved="{out}/none"), ["moves the weights it trains (0 of 0 moved, by up to 0)"]),
        (step("pass", images="{out}/none"), ["draws images, none of one colour (no image)"]),
        (step("pass", like="before"), ["has the losses of step before (0 equal)"]),
        (step("pass", unlike="before"), ["has other losses than step before (0 of 0 losses differ)"]),
        (step("pass", engine="deepspeed"), ["trains with deepspeed (nothing was prepared)"]),
    ],
)
def test_what_a_step_must_show(tmp_path: Path, given: SmokeStep, wrong: list[str]) -> None:
    where = tmp_path / "here"
    where.mkdir()
    os.chdir(where)
    (report,) = steps(where, given)
    told = [finding.told.replace(str(where / "out"), "OUT") for finding in report.findings if not finding.ok]
    assert told == wrong
    assert report.ok == (not wrong)


def test_without_losses_none_differ(tmp_path: Path) -> None:
    """A red that wants differing losses must not take a run that failed for one."""
    (report,) = steps(tmp_path, step("pass", like="before"))
    assert [finding.seen for finding in report.findings if not finding.ok] == ["0 equal"]


def test_a_bar_that_is_rewritten_is_not_a_line(tmp_path: Path) -> None:
    (report,) = steps(tmp_path, step("print('1/4', end='\\r'); print('2/4')", prints={"step 1": "1/4\n"}))
    assert [finding.what for finding in report.findings if not finding.ok] == ["prints step 1"]


def test_people_read_sentences_not_expressions() -> None:
    """What a step, a comparison or a red is said to show, in every recipe that comes with kit."""
    said = [
        text
        for name in recipes.names()
        if (plan := recipes.load(name).smoke)
        for step in plan.step
        for text in (*step.prints, *map(findings._below, (*step.files, *step.absent)))
    ]
    assert {"the last loss", "checkpoint-2", "checkpoint-4"} <= set(said)
    assert not [text for text in said if set(text) & set("{}[]\\*+^$|")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{out}/train/checkpoint-2", "checkpoint-2"),
        ("{out}/train/checkpoint-2/model.bin", "checkpoint-2/model.bin"),
        ("{out}/image.png", "image.png"),
        ("up/made", "up/made"),
    ],
)
def test_a_file_is_called_as_in_its_steps_folder(name: str, told: str) -> None:
    assert findings._below(name) == told


def test_an_allowed_request(tmp_path: Path) -> None:
    code = f"try:\n    {ASK}\nexcept OSError:\n    pass"
    (report,) = steps(tmp_path, step(code, requests=("README",)))
    assert report.ok
    (report,) = steps(tmp_path, step(code, requests=("LICENSE",)))
    assert [finding.seen for finding in report.findings if not finding.ok] == [
        "asked for GET /x/resolve/main/README.md"
    ]


def test_a_compilation_that_was_killed_does_not_hold_up_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's extension loader waits for the file `lock` to go, for ever."""
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    made = Environment(tmp_path / "env", "demo", "cpu", str(tmp_path))
    support.write(made.extensions, {"an_op/lock": "", "an_op/an_op.so": ""})
    monkeypatch.setattr(smoke.environment, "ensure", lambda *_: made)
    monkeypatch.setattr(smoke.models, "build", lambda *_: None)
    demo = replace(recipes.load("demo"), smoke=Smoke("none", ".", ()))
    with smoke.begin(demo, devices.load("cpu"), tmp_path, tmp_path / "work"):
        assert list(support.snapshot(made.extensions)) == ["an_op/an_op.so"]


def forking(tmp_path: Path, *names: str, imports: tuple[str, ...] = ("xml.dom",)) -> Run:
    """A run in an environment of this Python alone. Its steps print whether they are forked, and offline, and from a
    process that took a package from a red's copy of the tree."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    code = """
import os, sys
print("forked" if "xml.dom" in sys.modules else "new", end=" ")
print("offline" if os.environ.get("HF_HUB_OFFLINE") else "online", end="")
print(" copied" if "/tree/" in str(sys.modules.get("xml")) else "")
"""
    support.write(tmp_path, {"script.py": code, "up/examples/script.py": code})
    some = tuple(SmokeStep(name, ("python", "script.py"), prints={"never": "never"}) for name in names)
    made = Environment(tmp_path / "env", "demo", "cpu", str(tmp_path))
    plan = Smoke("none", ".", some, imports=imports)
    return Run(recipes.load("demo"), plan, devices.load("cpu"), made, tmp_path, tmp_path / "out", tmp_path, {})


def tails(reports: Iterable[smoke.StepReport]) -> list[str]:
    return [report.tail for report in reports]


def test_the_first_step_runs_as_a_user_runs_it_and_the_others_offline_in_forks(tmp_path: Path) -> None:
    with smoke.serving(forking(tmp_path, "one", "two", "three"), tmp_path / "forks") as run:
        assert tails(smoke.smoke(run)) == ["new online", "forked offline", "forked offline"]
        assert tails(smoke.smoke(run, ("two",))) == ["forked offline"]


def test_without_imports_no_step_is_forked(tmp_path: Path) -> None:
    with smoke.serving(forking(tmp_path, "one", "two", imports=()), tmp_path / "forks") as run:
        assert tails(smoke.smoke(run)) == ["new online", "new offline"]


def test_on_a_device_no_step_is_forked_and_through_its_stand_in_each_is(tmp_path: Path) -> None:
    here = replace(forking(tmp_path, "one", "two"), device=devices.load("npu"))
    with smoke.serving(here, tmp_path / "forks") as run:
        assert run.server is None
    with smoke.serving(replace(here, standin={"PYTHONPATH": "/standin"}), tmp_path / "forks") as run:
        assert run.server


@pytest.mark.parametrize(
    ("file", "online", "ran"),
    [
        ("examples/train.py", False, "forked offline"),
        ("examples/train.py", True, "new online"),
        ("src/xml/dom/__init__.py", False, "forked offline copied"),
    ],
    ids=["what is run", "what asks the hub", "what is imported already"],
)
def test_a_red_is_forked_from_what_has_not_the_fix(tmp_path: Path, file: str, online: bool, ran: str) -> None:
    given = forking(tmp_path, "one")
    support.write(
        tmp_path / "up", dict.fromkeys(("examples/train.py", "src/xml/__init__.py", "src/xml/dom/__init__.py"), "")
    )
    fixed = replace(given.recipe, fix=(FixStep("weights-pop", (TreePath(file),), "up"),))
    folder = replace(given.smoke, folder="up/examples")
    with smoke.serving(replace(given, recipe=fixed, smoke=folder), tmp_path / "forks") as run:
        report = red._red(run, Red("weights-pop", "never", ("one",), online=online), {})
    assert report.shown and tails(report.steps) == [ran]


def test_measured_in_the_words_of_the_published_figures() -> None:
    log = (
        "Final Performance images/sec : 1.25\nSettings : 2 cards, batch 4, bf16, 32 px, deepspeed\n"
        "E2E it/s : 0.5 (2 images, 2 steps, cpu, float32)\n"
    )
    assert list(smoke.measured(log)) == [
        {"value": 1.25, "metric": "FPS", "setting": "2 cards, batch 4, bf16, 32 px, deepspeed"},
        {"value": 0.5, "metric": "it/s", "setting": "2 images, 2 steps, cpu, float32"},
    ]
    assert not list(smoke.measured("Final Performance images/sec : unknown (no training step in the log)\n"))
    shown = [figure.setting for figure in recipes.load("hidream").figure]
    assert shown[0] == "8 cards, batch 8, bf16, torch 2.6, deepspeed"


@pytest.mark.parametrize(
    ("upstream", "file", "there", "imports"),
    [
        ("up", "examples/train.py", {"up/examples/train.py"}, []),
        ("up", "src/up/core.py", {"up/examples/train.py", "up/setup.py", "up/src/up/core.py"}, ["up/src"]),
        ("lib", "lib/core.py", {"up/examples/train.py", "lib/lib/core.py"}, ["lib"]),
    ],
    ids=["in the folder of the commands", "in the same upstream's package", "in another upstream"],
)
def test_a_fix_is_taken_out_of_the_packages_too(
    upstream: str, file: str, there: set[str], imports: list[str], tmp_path: Path
) -> None:
    """What the environment has installed is the workspace: the copy's packages come before it."""
    workspace, tree = tmp_path / "made", tmp_path / "tree"
    files = ("up/examples/train.py", "up/setup.py", "up/src/up/core.py", "up/.git/HEAD", "lib/lib/core.py")
    support.write(workspace, dict.fromkeys(files, "1\n"))
    made = Environment(tmp_path / "env", "demo", "cpu", str(workspace))
    fix = FixStep("weights-pop", (TreePath(file),), upstream)
    plan = Smoke("hidream", "up/examples", (SmokeStep("train", ("true",)),))
    found = replace(recipes.load("demo"), fix=(fix,))
    where = Run(found, plan, devices.load("cpu"), made, workspace / "up/examples", tmp_path, tmp_path, {})
    packages = scratch._copy(where, ("weights-pop",), (), tree)
    assert [path.relative_to(tree).as_posix() for path in packages] == imports
    assert set(support.snapshot(tree)) == there
    standin = {"PYTHONPATH": "/standin"}
    variables = smoke._variables(replace(where, standin=standin, imports=packages), "http://hub", offline=True)
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["PYTHONPATH"] == os.pathsep.join([*map(str, packages), "/standin"])
