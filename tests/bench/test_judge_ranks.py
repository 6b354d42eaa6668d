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


def changed(script: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in script
        script = script.replace(old, new, 1)
    return script


def verdict(*changes: tuple[str, str]) -> judge_ranks.Verdict:
    return judge_ranks.judged(SCRIPT.encode(), changed(SCRIPT, *changes).encode())


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


LOOP, BACKWARD = "    for epoch in range(2):\n", "            accelerator.backward(loss)\n"
LIMIT = "            if global_step >= args.max_train_steps:\n                break\n"
STOPS = LOOP + "        if global_step >= 3:\n            break\n"
RESUMES = '    if accelerator.is_main_process:\n        accelerator.load_state("out")\n        global_step = 2\n'
SAVES_STEP = BACKWARD + '            torch.save(model, f"out/{global_step}.bin")\n'
NEVER = "\ndef save(accelerator, path):\n    accelerator.save_state(path)\n\n\ndef main():\n    raise SystemExit\n"
SAVER = """
class Saver:
    def __init__(self, accelerator):
        accelerator.register_save_state_pre_hook(self.save)


def save(accelerator, path):
    accelerator.print(path)
"""
# What a script does that makes the ranks look as if an edit had parted them: its own lines, then the edit.
ITS_OWN = {
    "ranks that resume apart": ([(LOOP, RESUMES + LOOP), (LIMIT, "")], (LOOP, STOPS)),
    "a file of each step, on both": ([(BACKWARD, SAVES_STEP)], ("global_step = 0", "global_step = 5")),
    "batches by their names": (
        [(LOOP, "    seen = {first: 1 for first, _ in tqdm(loader)}\n" + LOOP)],
        (BACKWARD, BACKWARD + "            seen[pictures] += 1\n"),
    ),
    "a hook of an object that nobody made": ([("\ndef main():\n", NEVER)], ("\ndef save(accelerator, path):\n", SAVER)),
}


@pytest.mark.parametrize("what", ITS_OWN)
def test_what_was_so_before(what: str) -> None:
    own, edit = ITS_OWN[what]
    before = changed(SCRIPT, *own)
    assert judge_ranks.judged(before.encode(), changed(before, edit).encode()).fault == ""


def test_a_context_of_the_device_and_a_seed_that_is_a_thing() -> None:
    inside = "            with torch.cuda.device(accelerator.device):\n                random.seed(loss)\n    "
    before = changed(SCRIPT, ("import os\n", "import os\nimport random\n"), (BACKWARD, inside + BACKWARD))
    after = changed(before, ("    shutil", "    accelerator.gather(loss)\n                shutil"))
    assert judge_ranks.judged(before.encode(), after.encode()).fault == "ranks differ in world 0: gather"
