"""Let all processes of a SimpleTuner run split the same list of images."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "split one order of the images between processes"
WHY = """\
Each process shuffles a bucket's images with random numbers of its own (`seed_for_each_device`, which is on unless it is
set) and then takes its share of that list: some images are in the shares of two processes, as many in none, and those
are never trained on, in no epoch. Here several processes bring the list into one order first, which is the bucket's
own, whatever the seed."""
LINKS = ()
NEEDS = ("random",)

_ORDER = """\
if self.accelerator.num_processes > 1:  # all split one list
    images.sort()
    random.Random(f"{self.id} {bucket}").shuffle(images)
"""

sites, edits = table(Put("MetadataBackend.split_buckets_between_processes", "shuffle(images)", _ORDER))
