"""shared-split: before and after, what it refuses, and the shares that processes have."""

from __future__ import annotations

import random
import types

from fixing import case, conflict, gone, run, satisfied, tables

NAME = "shared-split"

BEFORE = """
import random
from random import shuffle

class MetadataBackend:
    def split_buckets_between_processes(self):
        new = {}
        for bucket, images in self.aspect_ratio_bucket_indices.items():
            if self.shuffles:
                shuffle(images)
            with self.accelerator.split_between_processes(images) as images_split:
                new[bucket] = images_split
        self.aspect_ratio_bucket_indices = new
"""
AFTER = BEFORE.replace(
    "shuffle(images)\n",
    """shuffle(images)
                if self.accelerator.num_processes > 1:  # all split one list
                    images.sort()
                    random.Random(f"{self.id} {bucket}").shuffle(images)
""",
)

APPLIED = [case("after the shuffle", BEFORE, AFTER)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("nothing is shuffled", BEFORE.replace("shuffle(images)", "pass")),
    gone("another class", BEFORE.replace("MetadataBackend", "Backend")),
    conflict("no random", "`random` is not bound", 8, BEFORE.replace("import random\n", "", 1)),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


class _Share(list[str]):
    """The images of one process, as accelerate hands them out."""

    def __enter__(self) -> list[str]:
        return list(self)

    def __exit__(self, *_: object) -> None:
        pass


def _shares(source: str, processes: int, listed: tuple[str, ...]) -> list[list[str]]:
    """The shares of all processes, each with random numbers of its own, which have read the images in one order."""
    shares = []
    for rank in range(processes):
        random.seed(42 + rank)
        backend = run(source)["MetadataBackend"]()
        backend.id, backend.shuffles = "subject", True
        backend.aspect_ratio_bucket_indices = {1.0: list(listed)}
        size = len(listed) // processes
        split = lambda images, at=rank * size, size=size: _Share(images[at : at + size])  # noqa: E731
        backend.accelerator = types.SimpleNamespace(num_processes=processes, split_between_processes=split)
        backend.split_buckets_between_processes()
        shares.append(backend.aspect_ratio_bucket_indices[1.0])
    return shares


def test_every_image_is_in_one_share() -> None:
    images = tuple("abcdefghijklmnop")
    assert len({image for share in _shares(BEFORE, 2, images) for image in share}) < len(images)
    assert sorted(image for share in _shares(AFTER, 2, images) for image in share) == list(images)


def test_one_process_has_the_order_it_had() -> None:
    assert _shares(BEFORE, 1, tuple("abcdefghijklmnop")) == _shares(AFTER, 1, tuple("abcdefghijklmnop"))
