"""checkpoint-rotation: remove old checkpoints on the main process only."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, run, satisfied

NAME = "checkpoint-rotation"

APPLIED = [
    case(
        "as in the script",
        """
        def main(args, accelerator):
            if accelerator.is_main_process or accelerator.distributed_type == DistributedType.DEEPSPEED:
                # _before_ saving state, check
                if args.checkpoints_total_limit is not None:  # a limit
                    rotate()

                accelerator.save_state("x")
        """,
        """
        def main(args, accelerator):
            if accelerator.is_main_process or accelerator.distributed_type == DistributedType.DEEPSPEED:
                # _before_ saving state, check
                if args.checkpoints_total_limit is not None and accelerator.is_main_process:  # a limit
                    rotate()

                accelerator.save_state("x")
        """,
    ),
    case(
        "with another condition",
        "def f(args, accelerator, due):\n    if due and args.checkpoints_total_limit  is  not None:\n"
        "        rotate()\n",
        "def f(args, accelerator, due):\n"
        "    if due and args.checkpoints_total_limit  is  not None and accelerator.is_main_process:\n"
        "        rotate()\n",
    ),
    case(
        "with another condition over several lines",
        """
        def f(args, accelerator, due):
            if (
                due  # now
                and args.checkpoints_total_limit is not None
            ):
                rotate()
        """,
        """
        def f(args, accelerator, due):
            if (
                due  # now
                and args.checkpoints_total_limit is not None
            ) and accelerator.is_main_process:
                rotate()
        """,
    ),
    case(
        "on one line",
        "def f(args, accelerator):\n    if args.checkpoints_total_limit is not None: rotate()\n",
        "def f(args, accelerator):\n"
        "    if args.checkpoints_total_limit is not None and accelerator.is_main_process: rotate()\n",
    ),
    case(
        "asked for its truth, in a helper function",
        "async def f(args, accelerator):\n    while True:\n        if args.checkpoints_total_limit:\n"
        "            rotate()\n",
        "async def f(args, accelerator):\n    while True:\n"
        "        if args.checkpoints_total_limit and accelerator.is_main_process:\n            rotate()\n",
    ),
    case(
        "in the else branch of the main process's block",
        """
        def f(args, accelerator):
            if accelerator.is_main_process:
                pass
            else:
                if args.checkpoints_total_limit is not None:
                    rotate()
        """,
        """
        def f(args, accelerator):
            if accelerator.is_main_process:
                pass
            else:
                if args.checkpoints_total_limit is not None and accelerator.is_main_process:
                    rotate()
        """,
    ),
    case(
        "a walrus beside it",
        "def f(args, accelerator):\n    if (found := scan()) and args.checkpoints_total_limit is not None:\n"
        "        rotate(found)\n",
        "def f(args, accelerator):\n"
        "    if (found := scan()) and args.checkpoints_total_limit is not None and accelerator.is_main_process:\n"
        "        rotate(found)\n",
    ),
]

REFUSED = [
    satisfied(
        "asked beside it", "if accelerator.is_main_process and args.checkpoints_total_limit is not None:\n    pass\n"
    ),
    satisfied(
        "asked around it",
        "if accelerator.is_main_process and x:\n    for _ in y:\n"
        "        if args.checkpoints_total_limit is not None:\n            pass\n",
    ),
    satisfied(
        "asked in an elif around it",
        "if a:\n    b()\nelif accelerator.is_main_process:\n    if args.checkpoints_total_limit:\n        pass\n",
    ),
    gone("handed to accelerate", "config = Configuration(total_limit=args.checkpoints_total_limit)\n"),
    gone("the inner comparison", "if len(checkpoints) >= args.checkpoints_total_limit:\n    pass\n"),
    gone("the other way round", "if args.checkpoints_total_limit is None:\n    pass\n"),
    conflict(
        "the other processes would go to the else branch",
        "made 0: the code is not",
        2,
        "def f(args, accelerator):\n    if args.checkpoints_total_limit is not None:\n        a()\n    else:\n"
        "        b()\n",
    ),
    conflict(
        "an elif",
        "made 0: the code is not",
        4,
        "def f(args, accelerator):\n    if a():\n        pass\n"
        "    elif args.checkpoints_total_limit is not None:\n        b()\n",
    ),
    conflict(
        "no accelerator",
        "`accelerator` is not bound",
        2,
        "def f(args):\n    if args.checkpoints_total_limit is not None:\n        a()\n",
    ),
    conflict(
        "no args",
        "`args` is not bound",
        2,
        "def f(accelerator):\n    if args.checkpoints_total_limit is not None:\n        a()\n",
    ),
    conflict(
        "two places",
        "expected 1 place to fix, found 2 (lines 2, 4)",
        2,
        "def f(args, accelerator):\n    if args.checkpoints_total_limit is not None:\n        a()\n"
        "    if args.checkpoints_total_limit is not None:\n        b()\n",
    ),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_rotates(main: bool, limit: int | None) -> None:
    from types import SimpleNamespace

    given = APPLIED[1].values[0]
    for text, wanted in ((given.before, limit is not None), (given.after, limit is not None and main)):
        rotated: list[bool] = []
        function = run(text, rotate=lambda to=rotated: to.append(True))["f"]
        function(SimpleNamespace(checkpoints_total_limit=limit), SimpleNamespace(is_main_process=main), True)
        assert bool(rotated) == wanted
