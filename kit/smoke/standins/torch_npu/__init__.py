"""kit's stand-in for torch_npu: Ascend's device package, running on the CPU.

It has the names, signatures and refusals of torch_npu 2.7.1 that the recipes, and the libraries they use, touch, with
older versions of torch as well; a name that is missing here raises AttributeError, which is no statement about the real
package. What a call computes follows the real package's operator documentation (`torch_npu/_op_plugin_docs.py` of its
wheel).
"""

import os

# `import torch` imports this package through its entry point; where this package comes first, that would be a circle.
_AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
_before = os.environ.get(_AUTOLOAD)
os.environ[_AUTOLOAD] = "0"
import kit_standin  # noqa: E402
from torch.utils.checkpoint import DefaultDeviceType  # noqa: E402

if _before is None:
    del os.environ[_AUTOLOAD]
else:
    os.environ[_AUTOLOAD] = _before

from . import npu  # noqa: E402
from ._kernels import (  # noqa: E402, F401
    npu_fusion_attention,
    npu_geglu,
    npu_grouped_matmul,
    npu_rms_norm,
    npu_rotary_mul,
)

__version__ = kit_standin.version()

# Which operators take float64 on Ascend differs from one to the next. Here none computes in it, but for what DeepSpeed
# 0.17.2 does on the device under ZeRO-2: the norm of `grad.double()`, and the sum of such norms' squares
# (stage_1_and_2.py, lines 1324 and 1810 to 1813).
_TAKES_FLOAT64 = ("fill", "zero", "stack", "cat", "norm", "linalg_vector_norm", "pow", "sum")

kit_standin.start("npu", npu, visible="ASCEND_RT_VISIBLE_DEVICES", collectives="hccl", refused_except=_TAKES_FLOAT64)
DefaultDeviceType.set_device_type("npu")  # of gradient checkpointing; the real package does so as it is imported
kit_standin.announce("torch_npu")


def _autoload() -> None:
    """What torch's `torch.backends` entry point calls: importing this package has done it all."""
