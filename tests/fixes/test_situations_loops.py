"""`kit fix` on scripts of other shapes: loops over epochs, and what an accelerator is."""

from __future__ import annotations

import pytest
from situations import HEAD, OPEN, Given, check, left, looks, mended, refused

# An outer loop that assigns the step or the limit is not one over epochs.
HOURS = "time.time() - begun > args.max_hours * 3600"
SPENT = """
def main(args, loader, begun, seen):
    for epoch in range(args.epochs):
        {}
        for batch in loader:
            if {}:
                stop = True
                break
        {}
"""
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
    left(
        "a progress bar that starts anew",
        "stop-at-max-steps",
        """
        def main(args, loader, bar):
            for epoch in range(args.num_train_epochs):
                bar.reset()
                for batch in loader:
                    bar.update(1)
                    if bar.n >= bar.total:
                        break
        """,
    ),
    left(
        "a progress bar of each epoch",
        "stop-at-max-steps",
        """
        def main(args, loader):
            for epoch in range(args.num_train_epochs):
                bar = tqdm(loader)
                for batch in bar:
                    if bar.n >= bar.total:
                        break
        """,
    ),
    left(
        "steps of validation",
        "stop-at-max-steps",
        """
        def main(args, loader, step):
            for epoch in range(args.num_train_epochs):
                for batch in loader:
                    step += 1
                    if step >= args.validation_steps:
                        break
        """,
    ),
    mended(
        "a progress bar is full",
        "stop-at-max-steps",
        """
        def main(args, loader, bar):
            for epoch in range(args.num_train_epochs):
                for batch in loader:
                    bar.update(1)
                    if bar.n >= bar.total:
                        break
        """,
        "        if bar.n >= bar.total:\n            break\n        for batch in loader:",
    ),
    *(
        mended(
            f"the limit is called {name}",
            "stop-at-max-steps",
            f"""
            def main(args, loader, step):
                for epoch in range(args.num_train_epochs):
                    for batch in loader:
                        step += 1
                        if step >= args.{name}:
                            break
            """,
            f"        if step >= args.{name}:\n            break\n        for batch in loader:",
        )
        for name in ("train_iters", "max_global_steps", "max_iter", "total_iterations")
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
    *(
        looks(f"a limit: {test}", "stop-at-max-steps", 2, "goes on after the limit", SPENT.format("pass", test, "pass"))
        for test in ("seen >= args.max_train_tokens", HOURS)
    ),
    left("a limit on an epoch's time", "stop-at-max-steps", SPENT.format("begun = time.time()", HOURS, "pass")),
    left(
        "a limit on time, asked for below", "stop-at-max-steps", SPENT.format("stop = False", HOURS, "if stop: break")
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


@pytest.mark.parametrize("given", [*LOOPS, *ACCELERATORS])
def test_a_situation(given: Given) -> None:
    check(given)
