"""`kit fix` on scripts of other shapes: gates of the main process, and what else they hold."""

from __future__ import annotations

import textwrap

import pytest
from situations import HEAD, MADE, OPEN, Given, check, left, looks, mended, refused

# What a gate of the main process holds besides the save.
PRUNES = (
    f"{HEAD}def prune(out):\n    shutil.rmtree(f'{{{{out}}}}/checkpoint-1')\n\n\n"
    "def main(args, accelerator):\n    {}prune(1)\n    accelerator.save_state(args.out)\n"
)
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
                upload(args.card)
""",
        f"        if {OPEN}:\n"
        "            accelerator.save_state(os.path.join(args.output_dir, str(epoch)))\n"
        "            if accelerator.is_main_process:\n"
        "                model.save_pretrained(args.output_dir)\n"
        "                if args.push:\n"
        "                    upload(args.card)",
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
        "asked of a property",
        "deepspeed-checkpoint",
        HEAD
        + """\
class Trainer:
    def __init__(self):
        self.accelerator = Accelerator()
    @property
    def main(self):
        return self.accelerator.is_main_process
    def save(self):
        if self.main:
            self.accelerator.save_state("x")
""",
        "if self.main or self.accelerator.distributed_type == DistributedType.DEEPSPEED:",
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
    *(
        mended(
            f"one process's work has names of its own: {work.strip()}",
            "deepspeed-checkpoint",
            f"{HEAD}def main(args, step, old):\n{MADE}    if accelerator.is_main_process:\n"
            f"        if step % 9 == 0:\n{textwrap.indent(work, ' ' * 12)}            accelerator.save_state('x')\n",
            f"if {OPEN}:\n    if step % 9 == 0:\n        if accelerator.is_main_process:\n"
            f"{textwrap.indent(work, ' ' * 12)}        accelerator.save_state('x')",
        )
        for work in (
            "for each in old:\n    shutil.rmtree(each)\n",
            "with open('latest', 'w') as f:\n    f.write('x')\n",
            "images = draw(args)\nimages[0].save('y')\n",
        )
    ),
    refused(
        "what one process alone makes is deleted by all",
        "deepspeed-checkpoint",
        7,
        "`draw(…)` gives `images`, which every process needs",
        f"{HEAD}def main(args, step):\n{MADE}    if accelerator.is_main_process:\n        if step % 9 == 0:\n"
        "            accelerator.save_state('x')\n            images = draw(args)\n            del images\n",
    ),
    *(
        looks(
            f"it asks itself: {save}",
            "deepspeed-checkpoint",
            6,
            "a checkpoint",
            f"{HEAD}def main(accelerator):\n    {save}\n",
        )
        for save in (
            "accelerator.save_state(1) if accelerator.is_main_process else None",
            "accelerator.is_main_process and accelerator.save_state(1)",
            "[accelerator.save_state(1) for _ in range(1) if accelerator.is_main_process]",
        )
    ),
    *(
        looks(
            f"asked by {head}",
            "deepspeed-checkpoint",
            7 + head.count("\n"),
            "a checkpoint",
            f"{HEAD}def main(accelerator):\n    {head}\n            accelerator.save_state(1)\n",
        )
        for head in ("if accelerator.is_last_process:", "match accelerator.process_index:\n        case 0:")
    ),
    left(
        "the program removes old checkpoints, too",
        "deepspeed-checkpoint",
        f"{HEAD}def main(accelerator, old):\n    accelerator.save_state(1)\n    shutil.rmtree(old)\n",
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
    *(
        looks(
            f"in another form: {removes}",
            "checkpoint-rotation",
            7,
            "old checkpoints removed by every process",
            f"{HEAD}def main(args, accelerator, old):\n    limit = args.checkpoints_total_limit\n    if {test}:\n"
            f"        for each in old:\n            {removes}\n    accelerator.save_state(args.out)\n",
        )
        for test, removes in (
            ("limit", "shutil.rmtree(each)"),
            ("args.total_limit", "shutil.rmtree(each.path)"),
        )
    ),
    *(
        refused(
            f"by {removes}",
            "checkpoint-rotation",
            6,
            "no `accelerator.save_state(…)` of a name stands beside it",
            f"{HEAD}def main(args, accelerator, old):\n    if args.checkpoints_total_limit is not None:\n"
            f"        for each in old:\n            {removes}\n    accelerator.save_state(args.out)\n",
        )
        for removes in (
            'subprocess.run(["rm", "-rf", each])',
            "pool.submit(shutil.rmtree, each)",
            'os.system(f"rm {each}")',
        )
    ),
    looks("by a function", "checkpoint-rotation", 10, "old checkpoints removed by every", PRUNES.format("")),
    left(
        "by a function, in the main process", "checkpoint-rotation", PRUNES.format("if accelerator.is_main_process: ")
    ),
    left(
        "in another form, by the main process",
        "checkpoint-rotation",
        f"{HEAD}def main(args, accelerator, old):\n    if args.total_limit and accelerator.is_main_process:\n"
        "        shutil.rmtree(old)\n    accelerator.save_state(args.out)\n",
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


@pytest.mark.parametrize("given", GATES)
def test_a_situation(given: Given) -> None:
    check(given)
