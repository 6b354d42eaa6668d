"""epoch-shuffle: shuffle kohya's data sets before an epoch's first batch is read."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

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


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
