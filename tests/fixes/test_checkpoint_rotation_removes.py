"""checkpoint-rotation: what removes checkpoints."""

from __future__ import annotations

from fixing import conflict, gone, tables
from test_checkpoint_rotation import NAME

OLD = "def save(args, old):\n    if args.checkpoints_total_limit is not None:\n        {}\n"
REFUSED = [
    *(
        conflict(f"by `{removes}`", "stands beside it", 2, OLD.format(removes))
        for removes in ("shutil.rmtree(old)", "os.remove(old)", "store.delete(old)", "map(shutil.rmtree, old)")
    ),
    *(gone(f"by `{removes}`", OLD.format(removes)) for removes in ("kept.remove(old)", "kept.pop(0)")),
]

_, test_refused = tables(NAME, [], REFUSED)
