"""Load no second transformer on each rank when a LoRA run is resumed under DeepSpeed."""

from kit.fixes._table import Put, table

TITLE = "resume under DeepSpeed without a second transformer"
WHY = """\
Under DeepSpeed the engine loads the LoRA, and accelerate hands the load hook an empty list. Upstream's hook (#10378,
#11737) then loads the whole transformer once more, in float32, puts the LoRA into it and drops it: on each rank, 48 GB
of host memory for the 12 billion parameters of FLUX.1, 82 GB for Qwen-Image's 20. It is to no use, so the hook is
left."""
LINKS = (
    "https://github.com/huggingface/diffusers/pull/10378",
    "https://github.com/huggingface/diffusers/pull/11737",
)
NEEDS = ("accelerator", "DistributedType")

sites, edits = table(
    Put(
        "main.load_model_hook",
        "transformer_ = None",
        """
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            return  # its engine has loaded the LoRA
        """,
        how="before",
    )
)
