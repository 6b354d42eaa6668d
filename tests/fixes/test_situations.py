"""What a name in a script is, not how it is spelt: `kit fix` on scripts that are not of upstream's own shape.

Each is the shape of something in public training scripts, and each fix mends it rightly, leaves it alone, refuses with
the cause and a way out, or says that it looks like a fault in a form that it does not know.
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest

from kit import fixes
from kit.commands.fix import File
from kit.fixes import Outcome
from kit.mend import looks_like, mend, options_for

HEAD = "import os\nimport shutil\nimport torch\nfrom accelerate import Accelerator\n"
MADE = "    accelerator = Accelerator()\n"
OPEN = "accelerator.is_main_process or accelerator.distributed_type == DistributedType.DEEPSPEED"


@dataclass(frozen=True)
class Given:
    """A script, what one fix makes of it ("": it is left alone), what it refuses with or says that it looks like."""

    fix: str
    text: str
    made: tuple[str, ...] = ()  # each is in the result, on lines of its own
    gone: tuple[str, ...] = ()  # none of them is
    refuses: str = ""
    looks_like: str = ""
    line: int = 0


def text_of(text: str) -> str:
    return textwrap.dedent(text).removeprefix("\n")


def left(id: str, fix: str, text: str) -> Any:
    return pytest.param(Given(fix, text_of(text)), id=f"{fix}: left alone: {id}")


def mended(id: str, fix: str, text: str, *made: str, gone: tuple[str, ...] = ()) -> Any:
    wanted = tuple(text_of(each).rstrip("\n") for each in made)
    return pytest.param(Given(fix, text_of(text), wanted, gone), id=f"{fix}: mended: {id}")


def refused(id: str, fix: str, line: int, reason: str, text: str) -> Any:
    return pytest.param(Given(fix, text_of(text), refuses=reason, line=line), id=f"{fix}: refused: {id}")


def looks(id: str, fix: str, line: int, what: str, text: str) -> Any:
    return pytest.param(Given(fix, text_of(text), looks_like=what, line=line), id=f"{fix}: looks like: {id}")


def tried(fix: str, text: str) -> tuple[File, str]:
    """What comes of one fix, and of those it brings."""
    chosen = options_for(fixes.with_brought([fix]), "npu")
    findings, after = mend(text.encode(), "train.py", chosen)
    signs = looks_like(text.encode(), after, "train.py", chosen, findings)
    return File("train.py", tuple(findings), tuple(signs)), after.decode()


def holds(text: str, part: str) -> bool:
    """Whether some lines of a script are ``part``, however deep."""
    lines, wanted = text.splitlines(), textwrap.dedent(part).splitlines()
    if len(wanted) == 1:
        return part.strip() in text
    windows = ("\n".join(lines[at : at + len(wanted)]) for at in range(len(lines)))
    return any(textwrap.dedent(window).splitlines() == wanted for window in windows)


def check(given: Given) -> None:
    report, after = tried(given.fix, given.text)
    found = {each.fix: each for each in report.findings}[given.fix]
    signs = [each for each in report.looks_like if each.fix == given.fix]
    ast.parse(after)
    if given.made:
        assert (found.outcome, found.reason) == (Outcome.applied, "")
        for part in given.made:
            assert holds(after, part), after
        assert not any(part in after for part in given.gone), after
        again, same = tried(given.fix, after)
        assert same == after and not any(each.outcome is Outcome.conflict for each in again.findings)
        return
    assert after == given.text
    if given.refuses:
        assert (found.outcome, found.lines) == (Outcome.conflict, (given.line,)), found
        assert given.refuses in found.reason
        assert "postcondition" not in found.reason and "made 0" not in found.reason
    else:
        assert found.outcome in (Outcome.gone, Outcome.satisfied), found
    if given.refuses:
        return
    if given.looks_like:
        assert [(each.line, given.looks_like in each.what) for each in signs] == [(given.line, True)], signs
    else:
        assert not signs


# An outer loop that assigns the step or the limit is not one over epochs.
LOOPS = [
    left(
        "the step starts anew for each subject",
        "stop-at-max-steps",
        """
        def main(args, subjects, loader):
            global_step = 0
            for subject in subjects:
                global_step = 0
                for batch in loader:
                    global_step += 1
                    if global_step >= args.max_train_steps:
                        break
                save(subject)
        """,
    ),
    left(
        "each stage has a limit of its own",
        "stop-at-max-steps",
        """
        def main(args, stages, loader):
            global_step = 0
            for epoch in range(len(stages)):
                args.max_train_steps = stages[epoch].steps
                for batch in loader:
                    global_step += 1
                    if global_step >= args.max_train_steps:
                        break
        """,
    ),
    left(
        "a method of its own starts the step anew",
        "stop-at-max-steps",
        """
        class Trainer:
            def begin(self):
                self.global_step = 0

            def train(self):
                for epoch in range(self.args.epochs):
                    self.begin()
                    for batch in self.loader:
                        self.global_step += 1
                        if self.global_step >= self.args.max_train_steps:
                            break
        """,
    ),
    looks(
        "a loop over something else",
        "stop-at-max-steps",
        3,
        "a loop over epochs",
        """
        def main(args, folders):
            global_step = 0
            for folder in folders:
                for batch in load(folder):
                    global_step += 1
                    if global_step >= args.max_train_steps:
                        break
        """,
    ),
    left(
        "a loop that goes on below the limit only",
        "stop-at-max-steps",
        """
        def main(args, loader, global_step):
            while global_step < args.max_train_steps:
                for batch in loader:
                    global_step += 1
                    if global_step >= args.max_train_steps:
                        break
        """,
    ),
    mended(
        "the options are called cfg",
        "stop-at-max-steps",
        """
        def main(cfg, loader):
            global_step = 0
            for epoch in range(cfg.num_train_epochs):
                for batch in loader:
                    global_step += 1
                    if global_step >= cfg.max_train_steps:
                        break
        """,
        "        if global_step >= cfg.max_train_steps:\n            break\n        for batch in loader:",
    ),
    mended(
        "all of it is the trainer's",
        "stop-at-max-steps",
        """
        class Trainer:
            def train(self):
                for epoch in range(self.config.epochs):
                    for batch in self.loader:
                        self.step()
                        if self.global_step >= self.config.max_train_steps:
                            break
        """,
        "if self.global_step >= self.config.max_train_steps:\n    break\nfor batch in self.loader:",
    ),
    mended(
        "the break is under accumulate and sync_gradients",
        "stop-at-max-steps",
        """
        def main(args, accelerator, loader, model):
            global_step = 0
            for epoch in range(args.num_train_epochs):
                for batch in loader:
                    with accelerator.accumulate(model):
                        if accelerator.sync_gradients:
                            global_step += 1
                            if global_step >= args.max_train_steps:
                                break
        """,
        "        if global_step >= args.max_train_steps:\n            break\n        for batch in loader:",
    ),
    mended(
        "the line is printed under sync_gradients",
        "progress-print",
        """
        def main(args, loader, model):
            trainer = Accelerator()
            global_step = 0
            for epoch in range(args.num_train_epochs):
                for batch in loader:
                    with trainer.accumulate(model):
                        if trainer.sync_gradients:
                            global_step += 1
                            if global_step >= args.max_train_steps:
                                break
        """.replace("def main", "from accelerate import Accelerator\n        def main", 1),
        'if global_step >= args.max_train_steps:\n    break\ntrainer.print("")',
    ),
]

# An accelerator is what was made as one, wherever it is kept, and only where it surely is one.
ACCELERATORS = [
    refused(
        "bound on another path only",
        "progress-print",
        11,
        "`accelerator` may be None",
        HEAD
        + """\
