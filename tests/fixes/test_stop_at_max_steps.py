"""stop-at-max-steps: leave the loop over epochs, too, when the step limit is reached."""

from __future__ import annotations

import ast
import textwrap
from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

from kit import fixes

NAME = "stop-at-max-steps"
LIMIT = "if global_step >= args.max_train_steps"

APPLIED = [
    case(
        "as in the script",
        f"""
        def main(args, first_epoch):
            global_step = args.start
            for epoch in range(first_epoch, args.num_train_epochs):
                # set to training
                model.train()

                for step, batch in enumerate(args.batches):
                    with accelerator.accumulate(model):
                        global_step += 1
                    {LIMIT}:
                        break
                validate(epoch)
            return global_step
        """,
        f"""
        def main(args, first_epoch):
            global_step = args.start
            for epoch in range(first_epoch, args.num_train_epochs):
                {LIMIT}:
                    break
                # set to training
                model.train()

                for step, batch in enumerate(args.batches):
                    with accelerator.accumulate(model):
                        global_step += 1
                    {LIMIT}:
                        break
                validate(epoch)
            return global_step
        """,
    ),
    case(
        "the loop over batches has loops of its own, and its break is on one line",
        f"""
        def main(args, global_step):
            for epoch in epochs:
                for batch in batches:
                    for key in batch:
                        global_step += 1
                    {LIMIT}: break
        """,
        f"""
        def main(args, global_step):
            for epoch in epochs:
                {LIMIT}:
                    break
                for batch in batches:
                    for key in batch:
                        global_step += 1
                    {LIMIT}: break
        """,
    ),
    case(
        "a loop around the epochs is left alone",
        f"""
        def main(args, global_step):
            for stage in stages:
                for epoch in epochs:
                    for batch in batches:
                        {LIMIT}:
                            log()
                            break
        """,
        f"""
        def main(args, global_step):
            for stage in stages:
                for epoch in epochs:
                    {LIMIT}:
                        break
                    for batch in batches:
                        {LIMIT}:
                            log()
                            break
        """,
    ),
    case(
        "while and async for",
        f"""
        class Trainer:
            @torch.no_grad
            async def train(self, args, global_step):
                while True:
                    async for batch in batches:
                        {LIMIT}:
                            break
        """,
        f"""
        class Trainer:
            @torch.no_grad
            async def train(self, args, global_step):
                while True:
                    {LIMIT}:
                        break
                    async for batch in batches:
                        {LIMIT}:
                            break
        """,
    ),
]


def trials(head: str, step: str, over: str = "fold in range(5)", tail: str = "") -> str:
    """A loop that trains anew each time, or may."""
    limit = f"            {step} += 1\n            if {step} >= args.max_train_steps:\n                break\n"
    loop = f"    for {over}:\n        {head}\n        for b in bs:\n{limit}"
    return f"def main(self, args, state, bs):\n    step = 0\n{tail}{loop}"


BEGIN = "def begin(self):\n    self.model.train()\n\n\n"
HEADED = "        if self.step >= args.max_train_steps:\n            break\n"
APPLIED += [
    case(
        "a trainer that begins each epoch",
        trials("self.begin(epoch)", "self.step", "epoch in range(5)"),
        trials("self.begin(epoch)", "self.step", "epoch in range(5)").replace("(5):\n", f"(5):\n{HEADED}"),
    ),
    case(
        "what is called is there, and harmless",
        BEGIN + trials("self.begin()", "self.step", "epoch in range(5)"),
        BEGIN + trials("self.begin()", "self.step", "epoch in range(5)").replace("(5):\n", f"(5):\n{HEADED}"),
    ),
]


def guarded(
    limit: str, above: str = "", epochs: str = "    for epoch in range(args.num_epochs):\n", below: str = ""
) -> str:
    """A training whose limit is looked at in some way, with more above the loop, in it, and below that over batches."""
    head = f"def main(args, bs, done):\n    step = 0\n{above}{epochs}        for b in bs:\n            step += 1\n"
    return head + textwrap.indent(limit, " " * 12) + below


def stopped(id: str, test: str, text: str) -> object:
    """A row whose loop over epochs, on line 4, then begins with a break at a test."""
    lines = text.splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if "for epoch" in line) + 1
    return case(id, text, "".join([*lines[:at], f"        if {test}:\n            break\n", *lines[at:]]))


