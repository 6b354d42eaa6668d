"""checkpoint-rotation: what lists and removes checkpoints, and what makes the one to be saved above."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables
from test_checkpoint_rotation import ALONE, LIMIT, MAIN, NAME, PATH, after, before, refused

OLD = "def save(args, old):\n    if args.checkpoints_total_limit is not None:\n        {}\n"
REFUSED = [
    *(
        conflict(f"by `{removes}`", "`accelerator` is not bound there", 2, OLD.format(removes))
        for removes in ("shutil.rmtree(old)", "os.remove(old)", "store.delete(old)", "map(shutil.rmtree, old)")
    ),
    *(gone(f"by `{removes}`", OLD.format(removes)) for removes in ("kept.remove(old)", "kept.pop(0)")),
]
ABOVE = "        # _before_"
REFUSED += [
    *(
        refused(
            f"the folder is made first, and counted: {made}, {outer}",
            f"`{made.partition('(')[0]}(…)` makes `save_path` above",
            before(outer=outer).replace(ABOVE, f"        {PATH}\n        {made}\n{ABOVE}"),
        )
        for made, outer in (
            ("os.makedirs(save_path)", ALONE),
            ("os.makedirs(save_path, exist_ok=True)", f"if deepspeed:\n        print(1)\n    elif {MAIN}:"),
            ("export(save_path)", ALONE),
        )
    ),
    refused(
        "its name is another's on the way",
        "`checkpoints` is given a value in it or on the way",
        before().replace("accelerator.save_state", "checkpoints = 1\n        accelerator.save_state"),
    ),
    refused(
        "the folder is made by all",
        "`os.makedirs(…)` makes `save_path` above",
        before(outer=f"{PATH}\n    os.makedirs(save_path)\n    {ALONE}").replace(f"        {PATH}\n", ""),
    ),
]
OF_ITS_OWN = """\
from accelerate import Accelerator
def rotate(args):
    if args.checkpoints_total_limit is not None:
        shutil.rmtree(sorted(os.listdir(args.out){key})[0])
def main(args):
    accelerator = Accelerator()
{calls}"""
SAVES, OLDEST = "    accelerator.save_state(1)\n", ", key=os.path.getmtime"
CALLED = f"    if {MAIN}:\n        rotate(args)\n"
REFUSED += [
    *(
        conflict(f"in a function: {reason}", reason, 3, OF_ITS_OWN.format(key=key, calls=calls))
        for reason, key, calls in (
            ("`rotate` is called above the save (line 8)", OLDEST, f"{CALLED}{SAVES}"),
            ("`rotate` is called above the save (line 7)", OLDEST, f"    rotate(args); {SAVES.lstrip()}"),
            ("every process that calls `rotate` removes them", OLDEST, f"{SAVES}    rotate(args)\n"),
            ("may count the one just saved", "", f"{SAVES}{CALLED}"),
        )
    ),
    satisfied("in a function, below the save", OF_ITS_OWN.format(key=OLDEST, calls=f"{SAVES}{CALLED}")),
    satisfied("in a function that nothing calls", OF_ITS_OWN.format(key="", calls=SAVES)),
]
LISTED = "os.listdir(args.output_dir)"
APPLIED = [
    case(f"listed as {how}", before().replace(LISTED, how), after().replace(LISTED, how))
    for how in (f"sorted({LISTED})", f"sorted({LISTED}, key=number)")
]
APPLIED += [
    case(
        "the main process is asked for where it removes",
        before().replace("shutil.rmtree", f"if {MAIN}: shutil.rmtree"),
        after(LIMIT).replace("shutil.rmtree", f"if {MAIN}: shutil.rmtree"),
    ),
    case(
        "removed in a question",
        before(outer=ALONE)
        .replace("shutil.rmtree(os", "if any(map(shutil.rmtree, os")
        .replace("ed))\n", "ed))): log()\n"),
        after(LIMIT, ALONE)
        .replace("shutil.rmtree(os", "if any(map(shutil.rmtree, os")
        .replace("ed))\n", "ed))): log()\n"),
    ),
    case("its name is given anew", f"{before()}        checkpoints = 1\n", f"{after()}        checkpoints = 1\n"),
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
