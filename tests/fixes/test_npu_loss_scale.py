"""npu-loss-scale: the loss scale starts at 2^7 on an NPU."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

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


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
