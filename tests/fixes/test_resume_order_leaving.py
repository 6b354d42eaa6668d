"""resume-order: what it refuses: a loop that ends early, passes by batches in its own way, or goes on by itself."""

from __future__ import annotations

from typing import Any

from fixing import conflict, tables
from test_resume_order import BEGUN, LOOP, NAME, TRAIN, script


def otherwise(id: str, reason: str, old: str, new: str, line: int = 16) -> Any:
    return conflict(id, reason, line, script().replace(old, new))


BACK = "if loss(batch).isnan(): accelerator.load_state(x)"
EPOCHS = "    for epoch in range(first_epoch, 9):\n"
ENDS = "                if step > 3: raise StopIteration\n                accelerator"
CUT = (
    script().replace(
        "        for step, batch in enumerate(loader):\n            # Train\n            accelerator",
        "        try:\n            for step, batch in enumerate(loader):\n                # Train\n" + ENDS,
    )
    + "        except StopIteration:\n            pass\n"
)
ELSE = f"            if done:\n                done -= 1\n            else:\n    {TRAIN}                accelerator"
COUNTS = script().replace("            # Train\n            accelerator", ELSE)
SKIP_ONE = "            if done > 0:\n                done -= 1\n                continue\n"
REFUSED = [
    otherwise(
        "an epoch that ends early",
        "a `break` (line 18)",
        LOOP,
        "            if step >= args.n:\n                break\n",
    ),
    conflict(
        "it counts down",
        "in its own way",
        17,
        script().replace("\n    for epoch", "        done = args.done\n\n    for epoch").replace(LOOP, SKIP_ONE),
    ),
    otherwise("by its number", "in its own way", LOOP, "            if step < args.begin:\n                continue\n"),
    *(
        otherwise(
            f"stateful: {what}", f"`{what}` lets the loader itself go on", "Accelerator()", f"Accelerator(); {what}"
        )
        for what in ("loader.load_state_dict(x)", "accelerator.register_for_checkpointing(loader)")
    ),
    otherwise("a stateful loader", "`StatefulDataLoader` lets", "Accelerator()", "StatefulDataLoader(1)"),
    *(
        otherwise(
            f"stateful, said by {yes}",
            f"`use_stateful_dataloader={yes}` lets",
            "or()",
            f"or(use_stateful_dataloader={yes})",
        )
        for yes in (1, True)
    ),
    otherwise(
        "a class so called", "`ResumableBatches` is something", "import torch\n", "class ResumableBatches: ...\n"
    ),
    conflict(
        "by a number from between",
        "in its own way",
        17,
        script(skip=BEGUN).replace("\n    for epoch", "    begun = args.begun\n\n    for epoch"),
    ),
    otherwise(
        "another loader later",
        "`loader` is given something else after it is prepared",
        "        for step",
        "        loader = accelerator.prepare(make(epoch))\n        for step",
        17,
    ),
    otherwise(
        "of the batch before",
        "`last` is made, or read, where `step > 0` (line 17)",
        LOOP,
        "            if step > 0:\n                batch = batch + last\n            last = batch\n",
    ),
    otherwise(
        "losses by number",
        "`losses[step - 1]` (line 18) is of an epoch's earlier batch",
        LOOP,
        "            losses.append(step)\n            print(losses[step - 1])\n",
    ),
    otherwise(
        "counted on from the step",
        "counts on from `global_step`, and from the batch, too",
        LOOP,
        "            print(global_step + epoch * len(loader) + step)\n",
    ),
    otherwise(
        "another accelerator", "`accelerator` loads the checkpoint, and `other`", "accelerator.prep", "other.prep"
    ),
    conflict(
        "a progress bar",
        "`bar` is `tqdm(…)` of a loader: go over `loader` itself",
        17,
        script(batch="batch", over="bar").replace(
            "    global_step = 0", "    bar = tqdm(loader, 'images')\n    global_step = 0"
        ),
    ),
    conflict(
        "what is left of a loader",
        "with `skip_first_batches`: take that out first",
        17,
        script(over="enumerate(left)").replace(
            "    global_step = 0", "    left = accelerator.skip_first_batches(loader, 3)\n    global_step = 0"
        ),
    ),
    otherwise("an earlier state brought back", "loaded in a loop (line 18)", LOOP, f"{LOOP}            {BACK}\n"),
    otherwise(
        "made with the first batch",
        "`total` is made, or read, where `step == 0` (line 17)",
        LOOP,
        "            if step == 0:\n                total = 0\n            total += 1\n",
    ),
    conflict(
        "another loader beside it",
        "`next(more)` (line 18) is read beside it",
        17,
        script().replace(LOOP, "            mine = next(more)\n").replace(EPOCHS, f"{EPOCHS}        more = iter(x)\n"),
    ),
    otherwise(
        "made with the tenth batch",
        "`begun` is made, or read, where `step == 10` (line 17)",
        LOOP,
        "            if step == 10:\n                begun = time()\n            if step > 10:\n"
        "                log(begun)\n",
    ),
    conflict("an epoch is cut", "a `raise` (line 19) ends an epoch", 17, CUT),
    conflict("it counts down, and trains else", "in its own way", 16, COUNTS),
    otherwise("another random", "`random` is something else", "import random", "from numpy import random"),
    otherwise("another os", "`os` is something else", "import os", "from six.moves import os"),
    otherwise("a random of its own", "`random` is something else", "import torch\n", "random = 4\n"),
    otherwise("a function os", "`os` is something else", "import os\n", "def os(): pass\n"),
    otherwise("a parameter", "`train_batches` is something else", "(args)", "(args, train_batches)"),
    *(
        otherwise(
            f"loaded on a line with others: {others}",
            "several statements share line 12",
            "    if args.resume_from_checkpoint:\n        accelerator.load",
            f"    {others}; accelerator.load",
            15,
        )
        for others in ("accelerator.print(1)", "first = 1; last = 9")
    ),
]


_, test_refused = tables(NAME, [], REFUSED)
