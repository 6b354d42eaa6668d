"""checkpoint-rotation: remove old checkpoints once the new one is whole, on the main process only."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

from kit import fixes

NAME = "checkpoint-rotation"

BEFORE = """\
def save(args, accelerator, step):
    {outer}
        # _before_ saving state, check if this save would set us over the `checkpoints_total_limit`
        if {test}:  # a limit
            checkpoints = os.listdir(args.output_dir)
            checkpoints = [d for d in checkpoints if d.startswith("checkpoint")]
            checkpoints = sorted(checkpoints, key=lambda x: int(x.split("-")[1]))

            # before we save the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints
            if len(checkpoints) >= args.checkpoints_total_limit:
                for removed in checkpoints[: len(checkpoints) - args.checkpoints_total_limit + 1]:
                    shutil.rmtree(os.path.join(args.output_dir, removed))

        save_path = os.path.join(args.output_dir, f"checkpoint-{{step}}")
        accelerator.save_state(save_path)
        print(f"Saved state to {{save_path}}")
        log(step)
"""
AFTER = """\
def save(args, accelerator, step):
    {outer}
        save_path = os.path.join(args.output_dir, f"checkpoint-{{step}}")
        accelerator.save_state(save_path)
        print(f"Saved state to {{save_path}}")

        # _after_ saving state, check if this save has set us over the `checkpoints_total_limit`
        if {test}:  # a limit
            checkpoints = os.listdir(args.output_dir)
            checkpoints = [d for d in checkpoints if d.startswith("checkpoint") and d != os.path.basename(save_path)]
            checkpoints = sorted(checkpoints, key=lambda x: int(x.split("-")[1]))

            # beside the new checkpoint, we need to have at _most_ `checkpoints_total_limit - 1` checkpoints
            if len(checkpoints) >= args.checkpoints_total_limit:
                for removed in checkpoints[: len(checkpoints) - args.checkpoints_total_limit + 1]:
                    shutil.rmtree(os.path.join(args.output_dir, removed))
        log(step)
