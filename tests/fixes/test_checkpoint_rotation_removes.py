"""checkpoint-rotation: what removes checkpoints, and what makes the one to be saved above."""

from __future__ import annotations

from fixing import conflict, gone, tables
from test_checkpoint_rotation import ALONE, MAIN, NAME, PATH, before, refused

OLD = "def save(args, old):\n    if args.checkpoints_total_limit is not None:\n        {}\n"
REFUSED = [
    *(
        conflict(f"by `{removes}`", "stands beside it", 2, OLD.format(removes))
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
        "the folder is made by all",
        "`os.makedirs(…)` makes `save_path` above",
        before(outer=f"{PATH}\n    os.makedirs(save_path)\n    {ALONE}").replace(f"        {PATH}\n", ""),
    ),
]

_, test_refused = tables(NAME, [], REFUSED)
