"""Collect a sharded optimizer's state on the main process before kohya's SDXL script saves it there."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "collect the optimizer's shards before the state is saved"
WHY = """\
Only the main process saves the training state. Of a sharded optimizer it has its own part; the others' come by a
collective operation, which every process must enter before the main process turns away to save. Without it
--save_state ends with `Optimizer state has not been consolidated on this rank`."""
LINKS = ()
NEEDS = ("args", "collect_state", "optimizer")

_CODE = "collect_state(args, optimizer)"

sites, edits = table(
    Put("train", "if accelerator.is_main_process:\n    src_path = ", _CODE, how="before"),
    Put("train", "train_util.save_state_on_train_end(", _CODE, how="before"),
)
