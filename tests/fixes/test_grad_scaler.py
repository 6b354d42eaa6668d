"""grad-scaler: take a PrivateUse1 device's own GradScaler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

from kit.codemod import Outcome

NAME = "grad-scaler"
DEVICE = "self.device.type == torch._C._get_privateuse1_backend_name()"
OWN = "getattr(torch, self.device.type).amp.GradScaler(**kwargs)"
CUDA = "        self.scaler = torch.cuda.amp.GradScaler(**kwargs)\n"

APPLIED = [
    case(
        "as in 0.16, where the bf16 branch is for CUDA alone",
        """
        class Accelerator:
            def __init__(self, device, torch, fp16, FSDP=False, **kwargs):
                self.device = device
                self.scaler = None
                if fp16:
                    if FSDP:
                        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

                        self.scaler = ShardedGradScaler(**kwargs)
                    else:
                        self.scaler = torch.cuda.amp.GradScaler(**kwargs)
                elif torch.cuda.is_available() and self.device.type != "cpu":
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
        f"""
        class Accelerator:
            def __init__(self, device, torch, fp16, FSDP=False, **kwargs):
                self.device = device
                self.scaler = None
                if fp16:
                    if FSDP:
                        from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

                        self.scaler = ShardedGradScaler(**kwargs)
                    elif {DEVICE}:
                        self.scaler = {OWN}
                    else:
                        self.scaler = torch.cuda.amp.GradScaler(**kwargs)
                elif torch.cuda.is_available() and self.device.type != "cpu":
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
    case(
        "below other choices, with comments",
        """
        def choose(self, torch, kwargs, a):
            if a:
                pass
            elif a is None:
                self.scaler = None
            # everywhere else
            else:
                self.scaler = torch.cuda.amp.GradScaler( **kwargs )  # of CUDA
            return self.scaler
        """,
        f"""
        def choose(self, torch, kwargs, a):
            if a:
                pass
            elif a is None:
                self.scaler = None
            elif {DEVICE}:
                self.scaler = {OWN}
            # everywhere else
            else:
                self.scaler = torch.cuda.amp.GradScaler( **kwargs )  # of CUDA
            return self.scaler
        """,
    ),
    case(
        "not in an else, from 0.3",
        """
        def choose(self, torch, kwargs):
            if self.state.mixed_precision == "fp16":
                kwargs = kwargs or {}
                # of CUDA
                self.scaler = torch.cuda.amp.GradScaler(**kwargs)
            elif self.state.mixed_precision == "bf16":
                self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
        f"""
        def choose(self, torch, kwargs):
            if self.state.mixed_precision == "fp16":
                kwargs = kwargs or {{}}
                # of CUDA
                if {DEVICE}:
                    self.scaler = {OWN}
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
            elif self.state.mixed_precision == "bf16":
                self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
    case(
        "without arguments, before 0.3; and MS-AMP's",
        """
        def choose(self, torch, fp16, fp8):
            if fp16:
                self.scaler = torch.cuda.amp.GradScaler()
            elif fp8:
                self.scaler = torch.cuda.amp.GradScaler()
        """,
        f"""
        def choose(self, torch, fp16, fp8):
            if fp16:
                if {DEVICE}:
                    self.scaler = {OWN.replace("**kwargs", "")}
                else:
                    self.scaler = torch.cuda.amp.GradScaler()
            elif fp8:
                self.scaler = torch.cuda.amp.GradScaler()
        """,
    ),
    case(
        "by torch's version, before 1.0",
        """
        def choose(self, torch, kwargs, npu, new):
            if npu:
                self.scaler = torch.npu.amp.GradScaler(**kwargs)
            else:
                if new:
                    self.scaler = torch.amp.GradScaler("cuda", **kwargs)
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
        f"""
        def choose(self, torch, kwargs, npu, new):
            if npu:
                self.scaler = torch.npu.amp.GradScaler(**kwargs)
            elif {DEVICE}:
                self.scaler = {OWN}
            else:
                if new:
                    self.scaler = torch.amp.GradScaler("cuda", **kwargs)
                else:
                    self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        """,
    ),
    case(
        "by a function, from 1.0",
        """
        from .utils import DistributedType, get_grad_scaler

        def choose(self, torch, kwargs):
            if self.fp16:
                self.scaler = get_grad_scaler(self.distributed_type, **kwargs)
            elif self.fp8:
                self.scaler = get_grad_scaler(**kwargs)
        """,
        f"""
        from .utils import DistributedType, get_grad_scaler

        def choose(self, torch, kwargs):
            if self.fp16:
                if self.distributed_type != DistributedType.FSDP and {DEVICE}:
                    self.scaler = {OWN}
                else:
                    self.scaler = get_grad_scaler(self.distributed_type, **kwargs)
            elif self.fp8:
                self.scaler = get_grad_scaler(**kwargs)
        """,
    ),
    case(
        "an if in an else, with one below it",
        "import torch\ndef f(self, kwargs):\n    if a:\n        pass\n    else:\n        if b:\n            pass\n"
        f"        else:\n    {CUDA}        c = 1\n",
        "import torch\ndef f(self, kwargs):\n    if a:\n        pass\n    else:\n        if b:\n            pass\n"
        f"        elif {DEVICE}:\n            self.scaler = {OWN}\n        else:\n    {CUDA}        c = 1\n",
    ),
    case(
        "more than it is done in a branch",
        f"import torch\ndef f(self, kwargs):\n    if a:\n        b = 1\n{CUDA}    else:\n        c = 1\n{CUDA}",
        f"import torch\ndef f(self, kwargs):\n    if a:\n        b = 1\n        if {DEVICE}:\n"
        f"            self.scaler = {OWN}\n        else:\n    {CUDA}    else:\n        c = 1\n        if {DEVICE}:\n"
        f"            self.scaler = {OWN}\n        else:\n    {CUDA}",
        count=2,
    ),
]

