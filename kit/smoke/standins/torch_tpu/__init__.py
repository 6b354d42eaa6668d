"""kit's stand-in for torch_tpu: Sophgo's device package, running on the CPU.

It is like torch_tpu 2.1.0.post1 (github.com/sophgo/torch-tpu at 1ba6e157, the commit its documentation of this training
is from) where scripts notice: a name that is missing there is missing here; `.to()` replaces Parameters, as torch does
for a device whose package does not say otherwise (torch_tpu does since 9496b620, June 2024); random numbers come from
the CPU's stream, whatever generator is given; there are no collectives. Autocast casts what it casts on other devices,
where the real one knows addmm, matmul and mm.
"""

import kit_standin

from . import tpu

__version__ = kit_standin.version()

kit_standin.start("tpu", tpu, keeps_parameters=False, own_streams=False)
kit_standin.announce("torch_tpu")
