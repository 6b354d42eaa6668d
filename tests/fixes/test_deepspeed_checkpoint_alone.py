"""deepspeed-checkpoint: what one process alone has or does beside a save, which all the others would come to, too."""

from __future__ import annotations

import pytest
from fixing import tables
from situations import Given, check, left, looks
from test_deepspeed_checkpoint import FROM, NAME, refused

REFUSED = [
    *(
        refused(f"one process alone has it: {id}", reason, line, body)
        for id, reason, line, body in [
            (
                "a name",
                "line 4 gives `out` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        out = wandb.init().id\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(out)\n",
            ),
            (
                "None for the others",
                "line 5 gives `run` to the main process alone",
                6,
                "    run = None\n    if accelerator.is_main_process:\n        run = wandb.init()\n"
                "    if accelerator.is_main_process and run.saves:\n        accelerator.save_state(1)\n",
            ),
            (
                "a progress bar",
                "line 4 gives `pbar` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        pbar = tqdm()\n    if accelerator.is_main_process:\n"
                "        pbar.update(1)\n        accelerator.save_state(1)\n",
            ),
            (
                "what it counts",
                "line 5 gives `n` to the main process alone",
                6,
                "    n = 0\n    if accelerator.is_main_process:\n        n = resumed()\n"
                "    if accelerator.is_main_process:\n        n += 1\n        accelerator.save_state(1)\n",
            ),
            (
                "a name in the round before",
                "line 7 gives `out` to the main process alone",
                4,
                "    for step in loader:\n        if accelerator.is_main_process:\n"
                "            accelerator.save_state(out)\n"
                "        if accelerator.is_main_process:\n            out = step\n",
            ),
            (
                "one or None",
                "line 3 gives `out` to the main process alone",
                4,
                "    out = new() if accelerator.is_main_process else None\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(out)\n",
            ),
            (
                "None in an else",
                "line 4 gives `out` to the main process alone",
                7,
                "    if accelerator.is_main_process:\n        out = new()\n    else:\n        out = None\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(out)\n",
            ),
            (
                "taken from the others",
                "line 4 gives `args.out` to the main process alone",
                5,
                "    if not accelerator.is_main_process:\n        args.out = None\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(args.out)\n",
            ),
            (
                "what it counted above",
                "line 5 gives `n` to the main process alone",
                6,
                "    n = 0\n    if accelerator.is_main_process:\n        n += 1\n"
                "    if accelerator.is_main_process and n > 3:\n        accelerator.save_state(1)\n        n = 0\n",
            ),
            (
                "a list it fills",
                "line 5 gives `done` to the main process alone",
                6,
                "    done = []\n    if accelerator.is_main_process:\n        done.append(1)\n"
                "    if accelerator.is_main_process and len(done) > 3:\n        accelerator.save_state(1)\n",
            ),
            (
                "an item",
                "line 5 gives `state` to the main process alone",
                6,
                "    state = {}\n    if accelerator.is_main_process:\n        state['out'] = new()\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(state['out'])\n",
            ),
            (
                "what a helper gives it",
                "line 6 gives `out` to the main process alone",
                7,
                "    def folder():\n        if accelerator.is_main_process:\n            return new()\n"
                "    out = folder()\n    if accelerator.is_main_process:\n        accelerator.save_state(out)\n",
            ),
            (
                "an attribute that a method sets",
                "line 4 gives `self.out` to the main process alone",
                7,
                "    def make(self):\n        self.out = new()\n    if accelerator.is_main_process:\n"
                "        self.make()\n    if accelerator.is_main_process:\n        accelerator.save_state(self.out)\n",
            ),
            (
                "an attribute",
                "line 4 gives `self.out` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        self.out = new()\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(self.out)\n",
            ),
        ]
    ),
    *(
        refused(f"each has its own: {id}", f"`{differs}` may differ from process", line, body)
        for id, differs, line, body in [
            (
                "the clock, by two names",
                "due",
                5,
                "    gone = time.time() - began\n    due = gone > 9\n    if accelerator.is_main_process and due:\n"
                "        accelerator.save_state(1)\n",
            ),
            (
                "losses in a list",
                "sum(losses) < 9",
                5,
                "    losses = []\n    losses.append(loss.item())\n"
                "    if accelerator.is_main_process and sum(losses) < 9:\n        accelerator.save_state(1)\n",
            ),
            (
                "losses in a list, asked around it",
                "mean < 9",
                7,
                "    losses = []\n    losses.append(loss.item())\n    mean = sum(losses)\n    if mean < 9:\n"
                "        if accelerator.is_main_process:\n            accelerator.save_state(1)\n",
            ),
            (
                "a meter of losses",
                "meter.avg < 9",
                4,
                "    meter.update(loss.item())\n    if accelerator.is_main_process and meter.avg < 9:\n"
                "        accelerator.save_state(1)\n",
            ),
        ]
    ),
    refused(
        "the main process first",
        "it stands in `main_process_first()`",
        4,
        "    with accelerator.main_process_first():\n        if accelerator.is_main_process:\n"
        "            accelerator.save_state(1)\n",
    ),
    *(
        refused(
            f"others still write there: {id}",
            f"`{call}(…)` takes the folder",
            4 + 2 * ("def" in body),
            f"    path = f'{{out}}/{{step}}'\n{body}",
        )
        for id, call, body in [
            (
                "it is archived",
                "shutil.make_archive",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "        shutil.make_archive(path, 'tar', path)\n",
            ),
            (
                "the one around it is uploaded",
                "upload_folder",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "        if args.push:\n            upload_folder(folder_path=out)\n",
            ),
            (
                "it is renamed below",
                "os.rename",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "    if accelerator.is_main_process:\n        os.rename(path, 'last')\n",
            ),
            (
                "saved by a function",
                "os.rename",
                "    def keep(n, to):\n        accelerator.save_state(to)\n    if accelerator.is_main_process:\n"
                "        keep(1, path)\n        os.rename(path, 'last')\n",
            ),
        ]
    ),
]

