"""Give kohya's training scripts --enable_npu_flash_attention: fused attention of the device, or PyTorch's own."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "fused attention where --enable_npu_flash_attention asks for it"
WHY = """\
Upstream knows xformers, PyTorch's attention and one in plain Python. On an NPU the first does not exist and the
second is not fused in the versions of this recipe; at 1024 pixels attention is most of the memory. The method is in
library/fused_attention.py (overlay): the NPU's kernel where it takes the tensors, PyTorch's own attention elsewhere."""
LINKS = ()
NEEDS = ("args", "unet")

_CODE = """
if args.enable_npu_flash_attention:
    from library.fused_attention import use_fused_attention

    use_fused_attention(unet)
"""
_AT = "train_util.replace_unet_modules(unet, "

sites, edits = table(
    *(Put(scope, _AT, _CODE) for scope in ("train", "NetworkTrainer.train", "TextualInversionTrainer.train"))
)
