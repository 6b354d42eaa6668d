"""epoch-shuffle: shuffle kohya's data sets before an epoch's first batch is read."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "epoch-shuffle"

APPLIED = [
    case(
        "as in the script",
        """
        def train(args):
            train_dataset_group = load(args)
            for epoch in range(num_train_epochs):
                accelerator.print(f"\\nepoch {epoch+1}/{num_train_epochs}")
                current_epoch.value = epoch + 1

                for step, batch in enumerate(train_dataloader):
                    pass
        """,
        """
        def train(args):
            train_dataset_group = load(args)
            for epoch in range(num_train_epochs):
                accelerator.print(f"\\nepoch {epoch+1}/{num_train_epochs}")
                current_epoch.value = epoch + 1
                train_dataset_group.set_current_epoch(epoch + 1)

                for step, batch in enumerate(train_dataloader):
                    pass
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        def train(args):
            train_dataset_group = load(args)
            for epoch in range(num_train_epochs):
                current_epoch.value = epoch + 1
                train_dataset_group.set_current_epoch(epoch + 1)
        """,
    ),
    gone(
        "no epoch is told",
        """
        def train(args):
            for epoch in range(num_train_epochs):
                pass
        """,
    ),
    conflict(
        "no data set of that name",
        "`train_dataset_group` is not bound",
        3,
        """
        def train(args):
            for epoch in range(num_train_epochs):
                current_epoch.value = epoch + 1
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
