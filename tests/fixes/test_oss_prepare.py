"""oss-prepare: prepare a model and its OSS as a pair."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

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

            def prepare_model(self, model, device_placement=None, evaluation_mode=False):
                return model
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

            def prepare_model(self, model, device_placement=None, evaluation_mode=False):
                return model
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

            def prepare_model(self, model, device_placement=None, evaluation_mode=False):
                return model
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
    *(
        gone(
            f"no {word}",
            """
            import torch


            class Accelerator:
                def prepare(self, *args, device_placement=None):
                    tpu_should_fix_optimizer = self.device_placement

                def prepare_model(self, model, evaluation_mode=False):
                    pass
            """.replace(f", {word}", ""),
        )
        for word in ("device_placement=None", "evaluation_mode=False")
    ),
    conflict(
        "no torch",
        "`torch` is not bound",
        3,
        """
        class Accelerator:
            def prepare(self, *args, device_placement=None):
                tpu_should_fix_optimizer = self.device_placement

            def prepare_model(self, model, evaluation_mode=False):
                pass
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
