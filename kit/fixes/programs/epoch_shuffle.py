"""Shuffle kohya's data sets before an epoch's first batch is read, not after it."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "shuffle the data before an epoch's first batch is read"
WHY = """\
The data set makes its batches anew each epoch, when the loader puts together a batch and sees that the epoch is another
(library/train_util.py at 46cf41cc: `collater_class`). By then the first batch is read, from the batches of the
epoch before: on every process, and in every worker, whose copy of the data set was never shuffled. One process trains
on 6 or 7 of 8 images an epoch and on some of them twice, two processes on 4 or 5. Here the data set knows the epoch
before the loader starts, and its workers with it."""
LINKS = ()
NEEDS = ("train_dataset_group",)
CHANGES = "each epoch has every image once; upstream takes its first batches from those of the epoch before"

sites, edits = table(
    Put("train", "current_epoch.value = epoch + 1", "train_dataset_group.set_current_epoch(epoch + 1)"),
)