HEAD = "import torch\ndef f(self, kwargs, a):\n    if a:\n        pass\n"
REFUSED = [
    satisfied("chosen", f"{HEAD}    elif {DEVICE}:\n        self.scaler = {OWN}\n    else:\n{CUDA}"),
    satisfied("chosen alone", f"import torch\nif {DEVICE}:\n    self.scaler = {OWN}\nelse:\n{CUDA[4:]}"),
    gone("for CUDA alone", f"import torch\ndef f(self, kwargs):\n    if torch.cuda.is_available():\n{CUDA}"),
    gone("for bf16", f"import torch\ndef f(self, kwargs):\n    if self.state.mixed_precision == 'bf16':\n{CUDA}"),
    gone("a choice that knows no FSDP", "self.scaler = get_grad_scaler(self.distributed_type, **kwargs)\n"),
    gone("another scaler", CUDA.strip().replace("cuda.", "") + "\n"),
    gone("other arguments", CUDA.strip().replace("**kwargs", "") + "\n"),
    conflict("no torch", "`torch` is not bound", 5, f"{HEAD[13:]}    else:\n{CUDA}"),
    conflict(
        "its class has no device",
        "`self.device` is not bound there",
        4,
        f"import torch\nclass Trainer:\n    def f(self, kwargs):\n{CUDA}",
    ),
    conflict(
        "the device is made below",
        "`self.device` is not bound there",
        4,
        f"import torch\nclass Trainer:\n    def f(self, kwargs):\n{CUDA}        self.device = kwargs.device\n",
    ),
    conflict(
        "the branch takes another",
        "takes no scaler of its own: write `self.scaler = getattr(torch, self.device.type).amp.GradScaler(**kwargs)`",
        8,
        f"{HEAD}    elif {DEVICE}:\n        pass\n    else:\n{CUDA}",
    ),
    conflict(
        "an else that does more",
        "found 2 (lines 6, 7)",
        6,
        f"import torch\ndef f(self, kwargs):\n    if a:\n        pass\n    else:\n{CUDA}{CUDA}",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize(
    ("device", "before", "after"),
    [("tpu", "cuda's", "tpu's"), ("cuda", "cuda's", "cuda's"), ("mps", "cuda's", "cuda's")],
)
def test_a_registered_device_has_its_own(device: str, before: str, after: str) -> None:
    names = SimpleNamespace(_get_privateuse1_backend_name=lambda: "tpu")
    own = {
        name: SimpleNamespace(amp=SimpleNamespace(GradScaler=lambda name=name: f"{name}'s")) for name in ("cuda", "tpu")
    }
    torch = SimpleNamespace(_C=names, **own)
    given = APPLIED[0].values[0]
    for text, wanted in ((given.before, before), (given.after, after)):
        assert run(text)["Accelerator"](SimpleNamespace(type=device), torch, fp16=True).scaler == wanted


def test_outcomes_are_told_apart() -> None:
    assert {param.values[0].outcome for param in REFUSED} == {Outcome.satisfied, Outcome.gone, Outcome.conflict}