def main(args, loader):
    accelerator = Accelerator() if args.distributed else None
    global_step = 0
    for epoch in range(3):
        for batch in loader:
            global_step += 1
            if global_step >= args.max_train_steps:
                break
""".replace("    global_step = 0\n", "    global_step = 0\n", 1),
    ),
    refused(
        "made under an if",
        "progress-print",
        10,
        "`accelerator` may not be bound",
        HEAD
        + """\
def main(args, loader):
    if args.distributed:
        accelerator = Accelerator()
    for global_step in range(3):
        for batch in loader:
            if global_step >= args.max_train_steps:
                break
""",
    ),
    mended(
        "made under an if, but used there",
        "progress-print",
        HEAD
        + """\
def main(args, loader):
    if args.distributed:
        accelerator = Accelerator()
    for global_step in range(3):
        for batch in loader:
            accelerator.backward(batch)
            if global_step >= args.max_train_steps:
                break
""",
        'accelerator.print("")',
    ),
    left(
        "a string of that name",
        "device-placement",
        """
        from accelerate import Accelerator
        def main(model, accelerator="gpu"):
            model.to("cpu")
        """,
    ),
    mended(
        "kept by the trainer",
        "deepspeed-checkpoint",
        """
        from accelerate import Accelerator
        class Trainer:
            def __init__(self):
                self.accelerator = Accelerator()
            def save(self, folder):
                if self.accelerator.is_main_process:
                    self.accelerator.save_state(folder)
        """,
        "from accelerate import Accelerator, DistributedType",
        "if self.accelerator.is_main_process or self.accelerator.distributed_type == DistributedType.DEEPSPEED:",
    ),
    mended(
        "an alias of the module",
        "deepspeed-checkpoint",
        """
        import accelerate as hf
        def main(folder):
            acc = hf.Accelerator()
            if acc.is_main_process:
                acc.save_state(folder)
        """,
        "if acc.is_main_process or acc.distributed_type == hf.DistributedType.DEEPSPEED:",
    ),
    mended(
        "imported in a try",
        "deepspeed-checkpoint",
        """
        try:
            from accelerate import Accelerator
        except ImportError:
            raise SystemExit("pip install accelerate")
        def main(folder):
            accelerator = Accelerator()
            if accelerator.is_main_process:
                accelerator.save_state(folder)
        """,
        "    from accelerate import Accelerator, DistributedType\n",
        f"if {OPEN}:",
    ),
]

# What a gate of the main process holds besides the save.
GATES = [
    mended(
        "the rest is done by one process still",
        "deepspeed-checkpoint",
        HEAD
        + """\
