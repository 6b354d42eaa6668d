"""The functions that a device module has on every device: devices, memory, random streams, streams and events.

A package does `from kit_standin.device import *` in the module it registers as `torch.<device>`.
"""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import torch

from . import _backend

MEMORY = 64 << 30  # bytes a device says it has: the 64 GB of a card of an Atlas 900 A2 node


def _index(device=None) -> int:
    """The number of a device given as number, string, torch.device or None: the current one."""
    if device is None:
        return _backend.current_device()
    if isinstance(device, int):
        index = device
    else:
        device = torch.device(device)
        if device.type != torch._C._get_privateuse1_backend_name():
            raise ValueError(f"Expected a {torch._C._get_privateuse1_backend_name()} device, but got: {device}")
        index = _backend.current_device() if device.index is None else device.index
    if not 0 <= index < _backend.device_count():
        raise AssertionError(f"Invalid device id {index}: there are {_backend.device_count()}")
    return index


# ------------------------------------------------------------------------------------------------------------- devices


def is_available() -> bool:
    return _backend.device_count() > 0


_initialized = True  # torch.utils.checkpoint saves the device's random state where it is


def is_initialized() -> bool:
    return _initialized


def init() -> None:
    pass


_lazy_init = init


def _lazy_call(callback) -> None:
    callback()


def _is_in_bad_fork() -> bool:
    return _backend.in_bad_fork()


def device_count() -> int:
    return _backend.device_count()


def current_device() -> int:
    return _backend.current_device()


def set_device(device) -> None:
    _backend.set_device(_index(device))


def synchronize(device=None) -> None:
    _index(device)


def get_device_name(device=None) -> str:
    return f"kit's stand-in {torch._C._get_privateuse1_backend_name()}:{_index(device)}, on the CPU"


def get_device_properties(device=None) -> SimpleNamespace:
    return SimpleNamespace(name=get_device_name(device), total_memory=MEMORY, major=0, minor=0, multi_processor_count=1)


def get_device_capability(device=None) -> None:
    """None: the devices that have stand-ins have no such number."""
    _index(device)


def can_device_access_peer(device_id, peer_device_id) -> bool:
    return _index(device_id) != _index(peer_device_id)


class device:
    """Context manager that makes a device the current one; None and negative numbers change nothing."""

    def __init__(self, device) -> None:
        self.idx = -1 if device is None or device == -1 else _index(device)

    def __enter__(self):
        self.prev_idx = _backend.current_device()
        if self.idx >= 0:
            _backend.set_device(self.idx)
        return self

    def __exit__(self, *_):
        _backend.set_device(self.prev_idx)
        return False


class device_of(device):
    """`device` of a tensor; a tensor elsewhere changes nothing."""

    def __init__(self, obj) -> None:
        here = obj.device.type == torch._C._get_privateuse1_backend_name()
        super().__init__(obj.device if here else None)


# -------------------------------------------------------------------------------------------------------------- memory


def empty_cache() -> None:
    pass


def memory_allocated(device=None) -> int:
    """Bytes that tensors on the device hold."""
    return _backend.memory(_index(device))[0]


def max_memory_allocated(device=None) -> int:
    return _backend.memory(_index(device))[1]


def mem_get_info(device=None) -> tuple[int, int]:
    """Free and total bytes."""
    return MEMORY - memory_allocated(device), MEMORY


def memory_stats(device=None) -> dict[str, int]:
    now, most = _backend.memory(_index(device))
    kinds = ("allocated_bytes", "reserved_bytes", "active_bytes")
    return {f"{kind}.all.{when}": size for kind in kinds for when, size in (("current", now), ("peak", most))}


def memory_summary(device=None, abbreviated: bool = False) -> str:
    return "\n".join(f"{name}: {size}" for name, size in memory_stats(device).items())


def reset_peak_memory_stats(device=None) -> None:
    _backend.reset_peak(_index(device))


def set_per_process_memory_fraction(fraction, device=None) -> None:
    _index(device)


memory_reserved = memory_cached = memory_allocated
max_memory_reserved = max_memory_cached = max_memory_allocated
reset_max_memory_allocated = reset_max_memory_cached = reset_accumulated_memory_stats = reset_peak_memory_stats


