"""How a training ends: children, signals, and what is said of a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launching import SCRIPT, Machine
from test_launcher_model import pickled
from test_launcher_odd import Make
from test_launcher_training import GOOD, STEPS, alive, start, training


def test_children_that_go_on_printing_are_ended(script: Make, machine: Machine) -> None:
    noisy = "import time\nwhile True: print('still here', flush=True); time.sleep(0.05)"
    training(
        machine,
        f"child = subprocess.Popen([sys.executable, '-c', {noisy!r}], start_new_session=True)\n"
        f"open('pids', 'w').write(str(child.pid))\n{STEPS}",
    )
    run = machine.launch(script())
    assert (run.status, alive(machine)) == (0, [])


def test_last_words_of_a_child_are_kept(script: Make, machine: Machine) -> None:
    """As of a `tee`, which ends after what it is fed by."""
    training(machine, "subprocess.Popen(['sh', '-c', 'sleep 0.1; echo last words'])\n")
    assert "last words" in machine.launch(script()).stdout


def test_a_training_that_closes_its_output_is_waited_for(script: Make, machine: Machine) -> None:
    training(machine, "os.close(1); os.close(2); time.sleep(1); open('done', 'w'); os._exit(3)\n")
    assert machine.launch(script()).status == 3 and (machine.root / "work/done").exists()


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGHUP])
def test_other_signals_that_end(number: signal.Signals, script: Make, machine: Machine) -> None:
    training(machine, f"open('pids', 'w').write(str(os.getpid()))\n{STEPS}time.sleep(300)\n")
    process = start(script(), machine)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, alive(machine)) == (128 + number, [])
    assert "interrupted at step 4" in err


ASKED = (
    f"stop = open(os.environ['LAUNCHER_STOP'], 'a+')\n{STEPS}while not os.path.getsize(stop.name): time.sleep(0.1)\n"
)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_notice_of_a_scheduler_asks_to_save(number: signal.Signals, script: Make, machine: Machine) -> None:
    """Which is not an error of the training's: the status is that of the signal, by which it may be started again."""
    training(machine, f"{ASKED}print(stop.write('saved'), file=stop, flush=True)\n")
    process = start(script(), machine)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, list((machine.root / "work/out").glob("*.stop"))) == (128 + number, [])
    assert "interrupted at step 4" in err


def test_a_notice_in_the_last_step_ends_nothing(script: Make, machine: Machine) -> None:
    """Sent to every process, as Slurm does: the training's do not mind."""
    training(machine, f"{ASKED}os.kill(os.getpid(), signal.SIGUSR1)\nprint('done')\n")
    process = start(script(), machine)
    os.kill(process.pid, signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and "done" in out


def test_a_second_sigterm_does_not_wait_for_a_save(script: Make, machine: Machine) -> None:
    training(machine, f"{ASKED}print('asked', flush=True)\ntime.sleep(300)\n")
    process = start(script(), machine)
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout
    assert any("asked" in line for line in process.stdout)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=25)
    assert process.returncode == 128 + signal.SIGTERM


def test_an_ignored_hangup_stays_ignored(script: Make, machine: Machine) -> None:
    training(machine, f"{STEPS}time.sleep(1.5)\nopen('done', 'w')\n")
    process = start(script(), machine)  # `nohup`, but for where the output goes
    process.kill()
    process.communicate()
    command = f"trap '' HUP; bash '{script()}' {' '.join(GOOD)} & sleep 1.2; kill -HUP $!; wait $!"
    done = subprocess.run(["bash", "-c", command], cwd=machine.root / "work", env=machine.env, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_before_the_training_is_one_line(script: Make, machine: Machine) -> None:
    (machine.root / "modules/PIL.py").unlink()
    (machine.root / "modules/PIL").mkdir()
    (machine.root / "modules/PIL/__init__.py").touch()
    (machine.root / "modules/PIL/Image.py").write_text(
        "import os, time\nopen(os.environ['RECORD'] + '/opening', 'w')\n"
        "def open(path): time.sleep(1); raise OSError('cannot identify')\n"
    )
    process = subprocess.Popen(
        ["bash", script(), *GOOD],
        cwd=machine.root / "work",
        env=machine.env,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (machine.root / "record/opening").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, f"{SCRIPT}: interrupted before the training started\n")


def test_a_state_that_is_cut_short_is_not_offered(machine: Machine, tmp_path: Path) -> None:
    from launcher import options, report, session, training

    state = options.Option("resume", "state", "", states="*-state*")
    demo = options.Program("", "python", "", "", (), {}, {})
    program = options.Program("", "python", "", "", (state,), {}, {})
    done = training.Done(130, 2, report.Steps(last=7), "", False)
    output = tmp_path / "my out"
    for age, (name, part) in enumerate({"a-state": 1.0, "b-state": 0.5}.items()):
        (output / name).mkdir(parents=True)
        (output / name / "random_states_0.pkl").write_bytes(pickled(part))
        os.utime(output / name, (age, age))
    assert session.stopped(done, program, output) == "interrupted at step 7: go on with --resume=latest"
    (output / "a-state/random_states_0.pkl").unlink()
    assert session.stopped(done, program, output) == "interrupted at step 7: no checkpoint was saved yet"
    assert session.stopped(done, demo, output) == "interrupted at step 7"
    (output / "checkpoint-5").mkdir()
    assert (
        session.stopped(done, demo, output) == f"interrupted at step 7; the newest checkpoint is {output}/checkpoint-5"
    )


def test_ctrl_c_twice(script: Make, machine: Machine) -> None:
    body = "count = []\nsignal.signal(signal.SIGINT, lambda *_: (count.append(1), print('told', flush=True)))\n"
    training(
        machine,
        f"{body}open('pids', 'w').write(str(os.getpid()))\n{STEPS}"
        "while len(count) < 2: time.sleep(0.05)\nsys.exit(1)\n",
    )
    process = start(script(), machine)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.count("told"), alive(machine)) == (130, 2, [])
    assert err == f"{SCRIPT}: interrupted at step 4: no checkpoint was saved yet\n"
