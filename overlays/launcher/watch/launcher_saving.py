"""Save a checkpoint at the next step, and end, once that was asked for: something stands in the file $LAUNCHER_STOP.

A training script saves by itself, every so many steps: `if global_step % args.checkpointing_steps == 0:`. That number
is replaced by one that divides every step when a save is due; so what is saved, where and by which processes is the
script's own doing. $LAUNCHER_SAVES names the argument, and switches that are to be on then. When the save is over, at
the next step's backward pass, all processes end with status 0; `saved` stands in the file then.
"""

import argparse
import os
import sys

STOP = os.environ.get("LAUNCHER_STOP", "")
NAMES = os.environ.get("LAUNCHER_SAVES", "").split()


class Now:
    """Whether a save is due at this step; what the processes are just asking each other; the arguments there are."""

    due = False
    asking = None
    arguments = ()


class Every(int):
    """How many steps lie between two checkpoints; none once a save is due."""

    def __rmod__(self, step):
        return 0 if Now.due else int(step) % int(self)


def parsing(module):
    """Put an Every in the place of the argument that says how often checkpoints are saved; without one: never."""
    original = module.ArgumentParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None):
        found, rest = original(self, args, namespace)
        if NAMES and hasattr(found, NAMES[0]):
            setattr(found, NAMES[0], Every(getattr(found, NAMES[0]) or sys.maxsize))
            Now.arguments += (found,)
        return found, rest

    module.ArgumentParser.parse_known_args = parse_known_args


def interval(module):
    """The same for SimpleTuner, which asks a method of its trainer."""
    original = module.Trainer._checkpoint_step_interval
    module.Trainer._checkpoint_step_interval = lambda self: Every(original(self) or sys.maxsize)


def stepping(module):
    """Ask, after every backward pass that a step follows, whether to save; end before the next one."""
    original = module.Accelerator.backward

    def backward(self, loss, *more, **named):
        if Now.due:
            end(self)
        original(self, loss, *more, **named)
        if self.sync_gradients:
            Now.due = agreed(self)
            for found in Now.arguments if Now.due else ():
                vars(found).update(dict.fromkeys(NAMES[1:], True))

    module.Accelerator.backward = backward


def agreed(accelerator):
    """Whether any process of any machine was asked: all hear the same, at the same step. The answer is the one to the
    question of the step before, so that no process waits for another one here."""
    import torch
    from torch import distributed

    with open(STOP, "a") as file:  # it is there from now on: a save can be asked for
        asked = file.tell() > 0
    if accelerator.num_processes == 1 or not distributed.is_initialized():
        return asked
    before, flag = Now.asking, torch.tensor([float(asked)], device=accelerator.device)
    Now.asking = distributed.all_reduce(flag, distributed.ReduceOp.MAX, async_op=True), flag
    if not before:
        return False
    before[0].wait()
    return before[1].item() > 0


def end(accelerator):
    """End this process when all have saved."""
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        with open(STOP, "a") as file:
            file.write("saved\n")
    accelerator.end_training()
    sys.exit(0)


parsing(argparse)
HOOKS = {"accelerate.accelerator": stepping, "simpletuner.helpers.training.trainer": interval}
