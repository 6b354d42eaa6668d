#!/usr/bin/env python
"""Fit a line to points by stochastic gradient descent."""

import argparse
import math
import os
import random
import shutil
import sys

import tinytrain
from tinytrain import Accelerator, is_wandb_available


if is_wandb_available():
    import wandb  # noqa: F401


def save_model_card(repo_id, repo_folder):
    tinytrain.ask_hub(repo_id)
    with open(os.path.join(repo_folder, "README.md"), "w") as card:
        card.write(f"# {repo_id}\n")


def parse_args(input_args=None):
    parser = argparse.ArgumentParser(description="Fit a line.")
    parser.add_argument("--output_dir", type=str, default="line-model")
    parser.add_argument("--train_batch_size", type=int, default=4)
    parser.add_argument("--max_train_steps", type=int, default=40)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--checkpointing_steps", type=int, default=10)
    parser.add_argument("--checkpoints_total_limit", type=int, default=None)
    parser.add_argument("--resume_from_checkpoint", type=str, default=None)
    parser.add_argument("--push_to_hub", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(input_args)


def main(args):
    accelerator = Accelerator()
    accelerator.state.update(slope=0.0, offset=0.0)
    os.makedirs(args.output_dir, exist_ok=True)

    def save_model_hook(models, weights, output_dir):
        for model in models:
            with open(os.path.join(output_dir, "line.txt"), "w") as file:
                file.write("{slope} {offset}\n".format(**model))
            # make sure to pop weight so that corresponding model is not saved again
            if weights:
                weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)

    source = random.Random(args.seed)
    points = [(x / 10, 2 * x / 10 + 1 + source.gauss(0, 0.01)) for x in range(-10, 10)]
    batches = [points[start :: len(points) // args.train_batch_size] for start in range(len(points) // args.train_batch_size)]
    num_train_epochs = math.ceil(args.max_train_steps / len(batches))

    global_step = 0
    first_epoch = 0
    if args.resume_from_checkpoint:
        path = os.path.basename(args.resume_from_checkpoint)
        accelerator.print(f"Resuming from checkpoint {path}")
        accelerator.load_state(os.path.join(args.output_dir, path))
        global_step = int(path.split("-")[1])
        first_epoch = global_step // len(batches)

    for epoch in range(first_epoch, num_train_epochs):
        for step, batch in enumerate(batches):
            errors = [(tinytrain.predict(accelerator.state, x) - y, x) for x, y in batch]
            accelerator.state["slope"] -= args.learning_rate * 2 * sum(e * x for e, x in errors) / len(batch)
            accelerator.state["offset"] -= args.learning_rate * 2 * sum(e for e, _ in errors) / len(batch)
            loss = sum(e * e for e, _ in errors) / len(batch)
            global_step += 1

            if accelerator.is_main_process:
                if global_step % args.checkpointing_steps == 0:
                    # _before_ saving state, check if this save would set us over the `checkpoints_total_limit`
                    if args.checkpoints_total_limit is not None:
                        checkpoints = [d for d in os.listdir(args.output_dir) if d.startswith("checkpoint")]
                        checkpoints = sorted(checkpoints, key=lambda x: int(x.split("-")[1]))
                        for removing_checkpoint in checkpoints[: len(checkpoints) - args.checkpoints_total_limit + 1]:
                            shutil.rmtree(os.path.join(args.output_dir, removing_checkpoint))

                    save_path = os.path.join(args.output_dir, f"checkpoint-{global_step}")
                    accelerator.save_state(save_path)

            if accelerator.is_main_process:
                sys.stdout.write(f"\rSteps: {global_step}/{args.max_train_steps} loss={loss:.4f}")

            if global_step >= args.max_train_steps:
                break

    accelerator.save_state(args.output_dir)
    accelerator.print("\nslope {slope:.2f}, offset {offset:.2f}".format(**accelerator.state))
    save_model_card(os.path.basename(args.output_dir), args.output_dir)


if __name__ == "__main__":
    main(parse_args())
