"""stop-at-max-steps: a limit that is read by its name, a test that gives a name, a last epoch by a `match`."""

from __future__ import annotations

from fixing import conflict, gone, satisfied, tables
from test_stop_at_max_steps import ASKED, NAME, SAVES, guarded, stopped, trials

NAMED = "vars(args)['max_train_steps']"
APPLIED = [
    stopped("the option by its name", f"step >= {NAMED}", guarded(f"if step >= {NAMED}:\n    break\n")),
    stopped("named as it is asked", "step >= args.max_train_steps", guarded(f"if done := {ASKED[3:]}")),
]

REFUSED = [
    gone("the limit is another each time", trials("vars(args)['max_train_steps'] += 9", "step", "epoch in range(5)")),
    satisfied(
        "left below, by the option's name", guarded(ASKED, below=f"        if step >= {NAMED}:\n            break\n")
    ),
    satisfied(
        "left below, by a name", guarded(f"if done := {ASKED[3:]}", below="        if done:\n            break\n")
    ),
    *(
        conflict(f"the last epoch: {asked}", f"where `{asked}` (line 8)", 3, guarded(ASKED, below=f"{head}{SAVES}"))
        for asked, case in (
            ("epoch", "n if n == args.num_epochs - 1"),
            ("args.num_epochs - epoch", "1"),
            ("epoch", "args.last_epoch"),
        )
        for head in (f"        match {asked}:\n          case {case}:\n",)
    ),
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