"""
IMPORTS = "import os\nimport shutil\n"
MAIN = "accelerator.is_main_process"
LIMIT = "args.checkpoints_total_limit is not None"
EVERY, ALONE = f"if {MAIN} or accelerator.deepspeed:", f"if {MAIN}:"


def before(test: str = LIMIT, outer: str = EVERY) -> str:
    return IMPORTS + BEFORE.format(test=test, outer=outer)


def after(test: str = f"{LIMIT} and {MAIN}", outer: str = EVERY) -> str:
    return IMPORTS + AFTER.format(test=test, outer=outer)


PATH = '        save_path = os.path.join(args.output_dir, f"checkpoint-{step}")\n'


def moved(text: str, above: str, save: str, removes: bool) -> str:
    """The script with what names the folder above what removes others, and the save right below that."""
    text = text.replace(PATH, "").replace("        accelerator.save_state(save_path)\n", "" if removes else save)
    head, gate, rest = text.partition(f"    {EVERY}\n")
    rest = rest.replace("        print(", f"{save}        print(", 1) if removes else rest
    return head + gate + above + rest


APPLIED = [
    case("every process comes there", before(), after()),
    case("only the main process comes there", before(outer=ALONE), after(LIMIT, ALONE)),
    case("the main process is asked for", before(f"{MAIN} and {LIMIT}"), after(f"{MAIN} and {LIMIT}")),
    case(
        "asked for its truth", before("args.checkpoints_total_limit"), after(f"args.checkpoints_total_limit and {MAIN}")
    ),
    case("a walrus beside it", before(f"(n := 1) and {LIMIT}"), after(f"(n := 1) and {LIMIT} and {MAIN}")),
    case("in an else", before(outer=f"if {MAIN}: pass\n    else:"), after(outer=f"if {MAIN}: pass\n    else:")),
    case("below the save for all", after(LIMIT), after()),
    case(
        "the end of the function names the folder, too",
        before().replace("log(step)", "return save_path"),
        after().replace("log(step)", "return save_path"),
    ),
    case(
        "the name is another's below",
        before().replace("log(step)", "save_path = log(step)"),
        after().replace("log(step)", "save_path = log(step)"),
    ),
    case(
        "all that says where it was saved",
        before().replace("        log(step)", "        log(save_path)\n        log(step)"),
        after().replace('{save_path}")\n', '{save_path}")\n        log(save_path)\n'),
    ),
    case(
        "old checkpoints moved away",
        before().replace("rmtree(os.path.join(args.output_dir, removed))", "move(f'out/{removed}', 'old')"),
        after().replace("rmtree(os.path.join(args.output_dir, removed))", "move(f'out/{removed}', 'old')"),
    ),
    case(
        "listed in a loop",
        before().replace("[d for d in checkpoints", "[d for n in x for d in checkpoints"),
        after().replace("[d for d in checkpoints", "[d for n in x for d in checkpoints"),
    ),
    *(
        case(
            f"right above the save, {where}",
            moved(before(), above, "        # now\n        accelerator.save_state(save_path)\n", removes=True),
            moved(after(), above, "        # now\n        accelerator.save_state(save_path)\n", removes=False),
        )
        for where, above in (("second", PATH), ("third", f"{PATH}        a = 1\n"))
    ),
]


def listed(how: str) -> str:
    return before().replace("os.listdir(args.output_dir)", how)


PATH = 'save_path = os.path.join(args.output_dir, f"checkpoint-{step}")'


SAVES = "save_state(save_path)"
OTHERS = 'accelerator.save_state(os.path.join(args.output_dir, f"checkpoint-{step}"))'
TRIED = "        accelerator.save_state(save_path)\n"
TRIES = f"        try:\n    {TRIED}        except OSError:\n            pass\n"


def saved(value: str) -> str:
    return before().replace(PATH, f"save_path = {value}")


def also(id: str, value: str) -> object:
    return case(id, saved(value), after().replace(PATH, f"save_path = {value}"))


APPLIED += [
    also("the folder by pathlib", 'Path(args.output_dir) / f"checkpoint-{step}"'),
    also("the folder as text", 'f"{args.output_dir}/checkpoint-{step}"'),
    also("the folder added up", 'args.output_dir + "/" + "checkpoint-" + str(step)'),
    also("the folder by percent", 'os.path.join(args.output_dir, "checkpoint-%06d" % step)'),
    *(
        case(
            f"saved to {given}",
            before().replace(SAVES, f"save_state({given})"),
            after().replace(SAVES, f"save_state({given})"),
        )
        for given in ("output_dir=save_path", "str(save_path)")
    ),
    case(
        "saved by DeepSpeed's processes elsewhere",
        before(outer=f"if deepspeed:\n        {OTHERS}\n    elif {MAIN}:"),
        after(LIMIT, f"if deepspeed:\n        {OTHERS}\n    elif {MAIN}:"),
    ),
    also("its name has a name", 'f"checkpoint-{step}"\n        save_path = os.path.join(args.output_dir, save_path)'),
]


OLD = """\
def save(args, accelerator, save_path):
    if accelerator.is_main_process:
        accelerator.save_state(save_path)
        if args.checkpoints_total_limit is not None:
            saved = sorted(os.listdir(args.output_dir){key})
            for old in saved[: {less}-args.checkpoints_total_limit]:
                shutil.rmtree(os.path.join(args.output_dir, old))