def main(args, model):
    accelerator = Accelerator()
    for epoch in range(3):
        if accelerator.is_main_process:
            accelerator.save_state(os.path.join(args.output_dir, str(epoch)))
            model.save_pretrained(args.output_dir)
            if args.push:
                upload(args.output_dir)
""",
        f"        if {OPEN}:\n"
        "            accelerator.save_state(os.path.join(args.output_dir, str(epoch)))\n"
        "            if accelerator.is_main_process:\n"
        "                model.save_pretrained(args.output_dir)\n"
        "                if args.push:\n"
        "                    upload(args.output_dir)",
    ),
    refused(
        "what it saves to comes from a call that may do more",
        "deepspeed-checkpoint",
        7,
        "`new_folder(…)`",
        HEAD
        + """\
def main(args):
    accelerator = Accelerator()
    if accelerator.is_main_process:
        folder = new_folder(args)
        accelerator.save_state(folder)
""",
    ),
    mended(
        "with another condition",
        "deepspeed-checkpoint",
        HEAD
        + """\
def main(args):
    accelerator = Accelerator()
    for step in range(9):
        if accelerator.is_main_process and step % args.checkpointing_steps == 0:
            accelerator.save_state("x")
""",
        f"if ({OPEN}) and step % args.checkpointing_steps == 0:",
    ),
    mended(
        "in an else, where the other branch writes",
        "deepspeed-checkpoint",
        HEAD
        + """\
def main(args, model):
    accelerator = Accelerator()
    if accelerator.is_main_process:
        if args.weights_only:
            model.save_pretrained("x")
        else:
            accelerator.save_state("x")
""",
        f"    if {OPEN}:\n        if args.weights_only:\n            if accelerator.is_main_process:\n"
        '                model.save_pretrained("x")\n        else:\n            accelerator.save_state("x")',
    ),
    mended(
        "in a helper that only saves",
        "deepspeed-checkpoint",
        HEAD
        + """\
def keep(accelerator, step):
    folder = os.path.join("out", f"checkpoint-{step}")
    accelerator.save_state(folder)
def main(args):
    accelerator = Accelerator()
    if accelerator.is_main_process:
        keep(accelerator, 3)
""",
        f"    if {OPEN}:\n        keep(accelerator, 3)",
    ),
    refused(
        "in a helper that does more",
        "deepspeed-checkpoint",
        10,
        "`keep(…)`",
        HEAD
        + """\
def keep(accelerator, step):
    accelerator.save_state("x")
    shutil.rmtree("old")
def main(args):
    accelerator = Accelerator()
    if accelerator.is_main_process:
        keep(accelerator, 3)
