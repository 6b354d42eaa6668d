"""Odd settings, odd paths and odd outputs, through the launch scripts: one line each, or a training that goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import SCRIPT, Machine, render
from test_launcher_training import BARS, GOOD, training

Make = Callable[..., Path]


@pytest.fixture
def work(machine: Machine) -> Path:
    (machine.root / "work/file").write_text("a file")
    return machine.root / "work"


# ---- the script


def test_a_copy_under_another_name_and_a_link(script: Make, machine: Machine) -> None:
    """People keep a copy of the script for each run."""
    copy = script().with_name("my run.sh")
    shutil.copy(script(), copy)
    (machine.root / "link.sh").symlink_to(script())
    for path in (copy, machine.root / "link.sh"):
        assert machine.launch(path).status == 0
        assert machine.launch(path, "--rank=0").stderr.startswith(f"{path.name}: error: --rank is")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-", "| true"])
def test_inputs_and_outputs_that_are_closed(closed: str, script: Make, machine: Machine) -> None:
    machine.prints(BARS + "\n")
    command = f"set -o pipefail; bash '{script()}' {' '.join(GOOD)} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=machine.root / "work", env=machine.env, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    (log,) = (machine.root / "work/out").glob("*.log")
    assert "Final Train Loss : 0.4" in log.read_text()


def test_a_terminal_that_cannot_show_it(script: Make, machine: Machine, tmp_path: Path) -> None:
    folder = render("cpu", tmp_path / "sdxl", name="sdxl")
    for encoding in ("ascii", "latin-1"):
        path = folder / "test/pretrain_full_1m_1p_sdxl.sh"  # whose --help has a …
        assert machine.launch(path, "--help", good=False, PYTHONIOENCODING=encoding).status == 0


def test_names_that_are_not_utf_8(script: Make, work: Path, machine: Machine) -> None:
    training(machine, "open('argv', 'wb').write(os.fsencode('\\n'.join(sys.argv)))\n")
    (work / "d\udcff").symlink_to("data")
    run = machine.launch(script(), "--output_dir=o\udcff", "--dataset_name=d\udcff", PYTHONUTF8="1")
    assert run.status == 0, run.stderr
    assert b"--output_dir=o\xff\n" in (work / "argv").read_bytes()


# ---- settings


@pytest.mark.parametrize("value", ["yes", "", "True", "1"])
def test_a_check_that_is_asked_for_oddly_does_not_train(value: str, script: Make, machine: Machine) -> None:
    run = machine.launch(script(), f"--check={value}")
    assert (run.status, run.argv) == (2, [])
    assert run.stderr == f"{SCRIPT}: error: --check is true or false, not '{value}'\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output_dir=file"], "--output_dir: {work}/file is no folder: give another place"),
        (["--output_dir=file/out"], "--output_dir: {work}/file is no folder"),
        (["--log_file=data"], "--log_file: data is a folder: give a file in it"),
        (["--log_file=file/log"], "--log_file: {work}/file is no folder"),
        (["--log_file=/dev/full"], "No space left on device"),
        (["--output_dir=/proc/none"], "/proc/none: No such file or directory"),
        (["--num_processors=2", "--main_port=70000"], "--main_port is 70000, but ports end at 65535: give another one"),
        (["--resolution=99999999999999999999"], "not a multiple of 16: 100000000000000000000"),
    ],
)
def test_one_line(arguments: list[str], said: str, script: Make, work: Path, machine: Machine) -> None:
    run = machine.launch(script(), *arguments)
    assert (run.status, run.argv) == (2, [])
    assert said.format(work=work) in run.stderr and run.stderr.count("\n") == 1
    if not arguments[0].startswith(("--log_file=/dev", "--output_dir=/proc")):
        assert machine.launch(script(), "--check", *arguments).stderr == run.stderr or "port" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("machine_rank: 0", "machine_rank: null", ""),
        ("num_machines: 1", "num_machines: two", "--machines is a whole number from 1, not 'two' as c.yaml has it"),
        ("num_machines: 1", "num_machines: 0", "--machines is a whole number from 1, not '0' as c.yaml has it"),
        ("num_machines: 1", "num_machines: 1\nmain_process_port: ~", ""),
        ("num_machines: 1", "num_machines: 1 # caf\udce9", ""),
    ],
)
def test_a_config_that_was_edited(old: str, new: str, said: str, script: Make, work: Path, machine: Machine) -> None:
    training(machine, "")
    text = script().with_name("bf16_accelerate_config.yaml").read_text().replace(old, new)
    (work / "c.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    run = machine.launch(script(), "--config_file=c.yaml", "--num_processors=2")
    assert (run.status, said in run.stderr, "Traceback" in run.stderr) == (2 if said else 0, True, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min_bucket_reso=abc"], "--min_bucket_reso is a whole number from 1, not 'abc'"),
        (["--resolution=256"], "--resolution is 256, beyond the buckets: from --min_bucket_reso=512"),
        (["--resolution="], ""),
        (["--optimizer_type=nonsense"], "--optimizer_type is one of OSS, AdamW, AdaFactor, "),
        (["--optimizer_type=adamw8"], "--optimizer_type is one of OSS, AdamW, AdaFactor, "),
        (["--optimizer_type=adafactor"], ""),
        (["--optimizer_type=torch.optim.SGD"], ""),
        (["--lr_scheduler=.*"], "--lr_scheduler is one of constant, constant_with_warmup, linear, cosine, cosine_with"),
    ],
)
def test_values_of_sdxl(arguments: list[str], said: str, machine: Machine, tmp_path: Path) -> None:
    from launcher import options
    from launcher.mistake import Mistake

    path = render("cpu", tmp_path / "sdxl", name="sdxl") / "test/launcher/programs.json"
    program = options.program(json.loads(path.read_text())["pretrain_full_1m_1p_sdxl.sh"])
    first = {"resolution": "1024", "enable_bucket": "true", "min_bucket_reso": "512", "max_bucket_reso": "2048"}
    good = {option.name: "false" for option in program.named("switch")}
    good.update(train_batch_size="1", gradient_accumulation_steps="1", output_dir="out", nproc_per_node="1")
    good.update(mixed_precision=program.precisions[0], **first)
    settings = options.read(program, good, arguments)
    try:
        options.check(program, settings)
    except Mistake as mistake:
        assert said and str(mistake).startswith(said) and "[" not in str(mistake)
    else:
        assert not said


def test_an_environment_variable_of_a_settings_name_is_none(script: Make, machine: Machine) -> None:
    run = machine.launch(script(), seed="7", rank="99", output_dir="elsewhere")
    assert (run.status, run.value("--seed"), run.value("--rank")) == (0, None, "8")


# ---- what a training prints


def test_a_training_that_prints_odd_things(script: Make, machine: Machine) -> None:
    """Numbers that are none, binary, and 60 million characters without an end of line, which take seconds."""
    training(
        machine,
        "for odd in ('val_loss=0.5-epoch3', 'eval loss: 0.25...', 'val_loss=2024-01-01', 'val_loss=1e999',\n"
        f"            'Steps: 1/4 [1.2.3s/it]', 'Steps: ' + '1' * 5000 + '/4 [1s/it]', 'Steps: 999999999/4 [1s/it]',\n"
        f"            {BARS!r}):\n"
        "    print(odd, flush=True)\n"
        "sys.stdout.buffer.write(bytes(range(256)) * 9)\n"
        "for _ in range(60): sys.stdout.buffer.write(b'x' * 1000000)\n",
    )
    with (machine.root / "shown").open("wb") as shown:
        words = ["bash", script(), *GOOD]
        done = subprocess.run(words, cwd=machine.root / "work", env=machine.env, stdout=shown, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Final Train Loss : 0.4" in (machine.root / "shown").read_bytes()[-1000:]


def test_a_full_disk_ends_the_log_and_not_the_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launcher.report import Steps
    from launcher.training import Follower

    follower = Follower(Path("/dev/full"), Steps())
    for _ in range(3):
        follower.take(b"Steps: 1/4 [00:01<00:03, 1.00s/it]\n")
    follower.close()
    assert follower.full and follower.steps.last == 1
    assert capsys.readouterr().err == "warning: /dev/full: No space left on device: the log ends here\n"


def test_a_log_file_of_any_name_is_the_log(script: Make, work: Path, machine: Machine) -> None:
    """And nothing beside it is written over."""
    machine.prints(BARS + "\n")
    (work / "config.json").write_text("mine")
    for name in ("run.json", "config.txt"):
        assert machine.launch(script(), f"--log_file={name}").status == 0
        assert "Final Train Loss" in (work / name).read_text()
    assert (work / "config.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "subprocess.CalledProcessError: Command '['python', 'x']' died with <Signals.SIGKILL: 9>.",
            "it was killed: by the system, if memory ran out (dmesg says so)",
        ),
        ("  traceback : Signal 9 (SIGKILL) received by PID 77", "it was killed: by the system"),
        ("  traceback : Signal 11 (SIGSEGV) received by PID 77", "the training died with SIGSEGV"),
        ("ValueError: first\n  traceback : Signal 6 (SIGABRT) received by PID 77", "ValueError: first"),
    ],
)
def test_a_process_that_was_killed_is_said_so(printed: str, said: str, script: Make, machine: Machine) -> None:
    machine.prints(f"{printed}\n")
    run = machine.launch(script(), FAKE_STATUS="1")
    assert run.stderr.startswith(f"{SCRIPT}: error: {said}")


def test_an_older_python_is_one_line(script: Make) -> None:
    main = script().parent / "launcher/__main__.py"
    text = main.read_text()
    before, _, _ = text.partition("sys.dont_write_bytecode")
    assert "version_info < (3, 8)" in before and before.count("import") == 1  # nothing that an older one cannot read
    main.write_text(text.replace("(3, 8)", "(9, 9)"))
    done = subprocess.run([sys.executable, main.parent, SCRIPT, SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("is older than Python 3.8: activate the environment first\n")


def test_a_prepared_data_set_of_an_odd_name(tmp_path: Path) -> None:
    from launcher import checks, options

    place = tmp_path / "d\udcff\u2028"
    place.mkdir()
    (tmp_path / "prepare_data.py").write_text("import sys\nprint('4 images', sys.argv[1], sys.argv[2], sep='\\n')\n")
    option = options.Option("dataset_name", "captioned", "")
    program = options.Program("", "torchrun", "", "", (option,), {"output": "output_dir"}, {})
    settings = options.Settings({"dataset_name": str(place), "captions": ".txt", "output_dir": str(tmp_path / "out")})
    checks.prepared(option, settings, "captions", program, tmp_path)
    assert settings["dataset_name"] == str(place)
