"""ema-device: before and after, and what it refuses."""

from __future__ import annotations

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

NAME = "ema-device"

BEFORE = """
        class Average:
            def __init__(self, params):
                self._tracked_param_ids = [id(param) for param in params]
                self.shadow_params = list(params)

            def _align_shadow_params(self, parameters):
                params = list(parameters)
                return dict(zip(self._tracked_param_ids, self.shadow_params)).get(id(params[0]))

            def to(self, *args, **kwargs):
                for param in self.shadow_params:
                    param.data = param.data.to(*args, **kwargs)
                return self
        """
AFTER = """
        class Average:
            def __init__(self, params):
                self._tracked_param_ids = [id(param) for param in params]
                self.shadow_params = list(params)

            def _align_shadow_params(self, parameters):
                params = list(parameters)
                if len(params) == len(self.shadow_params) and not any(id(param) in self._tracked_param_ids for param in params):
                    self._tracked_param_ids = [id(param) for param in params]  # the module was moved, and its parameters are new
                return dict(zip(self._tracked_param_ids, self.shadow_params)).get(id(params[0]))

            def to(self, *args, **kwargs):
                self.shadow_params = [param.to(*args, **kwargs) for param in self.shadow_params]
                return self
        """  # noqa: E501 - as it is written into upstream's file

APPLIED = [case("both", BEFORE, AFTER, count=2)]

REFUSED = [
    satisfied("so already", AFTER),
    gone("another class", "class A:\n    def to(self, device):\n        return self\n"),
    conflict("only one", "expected 1 place to fix, found 2", 7, BEFORE),
    conflict(
        "no self",
        "`self` is not bound",
        2,
        "def to(average):\n    for param in self.shadow_params:\n        param.data = 1\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_it_moves_and_knows_its_parameters_again() -> None:
    class Tensor:
        """Of a kind whose `.data` cannot be another's, as on a device with a package of its own."""

        data = property(lambda self: self, lambda self, other: _incompatible())

        def to(self, device: str) -> Tensor:
            return Tensor()

    def _incompatible() -> None:
        raise RuntimeError("incompatible tensor type")

    before = run(APPLIED[0].values[0].before)["Average"]([Tensor()])
    with pytest.raises(RuntimeError, match="incompatible tensor type"):
        before.to("npu")
    assert before._align_shadow_params([Tensor()]) is None
    after = run(APPLIED[0].values[0].after)["Average"]([Tensor()])
    assert after.to("npu").shadow_params[0] is after._align_shadow_params([Tensor()])
