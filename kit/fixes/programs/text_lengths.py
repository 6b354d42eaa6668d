"""Read how long the captions of a batch are once, and print it nowhere."""

from __future__ import annotations

from kit.fixes._table import Put, Swap, table

TITLE = "read the captions' lengths once a step, and do not print them"
WHY = """\
A print left over from debugging writes the lengths of the captions at every step on every process, into the line of
the progress bar: what reads the speed there misses steps. It waits for the device to tell them, and the model's call
waits once more."""
LINKS = ()
NEEDS = ()

_LENGTHS = "prompt_embeds_mask.sum(dim=1).tolist()"

sites, edits = table(
    Put("main", "print(f'prompt_embeds_mask.sum(", f"txt_seq_lens = {_LENGTHS}", how="replace"),
    Swap("main", "model_pred = transformer(", _LENGTHS, "txt_seq_lens"),
)
