"""npu-loss-scale: the loss scale starts at 2^7 on an NPU."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

NAME = "npu-loss-scale"

APPLIED = [
    case(
        "as in the library",
        """
        class Accelerator:
            def __init__(self, handler):
                kwargs = handler.to_kwargs()
                if is_npu_available():
                    self.scaler = torch.npu.amp.GradScaler(**kwargs)
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
        """
        class Accelerator:
            def __init__(self, handler):
                kwargs = handler.to_kwargs()
                if is_npu_available():
                    self.scaler = torch.npu.amp.GradScaler(**{"init_scale": 2.0**7, **kwargs})
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        class Accelerator:
            def __init__(self, handler):
                kwargs = handler.to_kwargs()
                if is_npu_available():
                    self.scaler = torch.npu.amp.GradScaler(**{"init_scale": 2.0**7, **kwargs})
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
    gone(
        "CUDA alone",
        """
        class Accelerator:
            def __init__(self, kwargs):
                self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
    conflict(
        "no kwargs",
        "`kwargs` is not bound",
        3,
        """
        class Accelerator:
            def __init__(self):
                self.scaler = torch.npu.amp.GradScaler(**kwargs)
        """,
    ),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
