"""The fork server, with an environment of this Python alone: what forks see, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support

from kit.errors import KitError
from kit.smoke import process
from kit.smoke.forkserver import Server, serve

# What torchrun and accelerate's launcher are to the zygote, in the words of torch/distributed/run.py and
# accelerate/commands/launch.py.
LAUNCHERS = {
    "torch/__init__.py": """\
import types
default_generator = types.SimpleNamespace(manual_seed=lambda number: globals().update(seeded=number))
def set_num_threads(number):
    global threads
    threads = number
""",
    "torch/distributed/__init__.py": "",
    "torch/distributed/run.py": """\
import os, sys, types
def elastic_launch(config, entrypoint):
    return lambda *words: print(f"an agent for {config.max_nodes} machines")
def run(nodes, processes, words):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = types.SimpleNamespace(max_nodes=nodes, nproc_per_node=processes, rdzv_endpoint="", rdzv_backend="static")
    config.role, config.run_id = "", ""
    elastic_launch(config=config, entrypoint=sys.executable)("-u", *words)
def main(words):
    run(int(words[0]), int(words[1]), words[2:])
""",
    "accelerate/__init__.py": "",
    "accelerate/commands/__init__.py": "",
    "accelerate/commands/launch.py": """\
import argparse, os, subprocess, sys
import torch.distributed.run as distrib_run
def launch_command_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("words", nargs="...")
    return parser
def launch_command(args):
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "no"}
    if args.num_processes > 1:
        os.environ.update(environment)
        return distrib_run.run(1, args.num_processes, args.words)
    command = [sys.executable, *args.words]
    process = subprocess.Popen(command, env=environment)
    process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(returncode=process.returncode, cmd=command)
""",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin of an environment that has this Python and the launchers."""
    place = tmp_path_factory.mktemp("environment")
    support.write(place / "packages", LAUNCHERS)
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(sys.executable)
    for name in ("python3", "accelerate", "torchrun"):
        (place / "bin" / name).write_text(f'#!/bin/sh\necho "the real {name} $*"\n')
        (place / "bin" / name).chmod(0o755)
    return place / "bin"


@pytest.fixture(scope="module")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": str(programs.parent / "packages"), "HF_HUB_OFFLINE": "1"}
    imports = ("json", "xml.dom.Node", "accelerate.commands.launch")
    with serve(programs, imports, environment, tmp_path_factory.mktemp("work") / "a folder's name") as served:
        yield served


Ask = Callable[..., process.Done]


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Ask:
    """``ask(script, *words)``: what the script's text does as script.py in a fork; ``by`` is the program's words."""

    def run(
        script: str, *words: str, by: tuple[str, ...] = ("python",), limit: float = 20, **variables: str
    ) -> process.Done:
        (tmp_path / "script.py").write_text(script)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
        return server.run([*by, "script.py", *words], tmp_path, environment, tmp_path / "logs" / "run.log", limit)

    return run


def test_a_fork_is_as_a_new_interpreter(ask: Ask, tmp_path: Path) -> None:
    """Line for line what the script prints where this Python runs it, its list of modules apart."""
    code = """
import os, resource, sys
old = os.umask(0)
print(sys.argv, os.getcwd(), oct(old), sys.path[0], __name__, __file__, __spec__, sys.modules["__main__"].__file__)
print(resource.getrlimit(resource.RLIMIT_NOFILE), os.environ["GIVEN"], input(), sys.stdin.read())
print(sorted(os.environ.items() - {(name, os.environ[name]) for name in ("KIT_SMOKE", "_")}), file=sys.stderr)
"""
    inner = 'umask 027; ulimit -Sn 99; printf "one\\ntwo" | "$@"'
    outputs = []
    for program in ("python", sys.executable):
        done = ask(code, "a b", "c", by=("bash", "-c", inner, "-", program), GIVEN="ü", PYTHONUNBUFFERED="1")
        assert done.status == 0, done.text()
        outputs.append(done.text())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("import sys; print('one'); sys.exit(3)", 3, "one"),
        ("raise SystemExit('launch.py: error: no model')", 1, "launch.py: error: no model"),
        ("raise ValueError('no such flag')", 1, "ValueError: no such flag"),
        ("x = = 1", 1, "SyntaxError: invalid syntax"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, "it printed nothing"),
        ("import atexit; atexit.register(print, 'at exit'); print('here', end=' ')", 0, "here at exit"),
    ],
)
def test_it_ends_as_the_script_does(ask: Ask, code: str, status: int, last: str) -> None:
    done = ask(code)
    assert (done.status, done.last_error()) == (status, last)
    assert "zygote" not in done.text()