""",
    ),
    looks(
        "below a continue of the others",
        "deepspeed-checkpoint",
        9,
        "a checkpoint",
        HEAD
        + """\
def main(args):
    accelerator = Accelerator()
    for step in range(9):
        if not accelerator.is_main_process: continue
        accelerator.save_state("x")
""",
    ),
    looks(
        "by a rank of its own",
        "deepspeed-checkpoint",
        8,
        "a checkpoint",
        HEAD
        + """\
def main(args, rank):
    accelerator = Accelerator()
    if rank == 0:
        accelerator.save_state("x")
""",
    ),
    left(
        "the removal is guarded, around a barrier",
        "checkpoint-rotation",
        HEAD
        + """\
def main(args, folders):
    accelerator = Accelerator()
    if args.checkpoints_total_limit is not None:
        if accelerator.is_main_process:
            for folder in folders[: -args.checkpoints_total_limit]:
                shutil.rmtree(folder)
        accelerator.wait_for_everyone()
    accelerator.save_state("x")
""",
    ),
    refused(
        "a barrier, and the removal is everybody's",
        "checkpoint-rotation",
        7,
        "wait_for_everyone",
        HEAD
        + """\
def main(args, folders):
    accelerator = Accelerator()
    if args.checkpoints_total_limit is not None:
        for folder in folders[: -args.checkpoints_total_limit]:
            shutil.rmtree(folder)
        accelerator.wait_for_everyone()
    accelerator.save_state("x")
""",
    ),
    left(
        "a check of the argument",
        "checkpoint-rotation",
        HEAD
        + """\
def main(args, folders):
    accelerator = Accelerator()
    if args.checkpoints_total_limit is not None and args.checkpoints_total_limit < 2:
        raise ValueError("two at least")
    if args.checkpoints_total_limit is not None:
        print("keeping", args.checkpoints_total_limit)
    accelerator.save_state("x")
""",
    ),
]

# A device is given to what takes a device; a branch for CUDA is CUDA's.
DEVICES = [
    mended(
        "safetensors wants a string",
        "device-placement",
        HEAD
        + """\
from safetensors.torch import load_file
def main(path):
    accelerator = Accelerator()
    weights = load_file(path, device="cuda")
""",
        "load_file(path, device=str(accelerator.device))",
    ),
    looks(
        "nobody knows what it takes",
        "device-placement",
        8,
        "something placed on CUDA by name",
        HEAD
        + """\
from whisper_fast import Model
def main(path):
    accelerator = Accelerator()
    return Model("base", device="cuda")
""".replace("    accelerator", "    accelerator"),
    ),
    left(
        "a branch that only CUDA takes",
        "device-placement",
        HEAD
        + """\
def main(model):
    accelerator = Accelerator()
    if accelerator.device.type == "cuda":
        model.to("cuda")
    elif accelerator.device.type == "npu":
        model.to("npu")
""",
    ),
    left(
        "a cache emptied by kind of device",
        "accelerator-cache",
        """
        import torch
        def empty(device):
            if device.type == "cuda":
                torch.cuda.empty_cache()
            elif device.type == "npu":
                torch.npu.empty_cache()
        """,
    ),
    looks(
        "a map location, and a device with a number",
        "device-placement",
        7,
        "something placed on CUDA by name",
        HEAD
        + """\
def main(path, rank):
    accelerator = Accelerator()
    return torch.load(path, map_location=f"cuda:{rank}")
""",
    ),
    mended(
        "a map location by name, and cuda(0)",
        "device-placement",
        HEAD
        + """\
def main(path, model):
    accelerator = Accelerator()
    model.cuda(0)
    return torch.load(path, map_location="cuda")
