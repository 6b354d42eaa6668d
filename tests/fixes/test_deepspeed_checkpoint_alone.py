"""deepspeed-checkpoint: what one process alone has or does beside a save, which all the others would come to, too."""

from __future__ import annotations

import textwrap

import pytest
from fixing import satisfied, tables
from situations import Given, check, looks, tried
from test_deepspeed_checkpoint import BOTH, FROM, NAME, refused

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

MAIN = "accelerator.is_main_process"
SAVES = f"    if {MAIN}:\n        accelerator.save_state(out)\n"
FOLDER = f"def folder():\n    out = None\n    if {MAIN}:\n        out = 1\n    return out\n"
ALONE, SAVED = SAVES[: SAVES.index("        ")], SAVES[SAVES.index("        ") :]
IN_ARGS = SAVES.replace("(out)", "(args.out)")
LOADED = "    for step, batch in enumerate(loader):\n"
MATCH = "    match accelerator.process_index:\n        case 0:\n            out = 1\n"
REFUSED += [
    *(
        refused(id, f"line {at} gives `out` to the main process alone", line, f"{given}{SAVES}{below}")
        for id, at, line, given, below in (
            ("by a match", 5, 6, MATCH, ""),
            ("by a match, None for others", 5, 8, f"{MATCH}        case _:\n            out = None\n", ""),
            ("in an else", 6, 7, f"    if not {MAIN}:\n        pass\n    else:\n        out = 1\n", ""),
            ("by its rank", 5, 6, "    out = None\n    if rank == 0:\n        out = 1\n", ""),
            (
                "what is called there alone",
                6,
                7,
                "    @accelerator.on_main_process\n    def new():\n        return 1\n    out = new()\n",
                "",
            ),
            ("from a function", 3, 4, "    out = folder()\n", FOLDER),
        )
    ),
    *(
        refused(f"a tracker's folder: {folder}", "`out` may differ from process to process", 5, f"{given}{SAVES}")
        for folder in (
            "accelerator.get_tracker('wandb').run",
            "accelerator.trackers[0]",
            "wandb.run",
            "mlflow.active_run().info",
        )
        for given in (f"    run = {folder}\n    out = os.path.join(run.dir, str(step))\n",)
    ),
    *(
        refused(f"where {asked}", f"`{asked}` may differ from process to process", 5 + leaves, f"{LOADED}{given}")
        for asked, leaves in (("batch is None", 1), ("torch.isnan(loss)", 1), ("batch is not None", 0))
        for given in (
            f"        if {asked}:\n"
            + "            continue\n" * leaves
            + textwrap.indent(SAVES, "    " * (2 - leaves)),
        )
    ),
]

FLAG = """\
    def stop(number, frame):
        nonlocal due
        due = True
    signal.signal(signal.SIGUSR1, stop)
"""
REFUSED += [
    refused("what a signal sets", "`due` may differ", 7, f"{FLAG}{SAVES.replace(MAIN, f'{MAIN} and due')}"),
    *(
        refused(f"a folder by the clock: {clock}", "`args.out` may differ", 4, f"    args.out = {clock}\n{IN_ARGS}")
        for clock in ("datetime.now()", "time.strftime('%H')", "os.path.join(args.out, socket.gethostname())")
    ),
    *(
        refused(f"counted above the save: {removes}", f"`{named}(…)` is above the save", 3, f"{ALONE}{removes}{SAVED}")
        for named, removes in (
            ("rotate", "        rotate(out, args.limit)\n"),
            ("shutil.rmtree", "        for old in sorted(os.listdir(out))[:-3]:\n            shutil.rmtree(old)\n"),
        )
    ),
    satisfied(
        "DeepSpeed by its plugin",
        f"{FROM}accelerator = Accelerator()\n"
        + SAVES.replace(MAIN, f"{MAIN} or accelerator.state.deepspeed_plugin is not None").replace("    ", "", 1),
    ),
    satisfied(
        "the others below",
        f"{BOTH}def main(accelerator):\n    if accelerator.distributed_type == DistributedType.DEEPSPEED and due:\n"
        f"        accelerator.save_state(1)\n    el{SAVES.lstrip()}",
    ),
]

_, test_refused = tables(NAME, [], REFUSED)


@pytest.mark.parametrize("rank", ["args.rank", "config.rank"])
def test_the_rank_of_a_lora_is_no_process(rank: str) -> None:
    text = f"{BOTH}def main(accelerator, args):\n    if {rank} > 4:\n        out = 1\n{SAVES}"
    assert not tried(NAME, text)[0].findings[0].reason


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