_, test_refused = tables(NAME, [], REFUSED)


@pytest.mark.parametrize(
    "given",
    [
        looks(how, NAME, line, how, f"{FROM}accelerator = Accelerator()\n{text}")
        for how, line, text in [
            (
                "`@accelerator.on_main_process`",
                5,
                "@accelerator.on_main_process\ndef f():\n    accelerator.save_state(1)\n",
            ),
            (
                "`if accelerator.process_index != 0`",
                6,
                "def f():\n    if accelerator.process_index != 0:\n        return\n    accelerator.save_state(1)\n",
            ),
            (
                "`@alone`",
                10,
                "def alone(f):\n    def inner():\n        if accelerator.is_main_process:\n            f()\n"
                "    return inner\n@alone\ndef save():\n    accelerator.save_state(1)\n",
            ),
            (
                "`if due`",
                6,
                "main = accelerator.is_main_process\ndue = main and x\nif due:\n    accelerator.save_state(1)\n",
            ),
            (
                "`accelerator.save_state`",
                4,
                "if accelerator.is_main_process:\n    Thread(target=accelerator.save_state).start()\n",
            ),
            (
                "one process may pass by, and the others would wait (`if batch is None`)",
                6,
                "for batch in loader:\n    if batch is None:\n        continue\n    accelerator.save_state(1)\n",
            ),
            (
                "`if ready`",
                7,
                "main = accelerator.is_main_process\ndue = main and x\nready = due or y\nif ready:\n"
                "    accelerator.save_state(1)\n",
            ),
            (
                "`accelerator.is_main_process`",
                3,
                "due and accelerator.is_main_process and accelerator.save_state(1)\n",
            ),
            (
                "(`save` also removes files)",
                5,
                "def save(accelerator):\n    shutil.rmtree(1)\n    accelerator.save_state(1)\n",
            ),
            ("`@on_main`", 5, "@on_main\ndef f():\n    accelerator.save_state(1)\n"),
            ("by `save_ckpt(…)`", 4, "if accelerator.is_main_process:\n    save_ckpt(accelerator, 1)\n"),
            ("`if dist.get_rank() == 0`", 4, "if dist.get_rank() == 0:\n    accelerator.save_state(1)\n"),
            ("`if os.environ['RANK'] == '0'`", 4, "if os.environ['RANK'] == '0':\n    accelerator.save_state(1)\n"),
            *(
                (f"by `{call}(…)`", 5, f"{given}\nif accelerator.is_main_process:\n    {call}(1)\n")
                for call, given in (
                    ("save", "save = accelerator.save_state"),
                    ("save", "save = partial(accelerator.save_state, 1)"),
                    ("save", "save = lambda at: accelerator.save_state(at)"),
                    ("getattr(accelerator, 'save_state')", "save = 1"),
                )
            ),
        ]
    ],
)
def test_other_ways_to_save_alone_are_said(given: Given) -> None:
    check(given)


@pytest.mark.parametrize(
    "given",
    [
        left(how, NAME, f"{FROM}accelerator = Accelerator()\n{text}")
        for how, text in (
            ("another thing with it", "if accelerator.is_main_process:\n    report(accelerator)\n"),
            ("a checkpoint of a model", "if accelerator.is_main_process:\n    save_checkpoint(model)\n"),
            ("another of its methods", "if accelerator.is_main_process:\n    Thread(target=run.upload).start()\n"),
            ("another by its name", "if accelerator.is_main_process:\n    getattr(run, 'log')(1)\n"),
            ("a folder of each", "due and accelerator.save_state(f'{out}/{rank}')\n"),
            ("what a function says of its rank", "out = folder(rank)\nif out:\n    accelerator.save_state(out)\n"),
            (
                "a trainer's own",
                "class Trainer:\n    def save(self):\n        shutil.rmtree(1)\n"
                "        self.accelerator.save_state(1)\n",
            ),
        )
    ],
)
def test_what_all_come_to_is_not_said(given: Given) -> None:
    check(given)