"""


def refused(id: str, reason: str, text: str) -> object:
    lines = text.splitlines()
    return conflict(id, reason, 1 + next(at for at, line in enumerate(lines) if "total_limit is not" in line), text)


REFUSED = [
    satisfied("below the save", after()),
    satisfied("the oldest, below the save", IMPORTS + OLD.format(key=", key=lambda x: int(x.split('-')[1])", less="")),
    *(
        refused(f"{id}, below the save", "may count the one just saved", IMPORTS + OLD.format(key=key, less=less))
        for id, key, less in (("by their names", "", ""), ("one more", ", key=os.path.getmtime", "1 "))
    ),
    refused("the save in a try", "the save (line 18) stands in another statement", before().replace(TRIED, TRIES)),
    satisfied("below the save, the main process alone", after(LIMIT, ALONE)),
    gone("handed to accelerate", "config = Configuration(total_limit=args.checkpoints_total_limit)\n"),
    gone("the inner comparison", "if len(checkpoints) >= args.checkpoints_total_limit:\n    pass\n"),
    gone("the other way round", "if args.checkpoints_total_limit is None:\n    pass\n"),
    refused(
        "an Accelerator of another object",
        "`accelerator` is not bound there, but `run.accelerator` is: bind it above",
        before(outer="if True:").replace("accelerator, step", "run, step").replace("acc", "run.acc"),
    ),
    refused("no save beside it", "stands beside it", before().replace("accelerator.save_state", "keep")),
    refused(
        "what is saved has no name", "stands beside it", before().replace("state(save_path)", "state(f(save_path))")
    ),
    refused("listed otherwise", "does not list", before().replace('startswith("checkpoint")', "isdir()")),
    refused(
        "listed twice",
        "does not list",
        before().replace(
            "            checkpoints = sorted",
            "            a = [d for d in b if d.startswith('checkpoint')]\n            checkpoints = sorted",
        ),
    ),
    refused("full paths", "as os.listdir gives them", listed("glob.glob(args.output_dir + '/checkpoint*')")),
    refused(
        "two names for it",
        "as os.listdir gives them",
        before().replace("    checkpoints = os", "    a = checkpoints = os"),
    ),
    refused("more than the folder", "as os.listdir gives them", listed("os.listdir(args.output_dir, 1)")),
    refused("pathlib's", "as os.listdir gives them", listed("Path(args.output_dir).iterdir()")),
    *(
        refused(f"the folder is {id}", "may not tell `save_path` from the others", saved(value))
        for id, value in {
            "with a slash at its end": 'os.path.join(args.output_dir, f"checkpoint-{step}", "")',
            "with a slash in its name": 'os.path.join(args.output_dir, "checkpoint-%d/" % step)',
            "with a slash in its format": 'os.path.join(args.output_dir, "checkpoint-{}/".format(step))',
            "with a separator added": 'os.path.join(args.output_dir, f"checkpoint-{step}") + os.sep',
            "one further in": 'os.path.join(args.output_dir, f"checkpoint-{step}", "state")',
            "one further in, by option": 'os.path.join(args.output_dir, f"checkpoint-{step}", args.tag)',
            "one further in, in text": 'f"{args.output_dir}/checkpoint-{step}/state"',
            "one further in, by pathlib": 'Path(args.output_dir) / f"checkpoint-{step}" / "state"',
            "made twice": 'f"{args.output_dir}/checkpoint-{step}"; save_path = os.path.join(save_path, "s")',
            "somewhere else": 'os.path.join(args.logging_dir, f"checkpoint-{step}")',
            "of another name": 'os.path.join(args.output_dir, f"epoch-{step}")',
            "a function's": "folder_of(step)",
            "another one in a branch": "args.output_dir + '/checkpoint-1'\n        if step: save_path = 'x'",
        }.items()
    ),
    refused(
        "what is saved is handed in",
        "may not tell",
        before()
        .replace("step):", "step, save_path):", 1)
        .replace('        save_path = os.path.join(args.output_dir, f"checkpoint-{step}")\n', ""),
    ),
    refused(
        "renamed after the save",
        "gets another name",
        before().replace("log(step)", "os.rename(save_path, final)"),
    ),
    refused(
        "what it removes is said on the way",
        "`checkpoints` is given a value in it or on the way",
        before().replace("accelerator.save_state", "print(checkpoints)\n        accelerator.save_state"),
    ),
    refused(
        "what it removes is said at the end",
        "`checkpoints`, which it sets, is read below",
        before() + "        print(checkpoints)\n",
    ),
    refused(
        "what it asks is given on the way",
        "`n` is given a value in it or on the way",
        before(f"{LIMIT} and n").replace("        accelerator.save", "        n = 1\n        accelerator.save"),
    ),
    refused(
        "what it reads is given on the way",
        "that is not `folder` and one name",
        before()
        .replace("os.listdir(args.output_dir)", "os.listdir(folder)")
        .replace("        accelerator.save_state", "        folder = args.output_dir\n        accelerator.save_state"),
    ),
    refused(
        "it may end the function", "nothing saved", before().replace("checkpoints = sorted", "return\n            s")
    ),
    refused("counts the new one", "may count the one", after().replace(" and d != os.path.basename(save_path)", "")),
    refused(
        "the other processes would go to the else branch",
        "its `else` would be taken",
        before().replace("\n        save_path", "        else:\n            pass\n        save_path"),
    ),
    refused("no os", "`os` is not bound", before().replace("import os\n", "")),
    refused("no accelerator", "`accelerator` is not bound", before().replace("args, accelerator", "args")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_there_are_never_fewer_whole_ones_than_asked_for(limit: int | None, tmp_path: Path) -> None:
    """Two processes save in turn; the second one's new folder is there before the first one counts."""
    for name, text, wanted in (("old", before(), False), ("new", after(), True)):
        folder = tmp_path / f"{name}-{limit}"
        folder.mkdir()
        args = SimpleNamespace(output_dir=folder, checkpoints_total_limit=limit)
        left: list[int] = []

        def save_state(path: str, folder: Path = folder, left: list[int] = left) -> None:
            left.append(sum((each / "whole").exists() for each in folder.iterdir()))
            Path(path).mkdir(exist_ok=True)
            Path(path, "whole").touch()

        for step in range(1, 7):
            (folder / f"checkpoint-{step}").mkdir()
            main = SimpleNamespace(is_main_process=True, deepspeed=True, save_state=save_state)
            run(text, os=os, shutil=shutil, log=print)["save"](args, main, step)
        kept = sorted(each.name for each in folder.iterdir())
        if limit is None or wanted:
            assert left == [min(step, limit or step) for step in range(6)]
            assert kept == [f"checkpoint-{step}" for step in range(7 - (limit or 6), 7)]
        else:
            assert min(left[limit:]) < limit


def test_other_processes_remove_nothing(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-2"):
        (tmp_path / "out" / name).mkdir(parents=True)
    args = SimpleNamespace(output_dir=tmp_path / "out", checkpoints_total_limit=1)
    other = SimpleNamespace(is_main_process=False, deepspeed=True, save_state=print)
    run(after(), log=print)["save"](args, other, 2)
    assert len(list((tmp_path / "out").iterdir())) == 2


LEFT = "        if not accelerator.is_main_process:\n            return\n"
METHOD = """\
from accelerate import Accelerator
class Trainer:
    def rotate(self):
        limit = self.cfg.checkpoints_total_limit
        if limit:
            shutil.rmtree(self.oldest("checkpoint"))
    def save(self):
{left}        self.rotate()
        self.accelerator.save_state(self.folder)
"""


@pytest.mark.parametrize(("left", "more", "lines"), [("", "", [8]), (LEFT, "", []), ("", after(), [8])])
def test_what_the_others_leave_above_is_not_removed_by_all(left: str, more: str, lines: list[int]) -> None:
    signs = fixes.load(NAME).looks_like(ast.parse(METHOD.format(left=left) + more), {})  # type: ignore[attr-defined]
    assert [sign.line for sign in signs] == lines
