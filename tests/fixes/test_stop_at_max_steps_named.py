"""stop-at-max-steps: a limit that is read by its name, a test that gives a name, a last epoch by a `match`."""

from __future__ import annotations

import ast

import pytest
from fixing import case, conflict, gone, satisfied, tables
from test_stop_at_max_steps import ASKED, NAME, SAVES, guarded, stopped, trials

from kit import fixes

NAMED = "vars(args)['max_train_steps']"
CONFIG = {"above": "    args = bs.config\n"}
APPLIED = [
    case(
        "options by another name, and a rhythm of them",
        guarded(ASKED, below=f"        if epoch % args.save_epochs == 0:\n{SAVES}", **CONFIG),
        guarded(
            ASKED,
            below=f"        if epoch % args.save_epochs == 0:\n{SAVES}",
            epochs="    for epoch in range(args.num_epochs):\n        if step >= args.max_train_steps:\n"
            "            break\n",
            **CONFIG,
        ),
    ),
    stopped("the option by its name", f"step >= {NAMED}", guarded(f"if step >= {NAMED}:\n    break\n")),
    stopped("named as it is asked", "step >= args.max_train_steps", guarded(f"if done := {ASKED[3:]}")),
]

REFUSED = [
    satisfied(
        "a while that goes on by a flag",
        guarded(ASKED.replace("    break", "    done = True\n    break"), epochs="    while not done:\n"),
    ),
    satisfied(
        "left by the else of the batches",
        guarded(ASKED, below="        else:\n            continue\n        break\n"),
    ),
    conflict(
        "the last epoch, by another name",
        "where `epoch == bs.config.num_epochs - 1` (line 9)",
        4,
        guarded(ASKED, below=f"        if epoch == bs.config.num_epochs - 1:\n{SAVES}", **CONFIG),
    ),
    conflict(
        "the last epochs",
        "where `args.num_epochs - epoch <= 3` (line 8)",
        3,
        guarded(ASKED, below=f"        if args.num_epochs - epoch <= 3:\n{SAVES}"),
    ),
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
WHILE = "    epoch = 0\n    while epoch < args.num_epochs:\n"
EACH = f"        if epoch % args.each == 0:\n{SAVES}"
HEADED = "        if step >= args.max_train_steps:\n            break\n"
APPLIED += [
    case(
        "a while that does something each so many epochs",
        guarded(ASKED, epochs=WHILE, below=EACH),
        guarded(ASKED, epochs=WHILE + HEADED, below=EACH),
    ),
    stopped(
        "the steps by the epoch and the batch",
        "step >= args.max_train_steps",
        guarded("step = epoch * 9 + b\n" + ASKED).replace("            step += 1\n", ""),
    ),
]


@pytest.mark.parametrize("limit", ["args.num_steps", "cfg.train.iterations", "args.n_updates"])
def test_steps_that_are_counted_look_like_a_limit(limit: str) -> None:
    def signs(counted: str, asked: str) -> list[int]:
        text = f"for epoch in es:\n    for b in bs:\n        if {counted} >= {asked}:\n            break\n"
        return [sign.line for sign in fixes.load(NAME).looks_like(ast.parse(text), {})]

    assert signs("global_step", limit) == [1]
    assert signs("i", limit) == signs("global_step", "args.eval_steps") == []


@pytest.mark.parametrize("flag", ["done", "control.should_stop"])
def test_a_flag_that_was_given_the_test_looks_like_it(flag: str) -> None:
    given = f"        {flag} = step >= args.max_train_steps\n"
    text = f"for epoch in es:\n    for b in bs:\n{given}        if {flag}:\n            break\n"
    for tail, lines in (("", [1]), (f"    if {flag}:\n        break\n", [])):
        assert [sign.line for sign in fixes.load(NAME).looks_like(ast.parse(text + tail), {})] == lines


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
