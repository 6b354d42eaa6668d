"""step-loss: show the step's own loss in the progress bar."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "step-loss"

APPLIED = [
    case(
        "as in the script",
        """
        def train(args):
            for batch in data:
                current_loss = step(batch)
                avr_loss: float = mean(current_loss)
                logs = {"avr_loss": avr_loss}  # , "lr": 0
                progress_bar.set_postfix(**logs)
        """,
        """
        def train(args):
            for batch in data:
                current_loss = step(batch)
                avr_loss: float = mean(current_loss)
                logs = {"loss": current_loss, "avr_loss": avr_loss}  # , "lr": 0
                progress_bar.set_postfix(**logs)
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        def train(args):
            logs = {"loss": current_loss, "avr_loss": avr_loss}
        """,
    ),
    gone(
        "other logs",
        """
        def train(args):
            logs = {"loss/epoch": mean}
        """,
    ),
    conflict(
        "no loss of the step",
        "`current_loss` is not bound",
        3,
        """
        def train(args):
            avr_loss = 0
            logs = {"avr_loss": avr_loss}
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