# ------------------------------------------------------------------------------------------------------ random streams


def _generators() -> tuple[torch.Generator, ...]:
    """Each device's own generator."""
    return tuple(_backend.default_generator(index) for index in range(_backend.device_count()))


def manual_seed(seed) -> None:
    _backend.default_generator(_backend.current_device()).manual_seed(int(seed))


def manual_seed_all(seed) -> None:
    for generator in _generators():
        generator.manual_seed(int(seed))


def seed() -> None:
    _backend.default_generator(_backend.current_device()).seed()


def seed_all() -> None:
    seed()
    manual_seed_all(initial_seed())


def initial_seed() -> int:
    return _backend.default_generator(_backend.current_device()).initial_seed()


def get_rng_state(device=None) -> torch.Tensor:
    return _backend.default_generator(_index(device)).get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    return [generator.get_state() for generator in _generators()]


def set_rng_state(new_state, device=None) -> None:
    _backend.default_generator(_index(device)).set_state(new_state)


def set_rng_state_all(new_states) -> None:
    for generator, state in zip(_generators(), new_states):  # noqa: B905 - Python 3.8 has no strict
        generator.set_state(state)


# -------------------------------------------------------------------------------------------------- streams and events


class Stream:
    """A queue of work. There is one a device, and its work is done as soon as it is asked for."""

    def __init__(self, device=None, priority: int = 0) -> None:
        self.device = torch.device(torch._C._get_privateuse1_backend_name(), _index(device))
        self.priority = priority

    def __eq__(self, other) -> bool:
        return isinstance(other, Stream) and self.device == other.device

    def __hash__(self) -> int:
        return hash(self.device)

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def wait_stream(self, stream) -> None:
        pass

    def wait_event(self, event) -> None:
        pass

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event


class Event:
    """A moment of a stream; `elapsed_time` is in milliseconds of wall clock."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.at = None

    def record(self, stream=None) -> None:
        self.at = time.perf_counter()

    def wait(self, stream=None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end_event) -> float:
        return (end_event.at - self.at) * 1000


def current_stream(device=None) -> Stream:
    return Stream(device)


default_stream = current_stream


def set_stream(stream) -> None:
    pass


@contextlib.contextmanager
def stream(stream):
    """Work inside goes to `stream`: to its device, that is."""
    with device(None if stream is None else stream.device):
        yield


StreamContext = stream

# ------------------------------------------------------------------------------------------------------------- autocast


def is_bf16_supported() -> bool:
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]


def is_autocast_enabled() -> bool:
    return _backend.is_autocast_enabled()


def set_autocast_enabled(enable) -> None:
    _backend.set_autocast_enabled(enable)


def get_autocast_dtype() -> torch.dtype:
    return _backend.get_autocast_dtype()


def set_autocast_dtype(dtype) -> None:
    _backend.set_autocast_dtype(dtype)


# ------------------------------------------------------------------------------------------------- typed constructors


def _typed(dtype):
    def make(*data):
        """A tensor of this dtype on the device: of the data given, or uninitialised and of the sizes given."""
        where = torch._C._get_privateuse1_backend_name()
        if data and not all(isinstance(item, int) for item in data):
            return torch.tensor(*data, dtype=dtype, device=where)
        return torch.empty(data, dtype=dtype, device=where)

    return make


BoolTensor = _typed(torch.bool)
ByteTensor = _typed(torch.uint8)
CharTensor = _typed(torch.int8)
ShortTensor = _typed(torch.int16)
IntTensor = _typed(torch.int32)
LongTensor = _typed(torch.int64)
HalfTensor = _typed(torch.float16)
BFloat16Tensor = _typed(torch.bfloat16)
FloatTensor = _typed(torch.float32)
DoubleTensor = _typed(torch.float64)

# `from kit_standin.device import *` gives everything above but what this module itself imports or keeps for itself.
_IMPORTED = {"annotations", "contextlib", "time", "torch", "SimpleNamespace", "_backend"}
_OWN = {"_index", "_typed", "_generators", "_IMPORTED"}
__all__ = [name for name in dir() if name not in _IMPORTED | _OWN and not name.startswith("__")]
