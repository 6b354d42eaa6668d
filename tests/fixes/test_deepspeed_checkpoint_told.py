"""deepspeed-checkpoint: what a tracker, a rank, a batch, a clock or a signal tells each process for itself."""

from __future__ import annotations

import textwrap

import pytest
from fixing import case, satisfied, tables
from situations import tried
from test_deepspeed_checkpoint import BOTH, FROM, NAME, OPEN, refused

MAIN = "accelerator.is_main_process"
SAVES = f"    if {MAIN}:\n        accelerator.save_state(out)\n"
FOLDER = f"def folder():\n    out = None\n    if {MAIN}:\n        out = 1\n    return out\n"
ALONE, SAVED = SAVES[: SAVES.index("        ")], SAVES[SAVES.index("        ") :]
IN_ARGS = SAVES.replace("(out)", "(args.out)")
LOADED = "    for step, batch in enumerate(loader):\n"
KEEPS = f"    def keep():\n        if {MAIN}:\n            accelerator.save_state(1)\n"
MATCH = "    match accelerator.process_index:\n        case 0:\n            out = 1\n"
REFUSED = [
    *(
        refused(id, f"line {at} gives `out` to the main process alone", line, f"{given}{SAVES}{below}")
        for id, at, line, given, below in (
            ("by a match", 5, 6, MATCH, ""),
            ("by a match, None for others", 5, 8, f"{MATCH}        case _:\n            out = None\n", ""),
            ("by a match, not for all others", 5, 8, f"{MATCH}        case _ if x:\n            out = 2\n", ""),
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
    refused(
        "a loss of one's own, handed in",
        "`loss.item()` may differ from process to process",
        4,
        "    def keep(loss):\n        if accelerator.is_main_process and loss < 1:\n"
        "            accelerator.save_state(1)\n    keep(loss.item())\n",
    ),
    *(
        refused(
            f"called where {asked}",
            f"`{asked}` may differ from process to process",
            4,
            f"{KEEPS}    for batch in loader:\n        if {asked}:\n            keep()\n",
        )
        for asked in ("time.time() - begun > 600", "torch.isnan(loss)")
    ),
    refused(
        "where a score is one's own, in a function",
        "`score(loader) < best` may differ",
        9,
        "    def score(loader):\n        total = 0.0\n        for batch in loader:\n"
        "            total += model(batch).item()\n        return total\n"
        f"    if score(loader) < best:\n    {SAVES.replace(chr(10), chr(10) + '    ').rstrip(' ')}",
    ),
    refused(
        "a folder of each process's own",
        "`out` may differ",
        4,
        f"    out = f'{{accelerator.process_index}}'\n{SAVES}",
    ),
    refused(
        "a folder that is by default named by the time",
        "`args.out` may differ",
        4,
        f"    parser.add_argument('--out', default=f'{{time.time()}}')\n{IN_ARGS}",
    ),
    refused(
        "called by a signal, in a lambda",
        "it stands in what `signal.signal` calls",
        4,
        f"{KEEPS}    signal.signal(15, lambda *a: keep())\n",
    ),
    refused(
        "a folder of Accelerator's own, named by the time",
        "`cfg.name` may differ from process to process",
        5,
        "    cfg.name += datetime.now().strftime('%H%M')\n    accelerator = Accelerator(project_dir=cfg.name)\n"
        "    if accelerator.is_main_process:\n        accelerator.save_state()\n",
    ),
    refused(
        "where a loss is no number, in a `with` above",
        "`not torch.isfinite(loss)` may differ from process to process",
        7,
        f"{LOADED}        with accelerator.accumulate(unet):\n            if not torch.isfinite(loss):\n"
        f"                continue\n{textwrap.indent(SAVES, '    ')}",
    ),
    *(
        refused(f"where {asked}", f"`{asked}` may differ from process to process", 5 + 2 * leaves, f"{LOADED}{given}")
        for asked, leaves in (("batch is None", 1), ("torch.isnan(loss)", 1), ("batch is not None", 0))
        for given in (
            f"        if {asked}:\n"
            + "            print(step)\n            continue\n" * leaves
            + textwrap.indent(SAVES, "    " * (2 - leaves)),
        )
    ),
]

KEEPER = """\
class Keeper:
    def __init__(self, accelerator):
        self.accelerator, self.saved = accelerator, []
        self.saved = []
    def save(self, to):
        self.saved.append(self.accelerator.save_state(to))
        shutil.rmtree(self.saved.pop(0))
"""
FLAG = """\
    def stop(number, frame):
        nonlocal due
        due = True
    signal.signal(signal.SIGUSR1, stop)
"""
REFUSED += [
    refused("what a signal sets", "`due` may differ", 7, f"{FLAG}{SAVES.replace(MAIN, f'{MAIN} and due')}"),
    refused(
        "what a signal sets of an object",
        "`args.due` may differ",
        6,
        "    def stop(*args):\n        args.due = True\n    signal.signal(15, stop)\n"
        + SAVES.replace(MAIN, f"{MAIN} and args.due"),
    ),
    refused(
        "files counted there",
        "`len(files) < 3` may differ",
        3,
        f"{ALONE}        files = glob.glob(out)\n        if len(files) < 3:\n            accelerator.save_state(1)\n",
    ),
    refused(
        "the disk", "`found` may differ", 4, f"    found = os.listdir(out)\n{SAVES.replace(MAIN, f'{MAIN} and found')}"
    ),
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
    refused(
        "counted above the save, and handed on below",
        "move it below that; `upload(…)` takes the folder while",
        3,
        f"{ALONE}        rotate(out, args.limit)\n{SAVED}        upload(out)\n",
    ),
    refused(
        "the first of two that one alone should do",
        "`upload(…)` is one process's work",
        3,
        f"{ALONE}{SAVED}        if done:\n            upload(1)\n            tell(2)\n            return\n",
    ),
    refused(
        "asked where a function saves",
        "`time.time() > due` may differ",
        6,
        f"    if {MAIN}:\n        keep(accelerator)\n",
        f"{BOTH}def keep(accelerator):\n    if time.time() > due:\n        accelerator.save_state(1)\n",
    ),
    refused(
        "a loss of its own that it adds up",
        "`total < 9` may differ",
        5,
        f"    total = 0.0\n    total += loss.item()\n{SAVES.replace(MAIN, f'{MAIN} and total < 9')}",
    ),
    satisfied(
        "DeepSpeed by its plugin",
        f"{FROM}accelerator = Accelerator()\n"
        + SAVES.replace(MAIN, f"{MAIN} or accelerator.state.deepspeed_plugin is not None").replace("    ", "", 1),
    ),
    refused(
        "a method of an object saves, and removes",
        "`keeper.save(…)` saves the state and calls `shutil.rmtree(…)`",
        11,
        f"    keeper = Keeper(accelerator)\n    if {MAIN}:\n        keeper.save(1)\n",
        BOTH + KEEPER,
    ),
    satisfied(
        "DeepSpeed by a name",
        f"{BOTH}def main(accelerator):\n    sharded = accelerator.distributed_type in (FSDP, DEEPSPEED)\n"
        + SAVES.replace(MAIN, f"sharded or {MAIN}"),
    ),
    satisfied(
        "the others below",
        f"{BOTH}def main(accelerator):\n    if accelerator.distributed_type == DistributedType.DEEPSPEED and due:\n"
        f"        accelerator.save_state(1)\n    el{SAVES.lstrip()}",
    ),
]

GATHERED = """\
    mean = accelerator.gather(loss).mean()
    total = 0.0
    total += mean.item()
    each = []
    each.append(accelerator.gather(loss))
    low = torch.cat(each).min().item()
"""
PATHS = "        out = os.path.join(root, '1')\n        accelerator.save_state(out)\n"
REMOVES = "        if os.path.isdir(old){also}:\n            shutil.rmtree(old)\n"
AGAIN = "def save(accelerator, out):\n    try:\n        accelerator.save_state(out)\n    except OSError:\n{}"
APPLIED = [
    *(
        case(
            f"in a circle: {id}",
            f"{BOTH}{above}def main(accelerator, out):\n    if {MAIN}:\n{saves}",
            f"{BOTH}{above}def main(accelerator, out):\n    if {OPEN}:\n{saves}",
        )
        for id, above, saves in (
            ("a folder of itself", "", f"        out: str\n        out = join(out, '1')\n{SAVED}"),
            (
                "a save that is tried again",
                AGAIN.format("        save(accelerator, out)\n"),
                "        save(accelerator, out)\n",
            ),
        )
    ),
    *(
        case(
            f"all are given it: {id}",
            f"{BOTH}{above}def main(accelerator, base):\n{given}{SAVES}",
            f"{BOTH}{above}def main(accelerator, base):\n{given}{SAVES.replace(MAIN, OPEN)}",
        )
        for id, above, given in (
            ("by a match", "", f"{MATCH}        case _:\n            out = 2\n"),
            ("of a checkpoint on the disk", "", "    found = os.listdir(base)\n    out = found[-1]\n"),
            (
                "by a function that does more on one",
                f"{FOLDER.replace('return out', 'return base')}",
                "    out = folder()\n",
            ),
        )
    ),
    *(
        case(id, f"{BOTH}{above}{text}", f"{BOTH}{above}{text.replace(MAIN, OPEN)}")
        for id, above, text in (
            (
                "another function has one of its name",
                f"def other(accelerator):\n    if {MAIN}:\n        out = 1\n        print(out)\n",
                f"def main(accelerator, out):\n{SAVES}",
            ),
            (
                "counted there, in a loop",
                "",
                f"def main(accelerator, out):\n    for x in y:\n        if {MAIN}:\n            out += 1\n    {SAVED}",
            ),
        )
    ),
    case(
        "a function of a module sets nothing that the save reads",
        f"import os\n{BOTH}def main(accelerator):\n    if {MAIN}:\n{PATHS}{REMOVES.format(also='')}",
        f"import os\n{BOTH}def main(accelerator):\n    if {OPEN}:\n{PATHS}{REMOVES.format(also=f' and {MAIN}')}",
    ),
    *(
        case(
            f"a loss that all were told: {told}",
            f"{BOTH}def main(accelerator):\n{GATHERED}{text}",
            f"{BOTH}def main(accelerator):\n{GATHERED}{text.replace(MAIN, f'({OPEN})')}",
        )
        for told in ("mean.item()", "total", "low")
        for text in (SAVES.replace(MAIN, f"{MAIN} and {told} < 9"),)
    ),
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize("rank", ["args.rank", "config.rank"])
def test_the_rank_of_a_lora_is_no_process(rank: str) -> None:
    text = f"{BOTH}def main(accelerator, args):\n    if {rank} > 4:\n        out = 1\n{SAVES}"
    assert not tried(NAME, text)[0].findings[0].reason


@pytest.mark.parametrize("decorator", ["hydra.main(config_name='a')", "main.command()", "torch.no_grad()"])
def test_a_decorator_of_the_program_lets_all_come(decorator: str) -> None:
    text = f"{FROM}accelerator = Accelerator()\n@{decorator}\ndef run():\n    accelerator.save_state(1)\n"
    assert not tried(NAME, text)[0].looks_like
