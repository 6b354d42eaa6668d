"""SD3's inference and evaluation scripts, as far as they go without torch."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kit import devices, overlay, planning, recipe, recipes

TEXT, IMAGE = "infer_sd3_text2img.py", "infer_sd3_img2img.py"
LORA, DISTRIB = "infer_sd3_text2img_lora.py", "infer_sd3_text2img_distrib.py"
EVALUATE = "evaluate_sd3.py"
SCRIPTS = [TEXT, IMAGE, LORA, DISTRIB, EVALUATE]
LORA_FILE = "pytorch_lora_weights.safetensors"


def render(device: str, into: Path) -> Path:
    """The Python and text files of the overlay as kit renders it for a device."""
    found, profile = recipes.load("sd3"), devices.load(device)
    context = planning.context(found, profile, recipe.Cluster(processes=profile.processes))
    scripts = next(each for each in found.overlay if each.source == "sd3")
    into.mkdir(parents=True)
    for path, (_, content) in overlay.render(found.roots, scripts, context).items():
        (into / Path(path).name).write_bytes(content)
    return into


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with models, LoRA, CLIP and an image that pass the checks."""
    work = tmp_path / "my work"
    for name in ("model", "trained", "trained/checkpoint-9/transformer", "sdxl", "lora", "clip"):
        (work / name).mkdir(parents=True)
    for name in ("model", "trained"):
        (work / name / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    (work / "sdxl/model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    (work / "trained/checkpoint-9/transformer/config.json").write_text("{}")
    (work / "lora" / LORA_FILE).touch()
    (work / "clip/preprocessor_config.json").touch()
    (work / "cat.png").touch()
    return work


@pytest.fixture
def infer(tmp_path: Path, work: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call a script, rendered for the CPU, where it stops when it is about to load a library."""
    tree = render("cpu", tmp_path / "tree")
    for name in ("torch", "diffusers", "accelerate", "torchmetrics"):
        (tree / f"{name}.py").write_text("raise SystemExit('loading')\n")

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = ["--model", "model"]
        given += ["--lora", "lora"] if script == LORA else []
        given += ["--clip", "clip"] if script == EVALUATE else []
        command = [sys.executable, str(tree / script), *given, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=work)

    return run


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of the rendered overlay."""
    monkeypatch.syspath_prepend(render("cpu", tmp_path / "modules"))
    names = ("inference", "prompt_utils", "evaluation")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def constants(path: Path) -> dict[str, object]:
    body = ast.parse(path.read_text("utf-8")).body
    values = {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign)}
    plain = {name: value.value for name, value in values.items() if isinstance(value, ast.Constant)}
    return {**{name: ast.unparse(value) for name, value in values.items()}, **plain}


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu"])
def test_constants_are_the_seeds(device, tmp_path):
    tree = render(device, tmp_path / "tree")
    common = {
        "MODEL_PATH": "stabilityai/stable-diffusion-3.5-large",
        "OUTPUT_PATH": "./infer_result",
        "DEVICE": device,
        "DTYPE": "torch.bfloat16" if device == "cpu" else "torch.float16",
    }
    assert constants(tree / TEXT) == common
    assert constants(tree / IMAGE) == {**common, "IMAGE_PATH": "cat.png"}
    assert constants(tree / LORA) == {**common, "LORA_WEIGHTS": "./output/pytorch_lora_weights.safetensors"}
    small = {name.lower(): value for name, value in common.items()}
    assert constants(tree / DISTRIB) == {**small, "lora_weights": ""}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("torch.float16", "loading"),  # as the source document shows
        ('"float16"', "loading"),
        ("torch.float61", "DTYPE: float61: give one of bfloat16, float16, float32"),
        ('"half"', "DTYPE: half: give one of bfloat16, float16, float32"),
    ],
)
def test_dtype_may_be_torchs_or_its_name(script: str, written: str, said: str, infer, tmp_path: Path) -> None:
    path = tmp_path / "tree" / script
    text, edited = re.subn(r"(?m)^(DTYPE|dtype) = .*$", rf"\1 = {written}", path.read_text())
    assert edited == 1
    path.write_text(text)
    done = infer(script, *(["--lora", "lora"] if script == EVALUATE else []))
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu"])
def test_python_3_8_reads_every_file(device, tmp_path):
    files = sorted(render(device, tmp_path / "tree").glob("*.py"))
    assert {path.name for path in files} == {*SCRIPTS, "inference.py", "prompt_utils.py", "evaluation.py"}
    for path in files:
        ast.parse(path.read_text("utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("script", SCRIPTS)
def test_good_options_reach_the_loading(script, infer):
    more = ["--trained", "trained"] if script == EVALUATE else []
    done = infer(script, "--size", "1280x720", "--seeds", "0,1", "2", "--prompts", "a cat", "a dog", *more)
    assert done.stderr == "loading\n"


def test_a_lora_may_be_left_out_where_the_script_has_none(infer):
    assert infer(DISTRIB, "--lora=lora").stderr == "loading\n"
    assert infer(LORA, "--lora=").stderr.startswith(f"{LORA}: error: --lora: no {LORA_FILE} in ")


def test_hub_names_pass(infer):
    assert infer(LORA, "--model=a/b", "--lora=me/lora").stderr == "loading\n"
    assert infer(EVALUATE, "--model=a/b", "--lora=me/lora", "--trained=me/tuned", "--clip=a/clip").stderr == "loading\n"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (TEXT, ["--model=nowhere"], "--model: no folder nowhere (from "),
        (TEXT, ["--model=sdxl"], "--model: sdxl is a StableDiffusionXLPipeline: give a Stable Diffusion 3 or 3.5"),
        (TEXT, ["--size=1000"], "--size: 1000: sides must be multiples of 16: give 992x992"),
        (TEXT, ["--steps=0"], "--steps: 0: give a whole number from 1"),
        (TEXT, ["--seeds=-1"], "--seeds: -1: give whole numbers from 0"),
        (TEXT, ["--prompts", "prompts.txt"], "--prompts: no file prompts.txt (from "),
        (IMAGE, ["--image=dog.png"], "--image: no file dog.png (from "),
        (IMAGE, ["--strength=0"], "--strength: 0.0: give a number above 0, at most 1"),
        (LORA, ["--lora=model"], f"--lora: no {LORA_FILE} in model: give the training's output folder"),
        (DISTRIB, ["--lora=nowhere"], "--lora: no file or folder nowhere (from "),
        (EVALUATE, [], "nothing to compare: give --lora, --trained or both"),
        (EVALUATE, ["--trained=sdxl"], "--trained: sdxl is a StableDiffusionXLPipeline"),
        (EVALUATE, ["--trained=lora"], "--trained: no model_index.json or transformer/config.json in lora"),
        (EVALUATE, ["--lora=lora", "--clip=model"], "--clip: no preprocessor_config.json in model"),
        (EVALUATE, ["--lora=lora", "--font=none.ttf"], "--font: no file none.ttf (from "),
    ],
)
def test_mistakes_are_one_line(script, arguments, message, infer):
    done = infer(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_without_torchmetrics_nothing_is_drawn(infer, tmp_path):
    (tmp_path / "tree/torchmetrics.py").unlink()
    assert infer(EVALUATE, "--lora=lora").stderr.startswith(f"{EVALUATE}: error: torchmetrics cannot be imported")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_torch(script, infer):
    done = infer(script, "--help")
    assert done.returncode == 0
    for option in ("model", "prompts", "seeds", "steps", "size", "guidance", "output", "device", "dtype", "offload"):
        assert f"--{option} " in done.stdout
    assert ("--lora " in done.stdout) == (script in (LORA, DISTRIB, EVALUATE))
    assert ("--strength " in done.stdout) == (script == IMAGE)
    assert ("does not say" in done.stdout) == (script == EVALUATE)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 8])
