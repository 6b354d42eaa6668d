"""Say before training that there are fewer whole batches than processes."""

from kit.fixes._table import Put, table

TITLE = "refuse fewer whole batches than processes"
WHY = """\
A batch of BucketBatchSampler is whole, and of images of one bucket: what is left over in a bucket is dropped. Where
that leaves fewer batches than processes, each has none in an epoch, and the run ends, models loaded and every image
encoded, in `ZeroDivisionError: division by zero`. MindSpeed-MM's page has `drop_last=False` instead: then the batches
that are not whole are others in each cache, and the first of them ends in `The size of tensor a (2) must match the size
of tensor b (3)`. Here it is said where the batches are made, in numbers."""
LINKS = ()
NEEDS = ("accelerator", "args", "buckets", "train_dataset")

sites, edits = table(
    Put(
        "main",
        "batch_sampler = BucketBatchSampler(",
        """
        if len(batch_sampler) < accelerator.num_processes:
            made = f"{len(train_dataset)} images in {len(buckets)} buckets make {len(batch_sampler)} whole batches"
            needed = f"of {args.train_batch_size}, fewer than {accelerator.num_processes} processes"
            raise ValueError(f"{made} {needed}: lower --train_batch_size")
        """,
    )
)