def test_a_script_that_is_not_there(server: Server, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = server.run(["python", "trian.py"], tmp_path, environment, tmp_path / "log", 20)
    assert (done.status, "can't open file 'trian.py'" in done.text()) == (2, True)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (["python", "-c", "import sys; print(len(sys.argv), 'json' in sys.modules)"], "1 False"),
        (["python", "-m", "this"], "The Zen of Python, by Tim Peters"),
        (["python", "-u", "script.py"], "False"),
        (["python3", "--version"], "the real python3 --version"),
        (["accelerate", "env"], "the real accelerate env"),
    ],
)
def test_what_else_it_is_asked_is_the_real_program(
    server: Server, tmp_path: Path, command: list[str], printed: str
) -> None:
    (tmp_path / "script.py").write_text("import sys; print('xml.dom' in sys.modules)")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = server.run(command, tmp_path, environment, tmp_path / "log", 20)
    assert done.status == 0 and done.text().splitlines()[0] == printed


@pytest.mark.parametrize(
    ("variable", "value"), [("HF_HUB_OFFLINE", "0"), ("KIT_STANDIN_DEVICES", "2"), ("DS_ACCELERATOR", "npu")]
)
def test_another_value_of_what_is_read_at_import_is_the_real_program(ask: Ask, variable: str, value: str) -> None:
    code = "import sys; print('xml.dom' in sys.modules)"
    assert ask(code).text() == "True\n"
    assert ask(code, **{variable: value}).text() == "False\n"


def test_random_numbers_are_those_of_a_fresh_process(ask: Ask) -> None:
    code = "import random; print(random.random())"
    assert ask(code).text() != ask(code).text()


def test_torch_is_seeded_and_has_the_threads_it_would_have(ask: Ask) -> None:
    code = "import torch; print(torch.seeded, getattr(torch, 'threads', 'all'))"
    assert ask(code).text() == "67280421310721 all\n"  # torch.initial_seed() of a new process
    assert ask(code, OMP_NUM_THREADS="3").text() == "67280421310721 3\n"


def test_sitecustomize_of_the_run(ask: Ask, tmp_path: Path) -> None:
    """With the run's environment, as a launch script's PYTHONPATH brings it in."""
    support.write(tmp_path, {"here/sitecustomize.py": "import os; print('sees', os.environ['WORLD'])\n"})
    assert ask("print('then')", PYTHONPATH="here", WORLD="2").text() == "sees 2\nthen\n"
    assert ask("print('then')").text() == "then\n"


def test_an_instrument_comes_before_the_script(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "instrument.py").write_text("import json, os, sys; json.rank = os.environ['RANK'], sys.argv[1:]\n")
    by = ("torchrun", "1", "2")
    code = "import json, os; os.write(1, f'{json.rank}\\n'.encode())"  # a line at once: two ranks share the output
    done = ask(code, "x", by=by, KIT_INSTRUMENT=str(tmp_path / "instrument.py"))
    assert sorted(done.text().splitlines()) == ["('0', ['x'])", "('1', ['x'])"]


@pytest.mark.parametrize(
    "by",
    [
        ("torchrun", "1", "2"),
        ("python", "-m", "torch.distributed.run", "1", "2"),
        ("bash", "-c", 'exec torchrun 1 2 "$@"', "-"),
    ],
)
def test_torchrun_forks_a_rank_each(ask: Ask, by: tuple[str, ...]) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR OMP_NUM_THREADS"
    done = ask(
        "import os; os.write(1, (' '.join([*(os.environ[name] for name in "
        f"{names!r}.split()), str(os.environ['MASTER_PORT'].isdigit())]) + chr(10)).encode())",
        by=by,
    )
    assert sorted(done.text().splitlines()) == ["0 0 2 2 127.0.0.1 1 True", "1 1 2 2 127.0.0.1 1 True"]
    assert done.status == 0


