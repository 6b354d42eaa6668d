"""lycoris-bare-model: before and after, what it refuses, and what is prepared how."""

from __future__ import annotations

import types
from typing import Any

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

NAME = "lycoris-bare-model"

BEFORE = """
from accelerate.utils import DistributedType

class Trainer:
    def init_prepare_models(self, lr_scheduler):
        prepare_targets, device_placement = [self.model, self.optimizer], [True, True]
        results = self.accelerator.prepare(*prepare_targets, device_placement=device_placement)
        return results
"""
AFTER = '''
from accelerate.utils import DistributedType

class Trainer:
    def _prepared(self, targets, device_placement):
        """What accelerate makes of them. Only for CPUs would it wrap a model that has nothing to train, beside LyCORIS."""
        on_cpus = self.accelerator.distributed_type == DistributedType.MULTI_CPU
        if not on_cpus or self.lycoris_wrapped_network is None:
            return self.accelerator.prepare(*targets, device_placement=device_placement)
        model = self.accelerator.prepare_model(targets[0], device_placement[0], evaluation_mode=True)
        return (model, *self.accelerator.prepare(*targets[1:], device_placement=device_placement[1:]))
    def init_prepare_models(self, lr_scheduler):
        prepare_targets, device_placement = [self.model, self.optimizer], [True, True]
        results = self._prepared(prepare_targets, device_placement)
        return results
'''  # noqa: E501 - as it is written into upstream's file

APPLIED = [case("a method and its call", BEFORE, AFTER, count=2)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("another class", BEFORE.replace("Trainer", "Runner")),
    conflict("no kinds", "`DistributedType` is not bound", 4, BEFORE.replace("DistributedType", "set_seed")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


class _Accelerator:
    """Stands for accelerate's: says which way each came."""

    def __init__(self, kind: str) -> None:
        self.distributed_type = kind

    def prepare(self, *targets: str, device_placement: list[bool]) -> tuple[str, ...]:
        assert len(targets) == len(device_placement)
        return tuple(f"wrapped {target}" for target in targets)

    def prepare_model(self, target: str, placed: bool, evaluation_mode: bool) -> str:
        assert placed and evaluation_mode
        return f"bare {target}"


@pytest.mark.parametrize(
    ("kind", "lycoris", "model"),
    [("MULTI_CPU", object(), "bare"), ("MULTI_CPU", None, "wrapped"), ("MULTI_GPU", object(), "wrapped")],
)
def test_a_model_is_bare_beside_lycoris_on_cpus_alone(kind: str, lycoris: Any, model: str) -> None:
    names = types.SimpleNamespace(MULTI_CPU="MULTI_CPU")
    source = AFTER.replace("from accelerate.utils import DistributedType\n", "")
    trainer = run(source, DistributedType=names)["Trainer"]()
    trainer.accelerator, trainer.lycoris_wrapped_network = _Accelerator(kind), lycoris
    trainer.model, trainer.optimizer = "model", "optimizer"
    assert trainer.init_prepare_models(None) == (f"{model} model", "wrapped optimizer")
