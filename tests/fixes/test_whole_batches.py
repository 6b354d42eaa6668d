"""whole-batches: before and after, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, run, satisfied

NAME = "whole-batches"

SCRIPT = """\
def main(args, accelerator, train_dataset, buckets):
    batch_sampler = BucketBatchSampler(train_dataset, batch_size=args.train_batch_size, drop_last=True)
{check}    return load(train_dataset, batch_sampler)
"""
CHECK = """\
    if len(batch_sampler) < accelerator.num_processes:
        made = f"{len(train_dataset)} images in {len(buckets)} buckets make {len(batch_sampler)} whole batches"
        needed = f"of {args.train_batch_size}, fewer than {accelerator.num_processes} processes"
        raise ValueError(f"{made} {needed}: lower --train_batch_size")
"""
BEFORE, AFTER = SCRIPT.format(check=""), SCRIPT.format(check=CHECK)

APPLIED = [case("as in the script", BEFORE, AFTER)]

REFUSED = [
    satisfied("there", AFTER),
    gone("another sampler", BEFORE.replace("BucketBatchSampler", "BatchSampler")),
    conflict("no buckets", "`buckets` is not bound", 2, BEFORE.replace(", buckets)", ")")),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


@pytest.mark.parametrize(("size", "processes"), [(4, 2), (8, 1), (5, 2), (9, 1)])
def test_it_says_how_many_there_are(size: int, processes: int) -> None:
    def sampler(data: list[int], batch_size: int, drop_last: bool) -> range:
        return range(len(data) // batch_size)

    names = {"BucketBatchSampler": sampler, "load": lambda data, batches: len(batches)}
    given = SimpleNamespace(train_batch_size=size), SimpleNamespace(num_processes=processes), range(8), [(64, 64)]
    assert run(BEFORE, **names)["main"](*given) == 8 // size
    if 8 // size >= processes:
        assert run(AFTER, **names)["main"](*given) == 8 // size
    else:
        said = f"8 images in 1 buckets make {8 // size} whole batches of {size}, fewer than {processes} processes"
        with pytest.raises(ValueError, match=said):
            run(AFTER, **names)["main"](*given)