def test_several_machines_are_torchruns_own(ask: Ask) -> None:
    assert ask("print('forked')", by=("torchrun", "2", "2")).text() == "an agent for 2 machines\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerates_launcher_makes_the_environment(ask: Ask, processes: int) -> None:
    by = ("accelerate", "launch", f"--num_processes={processes}")
    said = "f\"{os.environ['ACCELERATE_MIXED_PRECISION']} {os.environ.get('RANK')}\\n\""
    done = ask(f"import os; os.write(1, {said}.encode())", by=by)  # at once: two ranks share the output
    assert sorted(done.text().splitlines()) == (["no None"] if processes == 1 else ["no 0", "no 1"])


def test_accelerates_launcher_says_what_failed(ask: Ask) -> None:
    done = ask("raise ValueError('no')", by=("accelerate", "launch", "--num_processes=1"))
    assert (done.status, done.last_error()) == (1, "ValueError: no")
    assert "CalledProcessError" in done.text()


def test_where_one_rank_fails_the_others_are_ended(ask: Ask) -> None:
    code = "import os, time\nos.write(1, b'%d\\n' % os.getpid())\n"
    code += "if os.environ['RANK'] == '1': raise ValueError('no')\ntime.sleep(600)"
    done = ask(code, by=("torchrun", "1", "2"))
    assert (done.status, done.last_error()) == (1, "ValueError: no")
    assert "torchrun: error: rank 0 ended with -15, rank 1 ended with 1" in done.text()
    assert all(support.gone(int(line)) for line in done.text().splitlines() if line.isdigit())


def test_a_rank_that_does_not_heed_is_killed(ask: Ask) -> None:
    code = """
import os, signal, time
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("ready", "w").close()
    time.sleep(600)
while not os.path.exists("ready"):
    time.sleep(0.01)
raise ValueError("no")
"""
    done = ask(code, by=("torchrun", "1", "2"))
    assert done.status == 1 and "rank 0 ended with -9" in done.text()


@pytest.mark.parametrize("session", ["", "os.setsid(); "], ids=["in its group", "in a session of its own"])
@pytest.mark.parametrize("by", [("python",), ("bash", "-c", '"$@"; :', "-", "torchrun", "1", "2")], ids=["one", "two"])
def test_a_hang_is_ended_with_every_process_gone(ask: Ask, session: str, by: tuple[str, ...]) -> None:
    code = f"import os, time; {session}os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)"
    done = ask(code, by=by, limit=2)
    pids = list(map(int, done.text().split()))
    assert done.status is None and len(pids) == (2 if len(by) == 1 else 4)
    assert all(map(support.gone, pids))


def test_a_client_that_is_gone_takes_its_ranks_along(server: Server, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([str(server.python), "script.py"], cwd=tmp_path, env=environment, stdout=-1) as client:
        assert client.stdout
        pid = int(client.stdout.readline())
        client.send_signal(signal.SIGKILL)
    assert support.gone(pid)


def test_nothing_is_left_of_a_server(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with serve(programs, (), os.environ, tmp_path / "forks") as server:
        server.wait()
        client = subprocess.Popen([str(server.python), "script.py"], cwd=tmp_path, stdout=-1, stderr=-1)
        assert client.stdout
        pid = int(client.stdout.readline())
    assert support.gone(pid) and support.gone(server.zygote.pid)
    assert client.wait(10) == 1
    client.communicate()


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        (("json", "no_such_module"), "No module named 'no_such_module'"),
        (("starts_a_thread",), "2 threads run once starts_a_thread"),
    ],
)
def test_imports_that_fail(programs: Path, tmp_path: Path, imports: tuple[str, ...], said: str) -> None:
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    support.write(tmp_path, {"starts_a_thread.py": thread})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with serve(programs, imports, environment, tmp_path / "forks") as server, pytest.raises(KitError, match=said):
        server.run(["true"], tmp_path, environment, tmp_path / "log", 20)
