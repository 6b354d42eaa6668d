"""transformer-patches: import and call apply_patches() above `if is_wandb_available():`."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "transformer-patches"
IMPORT = "from diffusers.utils import is_wandb_available\n"
CALL = "from transformer_patches import apply_patches\napply_patches()\n"
WANDB = "if is_wandb_available():\n    import wandb\n"

APPLIED = [
    case("as in the script", f"{IMPORT}\n\n{WANDB}\nlogger = 1\n", f"{IMPORT}\n\n{CALL}\n{WANDB}\nlogger = 1\n"),
    case("no blank line above", f"{IMPORT}{WANDB}", f"{IMPORT}{CALL}\n{WANDB}"),
    case(
        "comments stay with their line",
        f"{IMPORT}\n# logging\n\n# to the web\n{WANDB}",
        f"{IMPORT}\n{CALL}\n# logging\n\n# to the web\n{WANDB}",
    ),
    case(
        "on one line, with an else",
        f"{IMPORT}\nif is_wandb_available( ): import wandb\nelse: wandb = None\n",
        f"{IMPORT}\n{CALL}\nif is_wandb_available( ): import wandb\nelse: wandb = None\n",
    ),
    case(
        "a use inside a function is another matter",
        f"{IMPORT}{WANDB}def main():\n    if is_wandb_available():\n        pass\n",
        f"{IMPORT}{CALL}\n{WANDB}def main():\n    if is_wandb_available():\n        pass\n",
    ),
]

REFUSED = [
    satisfied("there", f"{IMPORT}{CALL}{WANDB}"),
    satisfied("there, with lines between", f"{IMPORT}{CALL}\nimport os\n{WANDB}"),
    gone("never asked at the top", f"{IMPORT}def main():\n    if is_wandb_available():\n        pass\n"),
    gone("asked for its absence", f"{IMPORT}if not is_wandb_available():\n    pass\n"),
    conflict("not imported", "`is_wandb_available` is not bound", 1, WANDB),
    conflict("imported below only", "`is_wandb_available` is not bound", 1, WANDB + IMPORT),
    conflict("asked twice", "expected 1 place to fix, found 2 (lines 2, 4)", 2, IMPORT + WANDB + WANDB),
    conflict("another apply_patches", "in a way that this fix cannot edit", 3, f"{IMPORT}apply_patches()\n{WANDB}"),
    conflict("called below", "in a way that this fix cannot edit", 2, f"{IMPORT}{WANDB}{CALL}"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
