"""The fixes on upstream scripts: on the recipes' family one after another, on every training script each by itself."""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import codemod, fixes, store
from kit.fixes import Outcome
from kit.paths import TreePath
from kit.recipe import Upstream

DIFFUSERS = "https://github.com/huggingface/diffusers"
PIN = "d72184eba358b883d7186a0a96dedd8118fcb72a"
ACCELERATE = "https://github.com/huggingface/accelerate"
SIMPLETUNER = "https://github.com/bghira/SimpleTuner"
V406 = "0609d8f0916875f86cc51cdd91b0b641e639cc96"
SD3 = "5f724735437d91ed05304da478f3b2022fe3f6fb"


def at(pin: str, *folders: str, url: str = DIFFUSERS) -> dict[str, bytes]:
    """Every Python file below some folders, by path."""
    sparse = tuple(TreePath(folder) for folder in folders)
    entry = store.ensure(Upstream(url.rpartition("/")[2], url, pin, sparse=sparse), Path())
    wanted = {path: id for path, (_, id) in entry.tree.items() if path.startswith(folders) and path.endswith(".py")}
    blobs = entry.blobs(wanted.values())
    return {path: blobs[id] for path, id in wanted.items()}


def diff(before: bytes, after: bytes) -> tuple[list[str], list[str]]:
    """The lines a change removes and adds, without their indentation and ends."""
    lines = list(difflib.unified_diff(before.decode().splitlines(), after.decode().splitlines(), n=0, lineterm=""))[2:]
    removed, added = ([line[1:].strip() for line in lines if line.startswith(mark)] for mark in "-+")
    return removed, added


OUTCOMES = {
    (SD3, "dreambooth/train_dreambooth_sd3.py"): {
        "checkpoint-rotation": "applied",
        "deepspeed-checkpoint": "applied",
        "deepspeed-resume": "gone",
        "offline-lora": "gone",
        "offline-model-card": "satisfied",
        "progress-print": "applied",
        "stop-at-max-steps": "applied",
        "unwrap-save-hook": "satisfied",
        "validation-cast": "gone",
        "validation-dtype": "applied",
        "weights-pop": "applied",
    },
    (SD3, "dreambooth/train_dreambooth_lora_sd3.py"): {
        "checkpoint-rotation": "applied",
        "deepspeed-checkpoint": "satisfied",
        "deepspeed-resume": "applied",  # a second model
        "offline-lora": "applied",
        "offline-model-card": "satisfied",
        "progress-print": "applied",
        "stop-at-max-steps": "applied",
        "unwrap-save-hook": "satisfied",
        "validation-cast": "gone",
        "validation-dtype": "applied",
        "weights-pop": "satisfied",
    },
    (SD3, "dreambooth/train_dreambooth_lora_flux.py"): {
        "deepspeed-resume": "applied",
        "offline-lora": "applied",
        "unwrap-save-hook": "applied",
        "validation-cast": "gone",
        "validation-dtype": "applied",  # the pin that diffusers#9476 is about
    },
    (PIN, "dreambooth/train_dreambooth_lora_hidream.py"): {
        "deepspeed-resume": "applied",  # a second model
        "offline-lora": "applied",
        "unwrap-save-hook": "satisfied",
        "validation-cast": "applied",
        "validation-dtype": "gone",
    },
    (PIN, "dreambooth/train_dreambooth_lora_flux.py"): {
        "deepspeed-resume": "applied",
        "offline-lora": "applied",
        "unwrap-save-hook": "applied",
        "validation-cast": "applied",  # autocast by then
        "validation-dtype": "gone",
    },
    (PIN, "text_to_image/train_text_to_image_lora_sdxl.py"): {
        "deepspeed-resume": "applied",
        "offline-lora": "applied",
        "unwrap-save-hook": "satisfied",
        "validation-cast": "satisfied",
        "validation-dtype": "gone",
    },
}
SEVERAL = {"offline-lora"}  # has as many places as a script loads its LoRA


def apply(name: str, content: bytes, script: str) -> codemod.Result:
    fix = fixes.load(name)
    todo = [site for site in fix.sites(ast.parse(content), {}) if not site.done]
    return codemod.run(fix, content, script, len(todo) or 1 if name in SEVERAL else 1)


