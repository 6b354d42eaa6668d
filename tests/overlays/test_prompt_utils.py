"""HiDream's inference scripts' options, and overlays/shared/inference.py, as far as they go without torch."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from launching import OVERLAYS, render

SCRIPTS = ["infer_hidream_text2img_bf16.py", "infer_hidream_text2img_lora_bf16.py"]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inference", OVERLAYS / "shared/inference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


utils = load()


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """A model, a Llama and a LoRA that pass the checks."""
    files = {"model": "model_index.json", "llama": "config.json", "lora": "pytorch_lora_weights.safetensors"}
    for folder, name in files.items():
        (tmp_path / "my models" / folder).mkdir(parents=True)
        (tmp_path / "my models" / folder / name).touch()
    return {folder: tmp_path / "my models" / folder for folder in files}


@pytest.fixture
def infer(tmp_path: Path, paths: dict[str, Path]):
    """Call an inference script, rendered for the CPU, where it stops when it is about to load torch."""
    tree = render("cpu", tmp_path / "tree")
    (tree / "transformer_patches.py").write_text("raise SystemExit('loading')\n")

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = [word for name in ("model", "llama") for word in (f"--{name}", str(paths[name]))]
        if "lora" in script:
            given += ["--lora", str(paths["lora"])]
        return subprocess.run(
            [sys.executable, tree / script, *given, *arguments], capture_output=True, text=True, cwd=tmp_path
        )

    return run


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_constants_are_the_seeds(script, device, tmp_path):
    tree = ast.parse((render(device, tmp_path) / script).read_text())
    pairs = [(node.targets[0].id, node.value.value) for node in tree.body if isinstance(node, ast.Assign)]
    constants = dict(pairs)
    assert constants.pop("LORA_PATH", None) == ("./hidream-dreambooth-lora" if "lora" in script else None)
    assert constants == {
        "MODEL_PATH": "HiDream-ai/HiDream-I1-Full",
        "FORTH_PATH": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "OUTPUT_PATH": "./infer_result",
        "DEVICE": device,
        "DTYPE": "bfloat16",
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_good_options_reach_the_loading(script, infer):
    done = infer(script, "--size", "1280x720", "--seeds", "0,1", "2", "--prompts", "a cat", "a dog")
    assert done.stderr.strip() == "loading"


def test_hub_names_pass(infer):
    assert infer(SCRIPTS[1], "--model=a/b", "--llama=meta-llama/Llama-3.1", "--lora=me/lora").stderr == "loading\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nowhere"], "--model: no folder nowhere (from "),
        (["--model=/no/model"], "--model: no folder /no/model (from "),
        (["--model=."], "--model: no model_index.json in .: give the folder that has it"),
        (["--llama=tree/prompt_utils.py"], "--llama: tree/prompt_utils.py is a file: give the folder it is in"),
        (["--lora=./nowhere"], "--lora: no file or folder ./nowhere (from "),
        (["--lora=tree"], "--lora: no pytorch_lora_weights.safetensors in tree: give the training's output folder"),
        (["--prompts", "prompts.txt"], "--prompts: no file prompts.txt (from "),
        (["--prompts", " "], "--prompts: empty"),
        (["--seeds", "1", "x"], "--seeds: x: give whole numbers from 0"),
        (["--steps=0"], "--steps: 0: give a whole number from 1"),
        (["--size=1000"], "--size: 1000: sides must be multiples of 16: give 992x992"),
        (["--size=big"], "--size: big: give pixels, N or WxH"),
    ],
)
def test_mistakes_are_one_line(arguments, message, infer):
    done = infer(SCRIPTS[1], *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{SCRIPTS[1]}: error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_help_needs_no_torch(infer):
    done = infer(SCRIPTS[0], "--help")
    assert done.returncode == 0
    for option in ("model", "llama", "prompts", "seeds", "steps", "size", "guidance", "output", "device"):
        assert f"--{option} " in done.stdout
    assert "--lora" not in done.stdout


def test_prompts_of_files(tmp_path):
    text, lines, array = tmp_path / "a.txt", tmp_path / "metadata.jsonl", tmp_path / "c.json"
    text.write_text("\ufeff# a comment\n\n  a cat  \r\na dog\n", encoding="utf-8")
    lines.write_text('{"file_name": "0.jpg", "prompt": "a llama"}\n\n"a cat"\n')
    array.write_text(json.dumps(["一只猫", {"prompt": "a dog"}]))
    assert utils.read_prompts([str(text)]) == ["a cat", "a dog"]
    assert utils.read_prompts([str(lines), "a bird", str(text)]) == ["a llama", "a cat", "a bird", "a dog"]
    assert utils.read_prompts([str(array)]) == ["一只猫", "a dog"]
    assert utils.read_prompts(["x " * 3000]) == [("x " * 3000).strip()]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# only this\n", "no prompt in it"),
        ("a.jsonl", '"a"\n{oops\n', "not JSON: line 2: "),
        ("a.json", '{"prompt": "a"}', "a list of prompts was expected"),
        ("a.jsonl", '{"text": "a"}\n', "entry 1 is no prompt"),
    ],
)
def test_bad_prompt_files(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(utils.Mistake, match=message):
        utils.read_prompts([str(tmp_path / name)])


def test_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xd8")
    with pytest.raises(utils.Mistake, match="save it as UTF-8"):
        utils.read_prompts([str(tmp_path / "a.txt")])


def test_images_never_overwrite_each_other():
    long = "a very long prompt that goes on and on and differs only at its very end: "
    prompts = ["a cat", "A cat", "a cat!", "a/cat", "../../a cat", "一只猫", "一只狗", "!!", long + "1", long + "2"]
    settings = [{}, {"steps": 20}, {"size": (512, 512)}, {"lora": ("out", None)}]
    images = [(prompt, seed, values) for prompt in prompts for seed in (0, 1, 11) for values in settings]
    names = [utils.image_name(*image) for image in images]
    assert len({name.lower() for name in names}) == len(images)
    assert all("/" not in name and len(name.encode()) < 255 for name in names)
    assert names == [utils.image_name(*image) for image in images]


def test_lora_folders(paths, tmp_path):
    lora = paths["lora"]
    assert utils.check_lora(str(lora)) == (str(lora), utils.LORA_FILE)
    assert utils.check_lora(str(lora / utils.LORA_FILE)) == (str(lora), utils.LORA_FILE)
    assert utils.check_lora("me/lora") == ("me/lora", None)
    output = tmp_path / "output"
    for step in (500, 1000):
        (output / f"checkpoint-{step}").mkdir(parents=True)
        (output / f"checkpoint-{step}" / utils.LORA_FILE).touch()
    with pytest.raises(utils.Mistake, match=r"give .*output/checkpoint-1000$"):
        utils.check_lora(str(output))


def test_seeds_and_sizes():
    assert utils.read_seeds(["0,1", "2", "1"]) == [0, 1, 2]
    assert utils.read_size("512") == (512, 512)
    assert utils.read_size("1280x720") == (1280, 720)
    assert utils.choose_device("cpu") == "cpu"


def test_doctests():
    assert doctest.testmod(utils).failed == 0


def test_requirements(tmp_path):
    common = {"torch==2.7.1", "torchvision==0.22.1", "transformers==4.47.1", "accelerate==1.10.0", "peft==0.17.1"}
    common |= {"datasets==3.6.0", "deepspeed==0.17.2", "lycoris-lora==3.4.0"}
    for device, more in {"npu": {"torch_npu==2.7.1"}, "cuda": set(), "cpu": set()}.items():
        text = (render(device, tmp_path / device) / "mm_requirements_hidream.txt").read_text()
        pins = {line.split("#")[0].strip() for line in text.splitlines() if "==" in line.split("#")[0]}
        assert pins == common | more
