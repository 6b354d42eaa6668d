"""oss-prepare: prepare a model and its OSS as a pair."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

NAME = "oss-prepare"

APPLIED = [
    case(
        "as in the library",
        """
        import torch


        class Accelerator:
            def prepare(self, *args, device_placement=None):
                look(args)

                # device placement
                tpu_should_fix_optimizer = self.device_placement and self.distributed_type == DistributedType.TPU
                return args
        """,
        """
        import torch


        class Accelerator:
            def prepare(self, *args, device_placement=None):
                look(args)

                from .sharded import find_oss, prepare_sharded

                if find_oss(args) is not None:
                    return prepare_sharded(self, args, device_placement)

                # device placement
                tpu_should_fix_optimizer = self.device_placement and self.distributed_type == DistributedType.TPU
                return args
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        import torch


        class Accelerator:
            def prepare(self, *args, device_placement=None):
                look(args)

                from .sharded import find_oss, prepare_sharded

                if find_oss(args) is not None:
                    return prepare_sharded(self, args, device_placement)

                # device placement
                tpu_should_fix_optimizer = self.device_placement and self.distributed_type == DistributedType.TPU
                return args
        """,
    ),
    gone(
        "another class",
        """
        class Other:
            def prepare(self, *args):
                tpu_should_fix_optimizer = 1
        """,
    ),
    conflict(
        "no placement",
        "`device_placement` is not bound",
        6,
        """
        import torch


        class Accelerator:
            def prepare(self, *args):
                tpu_should_fix_optimizer = self.device_placement
        """,
    ),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