def test_the_family(reach: Callable[[str], None]) -> None:
    """The general fixes, one after another, on scripts that mostly no patch was made for."""
    reach(DIFFUSERS)
    files = {pin: at(pin, "examples/dreambooth", "examples/text_to_image") for pin in (PIN, SD3)}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for (pin, script), expected in OUTCOMES.items():
        original = files[pin][f"examples/{script}"]
        found[pin, script] = {name: str(apply(name, original, script).outcome) for name in expected}
        content = original
        for name in ("deepspeed-checkpoint", *expected):  # the order of a series: that one makes rotation needed
            result = apply(name, content, script)
            assert result.outcome is not Outcome.conflict, (script, name, result.reason)
            content = result.content
        compile(content, script, "exec")
        for name in expected:
            sites = fixes.load(name).sites(ast.parse(content), {})
            assert all(site.done for site in sites), (script, name)
            assert bool(sites) == (expected[name] != "gone"), (script, name)
    assert found == OUTCOMES


# What comes of the fixes of accelerate, release by release. Since 0.20 its guard for fp16 is a list of devices: the fix
# has a second rule for that.
ACCELERATE_OUTCOMES = {
    "36beea9a1be9251a3ad07f7c10fd425c96954f46": ("applied", "applied"),  # 0.16.0
    "1a63f7dff2d336cbc4816ca232aa5078486437f5": ("applied", "applied"),  # 0.17.0
    "48d96319e0033fb8c8979072d97edf3995639029": ("applied", "applied"),  # 0.23.0
}


@pytest.mark.parametrize("pin", ACCELERATE_OUTCOMES)
def test_accelerate(pin: str, reach: Callable[[str], None]) -> None:
    reach(ACCELERATE)
    content = at(pin, "src/accelerate", url=ACCELERATE)["src/accelerate/accelerator.py"]
    found = []
    for name in ("fp16-guard", "grad-scaler"):
        result = codemod.run(fixes.load(name), content, "accelerator.py")
        compile(result.content, "accelerator.py", "exec")
        found.append(str(result.outcome))
        content = result.content
    assert tuple(found) == ACCELERATE_OUTCOMES[pin]