""",
        "    model.to(accelerator.device)\n    return torch.load(path, map_location=accelerator.device)",
    ),
    mended(
        "torch under another name",
        "accelerator-cache",
        "import torch as th\ndef free():\n    th.cuda.empty_cache()\n",
        "    if th.accelerator.is_available():\n        th.get_device_module().empty_cache()",
    ),
    mended(
        "scalers of a class, in a choice, and told CUDA",
        "device-scaler",
        """
        import torch
        from torch.cuda.amp import GradScaler
        class Trainer:
            def __init__(self, device, fp16):
                self.scaler = torch.cuda.amp.GradScaler()
                self.other = GradScaler(enabled=fp16)
        def train(device, fp16):
            scaler = torch.cuda.amp.GradScaler() if fp16 else None
            told = torch.amp.GradScaler("cuda", enabled=fp16)
        """,
        "self.scaler = torch.amp.GradScaler(torch.device(device).type)",
        "self.other = torch.amp.GradScaler(torch.device(device).type, enabled=fp16)",
        "scaler = torch.amp.GradScaler(torch.device(device).type) if fp16 else None",
        "told = torch.amp.GradScaler(torch.device(device).type, enabled=fp16)",
    ),
    left(
        "settings that happen to have the name",
        "pin-memory-guard",
        """
        import torch
        def load(settings, data):
            pin = settings.pin_memory()
            if settings.pin_memory():
                print(pin)
            return torch.utils.data.DataLoader(data, pin_memory=settings.pin_memory())
        """,
    ),
]

DEVICES += [
    mended(
        "moved without waiting",
        "device-placement",
        HEAD
        + """\
def main(x):
    accelerator = Accelerator()
    return x.cuda(non_blocking=True)
""",
        "return x.to(accelerator.device, non_blocking=True)",
    ),
    refused(
        "what is called so is a device",
        "device-placement",
        7,
        "`accelerator` is no Accelerator there",
        HEAD
        + """\
def main(model):
    accelerator = torch.accelerator.current_accelerator()
    model.to("cuda")
""",
    ),
    left(
        "settings further in",
        "pin-memory-guard",
        "import torch\ndef f(cfg):\n    return cfg.data.pin_memory()\n",
    ),
    refused(
        "a pipeline that is handed images",
        "validation-dtype",
        3,
        "handed images (`StableDiffusion3Img2ImgPipeline`)",
        """
        from accelerate import Accelerator
        def log_validation(pipeline, accelerator, given, torch_dtype, is_final_validation=False):
            pipeline = pipeline.to(accelerator.device)
            return pipeline(**given)
        pipeline = StableDiffusion3Img2ImgPipeline.from_pretrained("x")
        """,
    ),
    mended(
        "angles in float64 on a tensor's device",
        "float32-rope",
        """
        import torch
        def get_1d_sincos_pos_embed_from_grid(dim, pos):
            omega = torch.arange(dim // 2, device=pos.device, dtype=torch.float64)
            return omega
        """,
        'dtype=torch.float32 if pos.device.type in ("mps", "npu", "tpu") else torch.float64)',
    ),
    mended(
        "by the helper that upstream has",
        "float32-rope",
        """
        import torch
        from ..utils.torch_utils import maybe_adjust_dtype_for_device
        def rope(pos, dim):
            return torch.arange(0, dim, 2, dtype=torch.float64, device=pos.device)
        """,
        "dtype=maybe_adjust_dtype_for_device(torch.float64, pos.device), device=pos.device)",
    ),
    looks(
        "a rotary embedding in float64, nobody knows where",
        "float32-rope",
        3,
        "a rotary embedding worked out in float64",
        """
        import torch
        def rope(pos, dim, device):
            return torch.arange(0, dim, 2, dtype=torch.float64, device=device)
        """,
    ),
    looks(
        "autocast switched off by a decorator",
        "autocast-device",
        4,
        "autocast switched off on CUDA alone",
        """
        import torch
        class Rope(torch.nn.Module):
            @torch.amp.autocast("cuda", enabled=False)
            def forward(self, x):
                return x.float()
        """,
    ),
    mended(
        "cast alone, and offloaded",
        "validation-cast",
        """
        def log_validation(pipeline, args, torch_dtype):
            pipeline = pipeline.to(dtype=torch_dtype)
            pipeline.enable_model_cpu_offload()
            with torch.autocast("npu"):
                return pipeline()
        """,
        "def log_validation(pipeline, args, torch_dtype):\n    pipeline.enable_model_cpu_offload()",
        gone=("dtype=torch_dtype)",),
    ),
]

# A save hook is what is registered as one; its models and weights are its own parameters.
HOOKS = [
    left(
        "tensors of an inner loop",
        "unwrap-save-hook",
        HEAD
        + """\
accelerator = Accelerator()
def save_model_hook(models, weights, output_dir):
    for model in models:
        for key, value in model.state_dict().items():
            if isinstance(value, torch.Tensor):
                print(key)
accelerator.register_save_state_pre_hook(save_model_hook)
""",
    ),
    mended(
        "a hook by another name, its models numbered",
        "unwrap-save-hook",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, weights, output_dir):
    for number, part in enumerate(parts):
        if isinstance(part, Unet):
            part.save_pretrained(output_dir)
accelerator.register_save_state_pre_hook(before_saving)
""",
        "    for number, part in enumerate(parts):\n        part = accelerator.unwrap_model(part)",
    ),
    left(
        "a dictionary of weights",
        "weights-pop",
        """
        from safetensors.torch import load_file
        def convert(path, weights):
            weights.pop("position_ids")
            return weights
        def last(models, weights):
            return models, weights.pop()
        """,
    ),
    mended(
        "a hook that calls them otherwise",
        "weights-pop",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, states, output_dir):
    for part in parts:
        states.pop()
