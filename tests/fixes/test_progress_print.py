"""progress-print: print a line at the end of every training step."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "progress-print"
LIMIT = "if global_step >= args.max_train_steps"

APPLIED = [
    case(
        "after the break of the loop over batches",
        f"""
        def main(args, accelerator):
            for epoch in epochs:
                {LIMIT}:
                    break
                for batch in batches:
                    with accelerator.accumulate(model):
                        global_step += 1
                    {LIMIT}:
                        break

                if accelerator.is_main_process:
                    validate()
        """,
        f"""
        def main(args, accelerator):
            for epoch in epochs:
                {LIMIT}:
                    break
                for batch in batches:
                    with accelerator.accumulate(model):
                        global_step += 1
                    {LIMIT}:
                        break
                    accelerator.print("")

                if accelerator.is_main_process:
                    validate()
        """,
    ),
    case(
        "statements and comments follow",
        f"""
        accelerator = Accelerator()
        for batch in batches:
            for key in batch:
                move(key)
            # the end?
            {LIMIT}:  # yes
                log()
                break
            # not yet
            begin = now()
            accelerator.print(begin)
        """,
        f"""
        accelerator = Accelerator()
        for batch in batches:
            for key in batch:
                move(key)
            # the end?
            {LIMIT}:  # yes
                log()
                break
            accelerator.print("")
            # not yet
            begin = now()
            accelerator.print(begin)
        """,
    ),
    case(
        "on one line, in an async method",
        f"""
        class Trainer:
            async def train(self, args, accelerator):
                async for batch in self.batches:
                    {LIMIT}: break
        """,
        f"""
        class Trainer:
            async def train(self, args, accelerator):
                async for batch in self.batches:
                    {LIMIT}: break
                    accelerator.print("")
        """,
    ),
    case(
        "a while loop, and spacing of the test's own",
        "def f(args, accelerator):\n    while True:\n        if (global_step>=args.max_train_steps) :\n"
        "            break\n",
        "def f(args, accelerator):\n    while True:\n        if (global_step>=args.max_train_steps) :\n"
        "            break\n"
        '        accelerator.print("")\n',
    ),
]

FLAX = f"""
def main():
    for epoch in epochs:
        for batch in batches:
            global_step += 1
            {LIMIT}:
                break
"""

REFUSED = [
    satisfied("there", f'for b in bs:\n    {LIMIT}:\n        break\n    accelerator.print("")\n'),
    satisfied("with words", f'for b in bs:\n    {LIMIT}:\n        break\n    accelerator.print(f"{{b}}", end="")\n'),
    gone("no limit", "for b in bs:\n    accelerator.print('')\n"),
    gone("outside any loop", f"{LIMIT}:\n    pass\n"),
    gone("a limit that does not break", f"for b in bs:\n    {LIMIT}:\n        stop = True\n"),
    conflict("a flax script", "`accelerator` is not bound there: print by hand on one process", 5, FLAX),
    conflict(
        "accelerate's", "print with the Accelerator that trains", 7, f"from accelerate import Accelerator\n{FLAX}"
    ),
    conflict(
        "two loops in a file",
        "expected 1 place to fix, found 2 (lines 3, 6)",
        3,
        f"def f(args, accelerator):\n    for b in bs:\n        {LIMIT}:\n            break\n    for b in bs:\n"
        f"        {LIMIT}:\n            break\n",
    ),
    conflict(
        "an else of the limit",
        "its `else` is taken in every step",
        3,
        f"def f(args, accelerator):\n    for b in bs:\n        {LIMIT}:\n            break\n        else:\n"
        "            more()\n",
    ),
    conflict(
        "an elif",
        "it is an `elif`, which this fix cannot edit",
        5,
        f"def f(args, accelerator):\n    for b in bs:\n        if a:\n            pass\n        el{LIMIT}:\n"
        "            break\n",
    ),
    conflict(
        "bound only below",
        "`accelerator` may not be bound",
        3,
        f"def f(args):\n    for b in bs:\n        {LIMIT}:\n            break\n        accelerator = b\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
