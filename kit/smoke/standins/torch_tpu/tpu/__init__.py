"""torch.tpu: the device module, with the names it has in torch_tpu 2.1.0.post1."""

from kit_standin.device import (  # noqa: F401
    _lazy_call,
    _lazy_init,
    current_device,
    device_count,
    get_amp_supported_dtype,
    get_autocast_dtype,
    init,
    is_autocast_enabled,
    is_available,
    is_initialized,
    set_autocast_dtype,
    set_autocast_enabled,
    set_device,
)

from . import amp  # noqa: F401
