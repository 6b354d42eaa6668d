"""checkpoint-rotation: lists that are written in other ways, and blocks that save more than once."""

from __future__ import annotations

from fixing import case, conflict, tables
from test_checkpoint_rotation import NAME, after, before

LIST = '[d for d in checkpoints if d.startswith("checkpoint")]'
BELOW = LIST.replace(")]", ") and d != os.path.basename(save_path)]")


def several(text: str, end: str = "") -> str:
    """The list on a line of its own, as black writes it."""
    indent = " " * 12
    return (
        text.replace("[d for", f"[\n{indent}    d for")
        .replace('")]', f'"){end}\n{indent}]')
        .replace("(save_path)]", f"(save_path){end}\n{indent}]")
    )


APPLIED = [
    case("a list of several lines", several(before()), several(after())),
    case(
        "a list with a comment at its end",
        several(before(), "  # ours"),
        after().replace(
            BELOW,
            LIST.replace("[d", "[\n                d").replace(
                ")]", ")  # ours\n             and d != os.path.basename(save_path)]"
            ),
        ),
    ),
]
AGAIN = "        accelerator.save_state(save_path)\n        critic.save_state(other)\n"
REFUSED = [
    conflict(
        "another saves beside it",
        "line 18 saves, too: move it below the save by hand",
        6,
        before().replace("        accelerator.save_state(save_path)\n", AGAIN),
    )
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
