"""Show the loss of the step beside the moving average in kohya's progress bar."""

from __future__ import annotations

from kit.fixes._table import Swap, table

TITLE = "show the step's own loss in the progress bar"
WHY = """\
The bar shows `avr_loss`, a moving average over an epoch. Ascend's launch script looks for another name in the log,
finds nothing, and its last line, "Final Train Loss", is always empty. With the step's own loss first, the log holds
both."""
LINKS = ()
NEEDS = ("current_loss", "avr_loss")

sites, edits = table(
    Swap("train", "logs = {", '{"avr_loss": avr_loss}', '{"loss": current_loss, "avr_loss": avr_loss}'),
)