def test_each_image_is_drawn_by_one_process(count, processes, modules):
    share, jobs = modules("inference").share, [(f"prompt {number}", 0) for number in range(count)]
    shares = [share(jobs, rank, processes) for rank in range(processes)]
    assert sorted(job for each in shares for job in each) == jobs
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_fixed_prompts_are_read(modules):
    evaluation, inference = modules("evaluation"), modules("inference")
    prompts = inference.read_prompts([str(evaluation.PROMPTS)])
    assert len(prompts) == 16
    assert not any(prompt.startswith("#") for prompt in prompts)


def rows(*scores: tuple[str, int, float, float]) -> list[dict[str, object]]:
    return [
        {"prompt": prompt, "seed": seed, "base": {"score": base}, "lora": {"score": lora}}
        for prompt, seed, base, lora in scores
    ]


def test_summary_and_table(modules):
    evaluation = modules("evaluation")
    scored = rows(("a cat", 0, 20.0, 23.0), ("a cat", 1, 22.0, 23.0), ("a dog", 0, 30.0, 30.0), ("a dog", 1, 30, 30.0))
    result = evaluation.summary(scored, ["base", "lora"])
    assert result["means"] == {"base": 25.5, "lora": 26.5}
    assert result["differences"] == {"lora": {"mean": 1.0, "standard_error": pytest.approx(1.0)}}
    assert result["prompts"][0] == {"prompt": "a cat", "base": 21.0, "lora": 23.0}
    assert evaluation.table(result) == [
        "   base     lora     lora - base  prompt",
        "  21.00    23.00           +2.00  a cat",
        "  30.00    30.00           +0.00  a dog",
        "  25.50    26.50    +1.00 ± 1.00  mean CLIP score, ± one standard error over the prompts",
    ]


def test_one_prompt_has_no_standard_error(modules):
    evaluation = modules("evaluation")
    result = evaluation.summary(rows(("a cat", 0, 20.0, 19.999)), ["base", "lora"])
    assert result["differences"]["lora"]["standard_error"] is None
    assert evaluation.table(result)[-1].split()[:3] == ["20.00", "20.00", "+0.00"]
    json.dumps(result)


def test_what_is_drawn_with_what(modules, work, tmp_path):
    evaluation = modules("evaluation")
    given = {"model": "model", "output": tmp_path, "lora": (str(work / "lora"), LORA_FILE)}

    def drawn(**more: object) -> dict[str, tuple[object, ...]]:
        found = evaluation.variants(Namespace(**{**given, **more}))
        assert all(options.output == tmp_path / name for name, options in found.items())
        return {name: (options.model, options.trained, options.lora) for name, options in found.items()}

    whole, part = str(work / "trained"), str(work / "trained/checkpoint-9")
    base, lora = ("model", "", None), ("model", "", given["lora"])
    assert drawn(trained="") == {"base": base, "lora": lora}
    assert drawn(trained=whole) == {"base": base, "trained": (whole, "", None), "lora": lora}
    assert drawn(trained=part, lora=None) == {"base": base, "trained": ("model", part, None)}


def test_changed_weights_are_another_state(modules, work):
    state = modules("evaluation").state
    weights = work / "model/transformer/weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    first = state(str(work / "model"))
    assert state(str(work / "model")) == first
    weights.write_bytes(b"three")
    assert state(str(work / "model")) != first
    assert state("org/model") == "org/model"
    assert state(str(work / "lora" / LORA_FILE)).startswith(str(work / "lora" / LORA_FILE))