ASKED = "if step >= args.max_train_steps:\n    break\n"
GUARD = "args.max_train_steps is not None"
INNER = textwrap.indent(ASKED, "    ")
SAVES = "            model.save_pretrained(args.out)\n"
APPLIED += [
    stopped("None around it", f"{GUARD} and step >= args.max_train_steps", guarded(f"if {GUARD}:\n{INNER}")),
    stopped(
        "an option, and what is asked of a batch, around it",
        "args.limited and step >= args.max_train_steps",
        guarded(
            f"if args.limited and b % 2 == 0:\n    if accelerator.sync_gradients:\n{textwrap.indent(INNER, '    ')}"
        ),
    ),
    stopped(
        "below where the step is counted",
        "step >= args.max_train_steps",
        guarded(f"if b.full:\n    step += 1\n{INNER}"),
    ),
    stopped(
        "what is done in all epochs but the last",
        "step >= args.max_train_steps",
        guarded(ASKED, below=f"        if args.save and epoch + 1 < args.num_epochs:\n{SAVES}"),
    ),
    stopped(
        "what is done in all epochs but the last, by a name",
        "step >= args.max_train_steps",
        guarded(ASKED, below=f"        saving = args.s and epoch + 1 < args.num_epochs\n        if saving:\n{SAVES}"),
    ),
    stopped(
        "epochs that are asked for other numbers",
        "step >= args.max_train_steps",
        guarded(ASKED, below=f"        if epoch == 0 or (epoch + 1) % args.each == 0:\n{SAVES}"),
    ),
]
RESETS = "def reset(self):\n    self.step = 0\n\n\ndef begin(self):\n    self.reset()\n\n\n"

