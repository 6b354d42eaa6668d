"""`kit new`: a recipe to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import TRAIN, Kit, Root, git, make_upstream

from kit import recipes
from kit.starter import arguments

TWO = TRAIN.replace("            weights.pop()\n", "            weights.pop()\n            weights.pop()\n")


def test_a_recipe_that_works(root: Root, kit: Kit) -> None:
    pin = make_upstream(root.upstream, {"examples/two.py": TWO})
    git("tag", "-a", "v1", "-m", "v1", at=root.upstream)
    done = kit("new", "mine", root.upstream, "v1", "examples/train.py", "examples/two.py")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("next:\n  kit show mine\n  kit prepare mine --device cpu\n")
    assert "  applied  weights-pop        examples/train.py\n" in done.out
    found = recipes.parse(Path("recipes/mine.toml").absolute())
    assert (found.upstream[0].pin, found.upstream[0].sparse) == (pin, ("examples",))
    assert [(step.id, step.use, step.count, step.files) for step in found.fix] == [
        ("progress-print", "", 1, ("examples/train.py", "examples/two.py")),
        ("stop-at-max-steps", "", 1, ("examples/train.py", "examples/two.py")),
        ("weights-pop", "", 1, ("examples/train.py",)),
        ("weights-pop-2", "weights-pop", 2, ("examples/two.py",)),
    ]
    made = kit("prepare", "recipes/mine.toml", "--device", "cpu")
    assert made.status == 0 and made.out.count("patch, exactly") == 4
    assert kit("verify").status == 0
    assert kit("new", "mine", root.upstream, pin).err.startswith("kit: error: recipes/mine.toml exists\n")


TRANSFORMER = """\
from .embeddings import rope


class PaintTransformer:
    def forward(self, x):
        return rope(x, 4)
"""
EMBEDDINGS = """\
import torch


def rope(x, dim):
    is_mps = x.device.type == "mps"
    dtype = torch.float32 if is_mps else torch.float64
    return torch.arange(0, dim, 2, dtype=dtype, device=x.device)
"""
PIPELINE = """\
from transformers import CLIPTokenizer, CLIPTokenizerFast

from ..models.transformer import PaintTransformer


class PaintPipeline:
    def __init__(
        self,
        tokenizer: CLIPTokenizer | CLIPTokenizerFast,
        transformer: PaintTransformer,
        image_encoder: object = None,
    ): ...

    def __call__(self, prompt, height=None, width=None, guidance_scale=1.0): ...