# Outcomes on the 110 scripts under examples/ that count steps or save states. That many were measured otherwise, by a
# scan of their syntax, before the fixes were written: 62 save on the main process alone, 12 of those with DeepSpeed let
# in do not guard the rotation, 4 of 55 write the card in any case, and none of 76 (82 with those of flax and of
# colossalai) prints after the step limit.
COUNTS = {
    ("checkpoint-rotation", "applied"): 67,
    ("checkpoint-rotation", "gone"): 43,
    ("deepspeed-checkpoint", "applied"): 62,
    ("deepspeed-checkpoint", "satisfied"): 12,
    ("deepspeed-checkpoint", "gone"): 35,
    ("deepspeed-checkpoint", "conflict"): 1,
    ("deepspeed-resume", "applied"): 25,
    ("deepspeed-resume", "gone"): 84,
    ("deepspeed-resume", "conflict"): 1,
    ("device-package", "applied"): 89,
    ("device-package", "gone"): 21,
    ("fp16-guard", "gone"): 110,
    ("grad-scaler", "gone"): 110,
    ("lora-layers-device", "applied"): 5,
    ("lora-layers-device", "gone"): 105,
    ("offline-lora", "applied"): 29,
    ("offline-lora", "gone"): 81,
    ("offline-model-card", "applied"): 4,
    ("offline-model-card", "satisfied"): 41,
    ("offline-model-card", "gone"): 65,
    ("progress-print", "applied"): 76,
    ("progress-print", "gone"): 28,
    ("progress-print", "conflict"): 6,
    ("stop-at-max-steps", "applied"): 82,
    ("stop-at-max-steps", "gone"): 28,
    ("transformer-patches", "applied"): 60,
    ("transformer-patches", "gone"): 50,
    ("unwrap-save-hook", "applied"): 23,
    ("unwrap-save-hook", "satisfied"): 12,
    ("unwrap-save-hook", "gone"): 75,
    ("validation-cast", "applied"): 5,
    ("validation-cast", "satisfied"): 38,
    ("validation-cast", "gone"): 67,
    ("validation-dtype", "applied"): 3,
    ("validation-dtype", "gone"): 99,
    ("validation-dtype", "conflict"): 8,
    ("validation-seed", "applied"): 5,
    ("validation-seed", "satisfied"): 18,
    ("validation-seed", "gone"): 83,
    ("validation-seed", "conflict"): 4,
    ("weights-pop", "applied"): 42,
    ("weights-pop", "satisfied"): 20,
    ("weights-pop", "gone"): 47,
    ("weights-pop", "conflict"): 1,
}
GENERAL = sorted({name for name, _ in COUNTS})  # the fixes about any training script
UNBOUND = "`accelerator` is not bound there: print by hand on one process, or skip the fix"
NO_DTYPE = "`torch_dtype` is not bound there: bind it above, or skip the fix"
NO_FINAL = "`is_final_validation` is not bound there: bind it above, or skip the fix"
IMAGES = "its pipeline is handed images (`{}`), which it encodes with a VAE of the other parts' dtype: cast by hand"
# Every refusal, and why it is right.
CONFLICTS = {
    # No `accelerator` in these: flax trains on the devices of jax, colossalai brings its own launcher.
    "progress-print: examples/controlnet/train_controlnet_flax.py:1077": UNBOUND,
    "progress-print: examples/dreambooth/train_dreambooth_flax.py:688": UNBOUND,
    "progress-print: examples/research_projects/colossalai/train_dreambooth_colossalai.py:644": UNBOUND,
    "progress-print: examples/research_projects/multi_token_textual_inversion/textual_inversion_flax.py:601": UNBOUND,
    "progress-print: examples/text_to_image/train_text_to_image_flax.py:574": UNBOUND,
    "progress-print: examples/textual_inversion/textual_inversion_flax.py:620": UNBOUND,
    # A second gate around the first, which also logs and validates: opening it would run all that on every rank.
    "deepspeed-checkpoint: examples/vqgan/train_vqgan.py:988": "expected 1 place to fix, found 2 (lines 988, 1011)",
    # Averaged weights, which DeepSpeed does not load, come after the models.
    "deepspeed-resume: examples/amused/train_amused.py:544": "it loads averaged weights, too, which DeepSpeed "
    "knows nothing of: part the two, and leave those alone",
    # These build the pipeline in log_validation, of what is being trained, or know its parts' dtypes: Sana's VAE and
    # CogVideoX' must stay as they are.
    "validation-dtype: examples/cogvideo/train_cogvideox_image_to_video_lora.py:721": IMAGES.format(
        "CogVideoXImageToVideoPipeline"
    ),
    "validation-dtype: examples/cogvideo/train_cogvideox_lora.py:738": "it moves its pipeline in another way than "
    "`pipeline = pipeline.to(accelerator.device)`: write it so first",
    "validation-dtype: examples/dreambooth/train_dreambooth_lora_sana.py:169": NO_DTYPE,
    "validation-dtype: examples/research_projects/gligen/train_gligen_text.py:61": NO_FINAL,
    "validation-dtype: examples/research_projects/pixart/train_pixart_controlnet_hf.py:116": IMAGES.format(
        "PixArtAlphaControlnetPipeline"
    ),
    "validation-dtype: examples/research_projects/realfill/train_realfill.py:130": IMAGES.format(
        "StableDiffusionInpaintPipeline"
    ),
    "validation-dtype: examples/research_projects/sana/train_sana_sprint_diffusers.py:282": NO_DTYPE,
    "validation-dtype: examples/textual_inversion/textual_inversion_sdxl.py:149": NO_DTYPE,
    # The seed of each of two validations: right with `count = 2` in the recipe.
    **{
        f"validation-seed: examples/research_projects/{script}.py:{first}": "expected 1 place to fix, found 2 "
        f"(lines {first}, {second})"
        for script, first, second in (
            ("diffusion_orpo/train_diffusion_orpo_sdxl_lora", 117, 147),
            ("diffusion_orpo/train_diffusion_orpo_sdxl_lora_wds", 115, 145),
            ("scheduled_huber_loss_training/text_to_image/train_text_to_image_lora_sdxl", 1266, 1342),
            ("scheduled_huber_loss_training/text_to_image/train_text_to_image_sdxl", 1294, 1351),
        )
    },
    # One pop for each of two models: right with `count = 2` in the recipe.
    "weights-pop: examples/vqgan/train_vqgan.py:682": "expected 1 place to fix, found 2 (lines 682, 683)",
}
# What deepspeed-checkpoint writes anew: the test of the main process, and the import of what it asks for.
GATE = (
    "if accelerator.is_main_process:",
    "from accelerate import Accelerator",
    "from accelerate import Accelerator, InitProcessGroupKwargs",
)
# How many lines a fix may remove and add; the removed ones are there again but for what the fix is about.
LINES = {
    "device-package": {(0, 2)},  # a blank line above the import
    "lora-layers-device": {(1, 1)},
    "progress-print": {(0, 1)},
    "stop-at-max-steps": {(0, 2)},
    "transformer-patches": {(0, 3), (0, 4)},  # the import, the call, a blank line or two
    "deepspeed-resume": {(0, 3), (1, 4)},  # two lines and a blank one, and the import unless it is there
    "offline-lora": {(1, 1), (2, 2), (3, 3)},
    "unwrap-save-hook": {(0, 1)},
    "validation-cast": {(1, 1)},
    "validation-dtype": {(0, 3), (1, 4)},
    "validation-seed": {(1, 1)},
    "weights-pop": {(1, 2)},
}