accelerator.register_save_state_pre_hook(before_saving)
""",
        "        if states:\n            states.pop()",
    ),
    looks(
        "its last one is taken by number",
        "weights-pop",
        8,
        "weights",
        HEAD
        + """\
accelerator = Accelerator()
def before_saving(parts, states, output_dir):
    for number in range(2):
        states.pop(0)
accelerator.register_save_state_pre_hook(before_saving)
""",
    ),
]

# Options that exist, files that are written, cards that ask the hub.
CARD = """\
def save_model_card(name, folder):
    card = load_or_create_model_card(repo_id_or_path=name)
    card.save(folder)
"""
FILES = [
    left(
        "a card of one's own",
        "offline-model-card",
        """
        def save_model_card(name, folder):
            with open(folder + "/README.md", "w") as file:
                file.write(name)
        def main(args):
            save_model_card(args.name, args.output_dir)
            if args.push_to_hub:
                upload(args.output_dir)
        """,
    ),
    refused(
        "no such option",
        "offline-model-card",
        9,
        "no option `push_to_hub`",
        f"""\
import argparse
{CARD}\
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir")
    args = parser.parse_args()
    save_model_card("x", args.output_dir)
""",
    ),
    refused(
        "a method of that name is no option",
        "offline-model-card",
        6,
        "no option `push_to_hub`",
        f"""\
{CARD}\
def main(args, model):
    model.push_to_hub(args.repo)
    save_model_card("x", args.output_dir)
""",
    ),
    left(
        "a LoRA in another file",
        "offline-lora",
        """
        def main(args, pipeline):
            pipeline.save_lora_weights(args.output_dir, safe_serialization=True)
            pipeline.load_lora_weights(args.output_dir)
            other.load_lora_weights(args.output_dir, weight_name="pytorch_lora_weights.bin")
        """,
    ),
    left(
        "a LoRA saved by other means",
        "offline-lora",
        """
        def main(args, pipeline, layers):
            layers.save_attn_procs(args.output_dir)
            pipeline.load_lora_weights(args.output_dir)
        """,
    ),
    left(
        "for a diffusers that wrote another file",
        "offline-lora",
        """
        check_min_version("0.19.0.dev0")
        def main(args, pipeline, layers):
            pipeline.save_lora_weights(args.output_dir, layers)
            pipeline.load_lora_weights(args.output_dir)
        """,
    ),
]

# Scripts, modules, and those that are ported.
PORTED = [
    left(
        "a careful import",
        "device-package",
        """
        import torch
        try:
            import torch_npu
        except ImportError:
            torch_npu = None
        if __name__ == "__main__":
            print(torch.ones(1))
        """,
    ),
    left(
        "by importlib",
        "device-package",
        """
        import importlib
        import torch
        if importlib.util.find_spec("torch_npu"):
            importlib.import_module("torch_npu")
        if __name__ == "__main__":
            print(torch.ones(1))
        """,
    ),
    left(
        "a module of a library",
        "device-package",
        """
        import torch
        from ..utils import logging
        logger = logging.get_logger(__name__)
        class Block(torch.nn.Module):
            pass
        """,
    ),
    left(
        "a module with imports from the top",
        "device-package",
        """
        import torch
        from mylib.utils import logging
        logger = logging.get_logger(__name__)
        class Block(torch.nn.Module):
            pass
        """,
    ),
]


@pytest.mark.parametrize("given", [*LOOPS, *ACCELERATORS, *GATES, *DEVICES, *HOOKS, *FILES, *PORTED])
def test_a_situation(given: Given) -> None:
    check(given)
