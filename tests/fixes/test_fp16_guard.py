"""fp16-guard: open accelerate's fp16 guard to a PrivateUse1 device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

from kit.codemod import Outcome

NAME = "fp16-guard"
OTHER = "self.device.type != torch._C._get_privateuse1_backend_name()"

APPLIED = [
    case(
        "as in 0.16",
        """
        class Accelerator:
            def __init__(self, device, torch, parse_flag_from_env):
                self.device = device
                if self.device.type != "cpu":
                    self.native_amp = True
                    if not torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_MPS_DEVICE"):
                        raise ValueError("fp16 mixed precision requires a GPU")
        """,
        f"""
        class Accelerator:
            def __init__(self, device, torch, parse_flag_from_env):
                self.device = device
                if self.device.type != "cpu":
                    self.native_amp = True
                    if (
                        not torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_MPS_DEVICE")
                        and {OTHER}
                    ):
                        raise ValueError("fp16 mixed precision requires a GPU")
        """,
    ),
    case(
        "one test, a message that is formatted, lines above the raise",
        """
        import torch

        def check(self, err):
            # only where there is one
            if not torch.cuda.is_available():  # none
                name = self.device.type
                raise ValueError(err.format(mode="fp16", requirement=name))
            else:
                pass
        """,
        f"""
        import torch

        def check(self, err):
            # only where there is one
            if (
                not torch.cuda.is_available()
                and {OTHER}
            ):  # none
                name = self.device.type
                raise ValueError(err.format(mode="fp16", requirement=name))
            else:
                pass
        """,
    ),
    case(
        "a list of devices, from 0.21",
        """
        import torch

        def check(self, err):
            if self.device.type not in ("cuda", "mps", "npu"):
                raise ValueError(err.format(mode="fp16", requirement="a GPU"))
        """,
        f"""
        import torch

        def check(self, err):
            if (
                self.device.type not in ("cuda", "mps", "npu")
                and {OTHER}
            ):
                raise ValueError(err.format(mode="fp16", requirement="a GPU"))
        """,
    ),
    case(
        "an `or`, from 0.26, with another line about fp16 below",
        """
        import torch

        def check(self, supported_device):
            if self.device.type not in supported_device or is_torch_xla_available(
                check_is_tpu=True
            ):
                raise ValueError(f"fp16 mixed precision requires a device in {supported_device}")
            if self.device.type == "mps" and not is_torch_version(">=", "2.5.0"):
                raise ValueError("fp16 mixed precision with MPS device requires a Pytorch >= 2.5.0")
        """,
        f"""
        import torch

        def check(self, supported_device):
            if (
                (self.device.type not in supported_device or is_torch_xla_available(
                check_is_tpu=True
            ))
                and {OTHER}
            ):
                raise ValueError(f"fp16 mixed precision requires a device in {{supported_device}}")
            if self.device.type == "mps" and not is_torch_version(">=", "2.5.0"):
                raise ValueError("fp16 mixed precision with MPS device requires a Pytorch >= 2.5.0")
        """,
    ),
    case(
        "on one line",
        "import torch\ndef check(self):\n    if not torch.cuda.is_available(): raise ValueError('fp16')\n",
        f"import torch\ndef check(self):\n    if (\n        not torch.cuda.is_available()\n        and {OTHER}\n"
        "    ): raise ValueError('fp16')\n",
    ),
]

HEAD = "import torch\ndef f(self, other):\n"
RAISE = '        raise ValueError("fp16")\n'
REFUSED = [
    satisfied("open", f"{HEAD}    if not torch.cuda.is_available() and {OTHER}:\n{RAISE}"),
    gone("another precision", f"{HEAD}    if not torch.cuda.is_available():\n        raise ValueError('bf16')\n"),
    gone("a device of one kind", f"{HEAD}    if self.device.type == 'mps' and not other:\n{RAISE}"),
    gone("nothing is raised", f"{HEAD}    if not torch.cuda.is_available():\n        print('fp16')\n"),
    gone("an `or` lets others in", f"{HEAD}    if not torch.cuda.is_available() or other:\n{RAISE}"),
    conflict(
        "no self",
        "in no method with a `self`",
        3,
        f"import torch\ndef f():\n    if not torch.cuda.is_available():\n{RAISE}",
    ),
    conflict(
        "its class has no device",
        "`self.device` is not bound there",
        4,
        f"import torch\nclass Trainer:\n    def f(self):\n        if not torch.cuda.is_available():\n    {RAISE}",
    ),
    conflict(
        "the device is made below",
        "`self.device` is not bound there",
        4,
        "import torch\nclass Trainer:\n    def f(self):\n        if not torch.cuda.is_available():\n"
        f"    {RAISE}        self.device = torch.device('cpu')\n",
    ),
    conflict(
        "an elif",
        "it is an `elif`, which this fix cannot edit",
        5,
        f"{HEAD}    if other:\n        pass\n    elif not torch.cuda.is_available():\n{RAISE}",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize(
    ("device", "cuda", "before", "after"),
    [
        ("tpu", False, "refused", "accepted"),
        ("xla", False, "refused", "refused"),
        ("cuda", True, "accepted", "accepted"),
    ],
)
def test_only_the_registered_device_is_let_in(device: str, cuda: bool, before: str, after: str) -> None:
    names = SimpleNamespace(_get_privateuse1_backend_name=lambda: "tpu")
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda), _C=names)

    def outcome(text: str) -> str:
        accelerator: Any = run(text)["Accelerator"]
        try:
            accelerator(SimpleNamespace(type=device), torch, lambda name: False)
        except ValueError as error:
            assert str(error) == "fp16 mixed precision requires a GPU"
            return "refused"
        return "accepted"

    given = APPLIED[0].values[0]
    assert (outcome(given.before), outcome(given.after)) == (before, after)


def test_outcomes_are_told_apart() -> None:
    assert {param.values[0].outcome for param in REFUSED} == {Outcome.satisfied, Outcome.gone, Outcome.conflict}