LOOPS = "def f(es, global_step):\n    for e in es:\n        for b in e:\n"
REFUSED = [
    gone("what holds the step is another each time", trials("state = State()", "state.step")),
    gone("an attribute that holds it", trials("self.state = make(fold)", "self.state.step")),
    gone("a method of it", trials("state.reset()", "state.step")),
    gone("it is handed on", trials("restore(state)", "state.step")),
    gone("set by its name", trials("setattr(self, 'step', 0)", "self.step")),
    gone("a method that another file has", trials("self.start_fold(fold)", "self.step")),
    gone("a method that calls another", RESETS + trials("self.begin()", "self.step", "epoch in range(5)")),
    gone(
        "a function inside",
        trials("new()", "step", tail="    def new():\n        nonlocal step\n        step = 0\n\n"),
    ),
    satisfied(
        "already there",
        f"for e in es:\n    {LIMIT}:\n        break\n    for b in bs:\n        {LIMIT}:\n            break\n",
    ),
    gone("one loop", f"for b in bs:\n    {LIMIT}:\n        break\n"),
    gone("a limit that does not break", f"for e in es:\n    for b in bs:\n        {LIMIT}:\n            stop()\n"),
    conflict(
        "two trainings in a file",
        "expected 1 place to fix, found 2 (lines 3, 9)",
        3,
        f"def f(args):\n    global_step = 0\n    for e in es:\n        for b in bs:\n            {LIMIT}:\n"
        "                break\n"
        f"def g(args):\n    global_step = 0\n    for e in es:\n        for b in bs:\n            {LIMIT}:\n"
        "                break\n",
    ),
    *(
        conflict(f"no {name}", f"`{name}` is not bound", 2, f"{LOOPS}            if global_step >= {limit}: break\n")
        for name, limit in (("args", "args.max_train_steps"), ("max_train_steps", "max_train_steps"))
    ),
    conflict(
        "a break would skip the loop's else",
        "a break would pass by the `else`",
        2,
        f"def f(args, global_step):\n    for e in es:\n        for b in bs:\n            {LIMIT}:\n"
        "                break\n    else:\n        done()\n",
    ),
]
ENDS = "epoch == args.num_epochs - 1"
LEFT = f"        left = args.num_epochs - epoch - 1\n        if not left:\n{SAVES}"
LAST = "is_last = lambda e: e == args.num_epochs - 1\n"
HELPER = f"def finish(epoch, args):\n    if {ENDS}:\n        save()\n"
LISTED = f"        if epoch == es[-1]:\n{SAVES}"
REFUSED += [
    *(
        conflict(f"the last epoch: {asked}", f"where `{asked}` (line 8): move that below the loop", line, text)
        for asked, line, text in (
            (asked, 3, guarded(ASKED, below=f"        if {asked}:\n{SAVES}"))
            for asked in (
                "epoch == args.num_epochs - 1",
                "epoch + 1 >= args.num_epochs",
                "epoch % args.num_epochs == 0",
            )
        )
    ),
    conflict(
        "the last epoch, by names and numbers",
        "where `epoch == end` (line 10)",
        5,
        guarded(
            ASKED,
            "    count = args.num_epochs\n    end = count - 1\n",
            "    for epoch in tqdm(range(1, count)):\n",
            f"        if epoch == end:\n{SAVES}",
        ),
    ),
    conflict(
        "the last epoch, in an else",
        "where `epoch < args.num_epochs - 1` (line 8)",
        3,
        guarded(ASKED, below=f"        if epoch < args.num_epochs - 1:\n            pass\n        else:\n{SAVES}"),
    ),
    conflict(
        "the last epoch, by a number",
        "where `epoch == 2` (line 8): move that below the loop",
        3,
        guarded(ASKED, epochs="    for epoch in range(3):\n", below="        last = epoch == 2\n"),
    ),
    conflict(
        "the last epoch of a while",
        "where `epoch == args.n - 1` (line 8)",
        3,
        guarded(ASKED, epochs="    while epoch < args.n:\n", below=f"        if epoch == args.n - 1:\n{SAVES}"),
    ),
    *(
        conflict(
            f"the last epoch: {told}", f"where `{asked}` (line {line})", 3 + top.count("\n"), top + guarded(**given)
        )
        for told, asked, line, top, given in (
            ("what is left", "args.num_epochs - epoch - 1", 8, "", {"below": LEFT}),
            ("a lambda", "is_last(epoch)", 9, LAST, {"below": f"        if is_last(epoch):\n{SAVES}"}),
            ("a helper", "finish(epoch, args)", 11, HELPER, {"below": "        finish(epoch, args)\n"}),
            ("a list", "epoch == es[-1]", 8, "", {"epochs": "    for epoch in es:\n", "below": LISTED}),
            ("below the loop", "epoch == args.num_epochs - 1", 8, "", {"below": f"    if {ENDS}:\n    {SAVES[8:]}"}),
        )
        for given in ({"limit": ASKED, **given},)
    ),
    *(
        conflict(
            f"looked at now and then: {besides}", f"the limit is looked at where `{besides}` only", 3, guarded(text)
        )
        for besides, text in (
            ("b.last", "if b.last and step >= args.max_train_steps:\n    break\n"),
            ("done(step)", f"if done(step):\n{INNER}"),
            ("not (args.max_train_steps is None)", f"if args.max_train_steps is None:\n    pass\nelse:\n{INNER}"),
            ("not (not args.max_train_steps)", f"if not args.max_train_steps:\n    continue\n{ASKED}"),
        )
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_a_resume_in_the_middle_of_an_epoch_overshoots_before_and_not_after() -> None:
    """Three steps wanted, epochs of two batches, resumed at step 1: epoch 0 starts again from its first batch."""
    from contextlib import nullcontext

    given = APPLIED[0].values[0]
    args = SimpleNamespace(start=1, batches=[1, 2], num_train_epochs=2, max_train_steps=3)
    names = {
        "model": SimpleNamespace(train=lambda: None),
        "accelerator": SimpleNamespace(accumulate=lambda model: nullcontext()),
        "validate": lambda epoch: None,
    }
    assert run(given.before, **names)["main"](args, 0) == 4
    assert run(given.after, **names)["main"](args, 0) == 3


@pytest.mark.parametrize(
    "test",
    [
        "step == args.max_train_steps",
        "not step < args.max_train_steps",
        "step >= args['max_train_steps']",
        "(step := step + 1) >= args.max_train_steps",
        "step >= limit",
        "state['step'] >= args.max_train_steps",
        "step >= args.max_train_steps - 1",
        "done()",
        "enough()",
    ],
)
def test_a_limit_in_another_form_is_said_to_look_like_one(test: str) -> None:
    named = "limit = args.max_train_steps\ndone = lambda: step >= limit\ndef enough():\n    return limit <= step\n"
    inner = f"for epoch in es:\n    for b in bs:\n        if {test}:\n            break\n"
    for text, lines in ((inner, [1]), (f"{inner}    if {test}:\n        break\n", [])):
        tree = ast.parse(text + named)
        assert [sign.line for sign in fixes.load(NAME).looks_like(tree, {})] == lines
        assert not fixes.load(NAME).sites(tree, {})
