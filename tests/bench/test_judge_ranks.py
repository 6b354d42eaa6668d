"""The judge that runs scripts: it lets pass what is right, and finds each kind of wrong edit."""

from __future__ import annotations

import judge_ranks
import pytest

SCRIPT = """\
import argparse
import os
import shutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir")
    parser.add_argument("--max_train_steps", type=int)
    return parser.parse_args()


def main():
    args = parse_args()
    accelerator = Accelerator()

    def save_model_hook(models, weights, output_dir):
        for model in models:
            if accelerator.is_main_process:
                model.save_pretrained(output_dir)
            weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)
    model, loader = accelerator.prepare(Model(), Loader())
    global_step = 0
    for epoch in range(2):
        for step, (pictures, texts) in enumerate(loader):
            with torch.autocast("cuda"):
                loss = model(pictures, texts)
            accelerator.backward(loss)
            global_step += 1
            if accelerator.is_main_process:
                path = os.path.join(args.output_dir, f"checkpoint-{global_step}")
                shutil.rmtree("old")
                accelerator.save_state(path)
            if global_step >= args.max_train_steps:
                break
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
"""
GATE = "            if accelerator.is_main_process:\n                path ="
OPEN = GATE.replace("process:", "process or accelerator.distributed_type == DistributedType.DEEPSPEED:")


def verdict(*changes: tuple[str, str]) -> judge_ranks.Verdict:
    after = SCRIPT
    for old, new in changes:
        assert old in after
        after = after.replace(old, new, 1)
    return judge_ranks.judged(SCRIPT.encode(), after.encode())


def test_what_is_right() -> None:
    guarded = ("    shutil.rmtree", "    if accelerator.is_main_process:\n                    shutil.rmtree")
    popped = ("            weights.pop()", "            if weights:\n                weights.pop()")
    found = verdict(
        (GATE, OPEN), guarded, popped, ("(2):\n", "(2):\n        if global_step >= args.max_train_steps: break\n")
    )
    assert found.fault == ""
    assert found.seen == found.statements == 6


SAVES = "            if accelerator.is_main_process:\n                model.s"
WRONG = {
    "written on both ranks in world 0 of DeepSpeed: rmtree old": [(GATE, OPEN), ("weights.pop()", "pass")],
    "written on both ranks in world 0 of DeepSpeed: save_pretrained out/checkpoint-1": [
        (GATE, OPEN),
        ("weights.pop()", "pass"),
        ('shutil.rmtree("old")', "pass"),
        (SAVES, SAVES.replace("accelerator.is_main_process", "True")),
    ],
    "ranks differ in world 0: gather": [("    shutil", "    accelerator.gather(loss)\n                shutil")],
    "rank 0 in world 0: UnboundLocalError": [("(loss)\n", "(loss)\n            steps += 1\n")],
    "rank 0 in world 0: NameError": [("(loss)\n", "(loss)\n            accelerate.print('')\n")],
    "rank 0 in world 0: AttributeError": [("args.max_train_steps", "args.max_steps")],
    "rank 0 in world 0: TypeError: autocast()": [('autocast("cuda")', "autocast(accelerator.device)")],
    "rank 0 in world 0: ValueError": [("step, (pictures, texts)", "step, pictures, texts")],
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong(fault: str) -> None:
    assert verdict(*WRONG[fault]).fault.startswith(fault)