def test_every_training_script(reach: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    reach(DIFFUSERS)
    scripts = {
        path: content
        for path, content in at(PIN, "examples").items()
        if b"max_train_steps" in content or b"save_state(" in content
    }
    counts: Counter[tuple[str, str]] = Counter()
    conflicts = {}
    for path, content in scripts.items():
        for name in GENERAL:
            result = apply(name, content, path)
            counts[name, str(result.outcome)] += 1
            if result.outcome is Outcome.conflict:
                conflicts[f"{name}: {path}:{result.line}"] = result.reason
            if result.outcome is not Outcome.applied:
                assert result.content == content, (name, path)
                continue
            compile(result.content, path, "exec", dont_inherit=True)
            twice = apply(name, result.content, path)
            assert (twice.outcome, twice.content) == (Outcome.satisfied, result.content), (name, path)
            removed, added = diff(content, result.content)
            if name == "checkpoint-rotation":  # what stands below the save now, and the name of the folder in its list
                assert len(set(added) - set(removed)) - len(set(removed) - set(added)) <= 1, (path, removed, added)
            elif name == "deepspeed-checkpoint":  # the gate, its import, and the guard of what stays on one rank
                bare = {line.replace(" and accelerator.is_main_process", "").replace("if (", "if ") for line in added}
                kept = {*bare, *(line.replace("):", ":") for line in bare)}
                assert set(removed) - kept <= {*GATE, ""}, (path, removed, added)
            elif name in LINES:
                assert (len(removed), len(added)) in LINES[name], (name, path, removed, added)
            else:
                assert set(removed) <= {*added, ""}, (name, path, removed, added)
                assert set(added) - set(removed) <= {"if args.push_to_hub:"}, (name, path, removed, added)
    with capsys.disabled():
        print(f"\n{len(scripts)} scripts of diffusers {PIN[:7]}")
        for name in GENERAL:
            numbers = (f"{counts[name, str(outcome)]:3} {outcome}" for outcome in Outcome)
            print(f"  {name:22}{'  '.join(numbers)}")
    assert conflicts == CONFLICTS
    assert counts == COUNTS


# The fixes that are about any code, in SimpleTuner: files they apply to, places in those, files they refuse.
EVERYWHERE = {"accelerator-cache": (11, 14, 0), "float32-rope": (9, 13, 0), "pin-memory-guard": (3, 23, 0)}


def test_every_file_of_simpletuner(reach: Callable[[str], None]) -> None:
    reach(SIMPLETUNER)
    files = at(V406, "config", "simpletuner", url=SIMPLETUNER)
    words = {
        "pin-memory-guard": b".pin_memory()",
        "float32-rope": b"torch.float64",
        "accelerator-cache": b"empty_cache",
    }
    found = {}
    for name, word in words.items():
        fix, done, places, refused = fixes.load(name), 0, 0, 0
        for path, content in files.items():
            todo = [site for site in fix.sites(ast.parse(content), {}) if not site.done] if word in content else []
            if todo:
                result = codemod.run(fix, content, path, len(todo))
                refused += result.outcome is Outcome.conflict
                if result.outcome is Outcome.applied:
                    done, places = done + 1, places + len(todo)
                    compile(result.content, path, "exec", dont_inherit=True)
        found[name] = (done, places, refused)
    assert found == EVERYWHERE
