"""Let OSS notice, whenever it is refreshed, that its parameters have moved to a device."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "forget the old device's partition when the parameters have moved"
WHY = """\
An OSS is made before the model goes to its device, and keeps a table of its parameters by device. step() notices a
move, refresh_trainable() does not: ShardedDataParallel, which calls it before the first step, gets buckets on the old
device (`Different devices for the bucket and the param`) and takes the CPU for the device of the collectives."""
LINKS = ()
NEEDS = ("OSS",)

sites, edits = table(
    Put(
        "OSS.refresh_trainable",
        "self._default_device = list(",
        """
        if self._default_device != self.param_groups[0]["params"][0].device:
            self._clear_cache()
        """,
        how="before",
    ),
)
