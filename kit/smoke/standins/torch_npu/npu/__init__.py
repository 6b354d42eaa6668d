"""torch.npu: the device module. The settings of Ascend's compiler are taken and do nothing."""

from kit_standin import device as _generic
from kit_standin.device import *  # noqa: F403

from . import amp, random, utils  # noqa: F401


def get_device_name(device_name=None) -> str:
    return _generic.get_device_name(device_name)


def get_device_properties(device_name=None):
    return _generic.get_device_properties(device_name)


def StreamContext(stream_ctx):
    return _generic.StreamContext(stream_ctx)


class _Config:
    """torch.npu.config: what torch_npu lets one set (class _npuConfig of its npu_config.py)."""

    __slots__ = ("allow_internal_format",)


config = _Config()


def set_compile_mode(jit_compile: bool = False) -> None:
    """Compile operators as they are met, or take built ones."""


def is_jit_compile_false() -> bool:
    return True


def set_option(option: dict) -> None:
    """Options of the operator library."""
    if not isinstance(option, dict):
        raise TypeError("npu option must be a dict.")
