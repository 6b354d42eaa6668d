"""torch.npu.utils: what torch_npu says of the chip."""

import os


def is_support_inf_nan() -> bool:
    """Whether inf and NaN are kept, as on Atlas A2 (Ascend910B1 and later) unless INF_NAN_MODE_ENABLE is 0. Without
    them a real chip saturates, which is not stood in for: here this only has the scaler exchange its flag."""
    return os.environ.get("INF_NAN_MODE_ENABLE") != "0"