"""
PACKAGE = {
    "src/paint/__init__.py": "",
    "src/paint/models/__init__.py": "",
    "src/paint/models/transformer.py": TRANSFORMER,
    "src/paint/models/embeddings.py": EMBEDDINGS,
    "src/paint/models/far.py": EMBEDDINGS.replace("def rope", "def rope_of_another"),
    "src/paint/pipelines/paint.py": PIPELINE,
}
OPTIONS = """\
    parser.add_argument("--pretrained_model_name_or_path", type=str, required=True, help="Path to a model. Or a name.")
    parser.add_argument("--instance_data_dir", type=str, default=None, help="A folder of 'images', for {{ it }}.")
    parser.add_argument("--instance_prompt", type=str, required=True, help="The prompt")
    parser.add_argument("--output_dir", type=str, default="out")
    parser.add_argument("--train_batch_size", type=int, default=4, help="Batch size.")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--checkpointing_steps", type=int, default=500)
    parser.add_argument("--checkpoints_total_limit", type=int, default=None)
    parser.add_argument("--resume_from_checkpoint", type=str, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--mixed_precision", type=str, default=None, choices=["no", "fp16", "bf16"])
    parser.add_argument("--lr_scheduler", default="constant", choices=["constant", "cosine"])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--shift", type=float, default=-1.0)
    parser.add_argument("--allow_tf32", action="store_true")
    parser.add_argument("--decouple", type=bool, default=True)
    parser.add_argument("--hub_token", type=str, default=None)
    parser.add_argument("--local_rank", type=int, default=-1)
"""
PAINTS = TRAIN.replace("import argparse\n", "import argparse\n\nfrom paint import PaintPipeline\n").replace(
    "    parser.add_argument(", f"{OPTIONS}    parser.add_argument(", 1
)
PAINTS += "    pipeline = PaintPipeline.from_pretrained(args.pretrained_model_name_or_path)\n"


@pytest.fixture
def paint(root: Root) -> Root:
    """An upstream with a package of its own, which its script trains a pipeline of."""
    root.pin = make_upstream(root.upstream, {**PACKAGE, "examples/train_paint.py": PAINTS})
    return root


def test_fixes_of_the_package_that_the_script_reaches(paint: Root, kit: Kit) -> None:
    """`kit new` finds what belongs in src/, and nothing in modules that the script does not reach."""
    assert kit("new", "mine", paint.upstream, paint.pin, "examples/train_paint.py").status == 0
    found = recipes.load("mine")
    rope = next(step for step in found.fix if step.id == "float32-rope")
    assert rope.files == ("src/paint/models/embeddings.py",)
    assert found.upstream[0].sparse == ("examples", "src")
    assert found.devices == ("cpu", "cuda"), "no package of a device is named anywhere"


def test_like_another_writes_all(paint: Root, kit: Kit) -> None:
    done = kit("new", "mine", paint.upstream, paint.pin, "examples/train_paint.py", "--like", "hidream")
    assert (done.status, done.err) == (0, "")
    left = done.out.partition("left for a person:\n")[2]
    assert left.endswith("  kit env mine --device cpu --lock mine-cpu\n  kit verify mine-cpu --smoke\n")
    launch = f"cd {paint.upstream.name}/examples && bash finetune_mine.sh --help"
    assert recipes.load("mine").next[1] == launch
    assert "a tiny configuration of transformer" in left and "defaults of model_name, instance_data_dir" in left
    for device in ("cpu", "npu"):
        assert kit("prepare", "mine", "--device", device).status == 0
    done = kit("verify", "mine-npu", "mine-cpu")
    assert done.status == 0, done.out
    assert "flags finetune_mine.sh passes exist in train_paint.py" in done.out
    folder = Path("mine-cpu") / paint.upstream.name / "examples"
    launch = (folder / "finetune_mine.sh").read_text()
    assert "\nbatch_size='4' # batch size\n" in launch and "\nallow_tf32='false' # " in launch
    assert "\ninstance_data_dir='' # a folder of 'images', for {{ it }}\n" in launch
    assert not any(name in launch for name in ("decouple", "hub_token", "local_rank"))
    assert "guidance_scale=options.guidance" in (folder / "infer_mine.py").read_text()
    tiny = Path("tiny/mine.toml").read_text()
    assert 'class = "transformers.CLIPTokenizer"' in tiny and "image_encoder" not in tiny
    plan = recipes.load("mine").smoke
    assert plan and {red.fix for red in plan.red} == {"weights-pop", "progress-print", "float32-rope"}
    again = kit("new", "other", paint.upstream, paint.pin, "--like", "hidream")
    assert again.status == 1 and "--like needs the training scripts" in again.err


def test_like_another_trains_each_script(paint: Root, kit: Kit) -> None:
    whole = PAINTS.replace('    parser.add_argument("--rank", type=int, default=4)\n', "")
    pin = make_upstream(paint.upstream, {"examples/train_whole.py": whole})
    scripts = ("examples/train_whole.py", "examples/train_paint.py")
    done = kit("new", "mine", paint.upstream, pin, *scripts, "--like", "hidream")
    assert done.status == 0 and "`moved` of the steps that train a whole model" in done.out
    plan = recipes.load("mine").smoke
    assert plan and [step.name for step in plan.step] == [
        *("train", "resume", "two-processes"),
        *("train-paint", "resume-paint", "two-processes-paint"),
        "infer",
    ]
    assert [step.moved for step in plan.step if step.moved] == ["{out}/train-paint/pytorch_lora_weights.safetensors"]
    assert plan.words["launch-paint"][1] == "finetune_paint.sh" and plan.words["launch"][1] == "finetune_whole.sh"
    assert "--rank=4" in plan.words["small-paint"] and "--rank=4" not in plan.words["small"]
    assert "--lora={out}/train-paint" in plan.step[-1].run


def test_like_another_needs_what_a_launch_script_needs(root: Root, kit: Kit) -> None:
    done = kit("new", "mine", root.upstream, root.pin, "examples/train.py", "--like", "hidream")
    assert done.status == 1 and "examples/train.py has no --train_batch_size" in done.err
    assert not Path("recipes").exists() and not Path("overlays").exists()


def test_without_files(root: Root, kit: Kit) -> None:
    assert kit("new", "mine", root.upstream, root.pin).status == 0
    assert recipes.parse(Path("recipes/mine.toml").absolute()).fix == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Mine", "{up}", "{pin}"), "bad name 'Mine'"),
        (("hidream", "{up}", "{pin}"), "hidream is a recipe of kit's, which this one would hide"),
        (("mine", "{up}", "nowhere"), "{up} has no nowhere"),
        (("mine", "{up}", "--upload-pack=x"), "No such option"),
        (("mine", "ext::sh/x", "{pin}"), "url 'ext::sh/x' is not https"),
        (("mine", "ext::sh", "main"), "'main' of 'ext::sh' is nothing to ask for"),
        (("mine", "{up}", "{pin}", "../x.py"), "FILE: '../x.py' has an empty, '.' or '..' part"),
        (("mine", "{up}", "{pin}", "examples/trian.py"), "is not in the upstream; did you mean 'examples/train.py'?"),
        (("mine", "{up}", "0" * 40), "does not have the commit"),
    ],
)
def test_refused_and_nothing_is_left(root: Root, kit: Kit, arguments: tuple[str, ...], said: str) -> None:
    words = {"up": root.upstream, "pin": root.pin}
    done = kit("new", *(argument.format(**words) for argument in arguments))
    assert done.status in (1, 2) and done.out == "" and said.format(**words) in done.err
    assert not Path("recipes").exists()


@pytest.mark.parametrize(
    ("help_", "meaning"),
    [
        ("The rank. And more.", "the rank"),
        ("VAE encoding mode.", "VAE encoding mode"),
        ("LoRA alpha", "LoRA alpha"),
        ("A folder", "a folder"),
        ("a" + " word" * 30, "a" + " word" * 23 + " …"),
    ],
)
def test_what_an_option_means(help_: str, meaning: str) -> None:
    assert arguments._first_sentence(help_) == meaning
