"""device-scaler: the gradient scaler of the device that trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "device-scaler"
DEVICE = "import torch\ndevice = torch.device('npu')\n"

APPLIED = [
    case(
        "by its full name",
        f"{DEVICE}scaler = torch.cuda.amp.GradScaler()\n",
        f"{DEVICE}scaler = torch.amp.GradScaler(torch.device(device).type)\n",
    ),
    case(
        "beside a file",
        f"{DEVICE}with open(path) as z:\n    scaler = torch.cuda.amp.GradScaler()\n",
        f"{DEVICE}with open(path) as z:\n    scaler = torch.amp.GradScaler(torch.device(device).type)\n",
    ),
    case(
        "where nothing is resumed, an option to be chosen beside it",
        f"{DEVICE}p.add_argument('--device', default='auto')\nif hasattr(args, 'resume'):\n    load()\nelse:\n"
        "    scaler = torch.cuda.amp.GradScaler()\n",
        f"{DEVICE}p.add_argument('--device', default='auto')\nif hasattr(args, 'resume'):\n    load()\nelse:\n"
        "    scaler = torch.amp.GradScaler(torch.device(device).type)\n",
    ),
    case(
        "imported, with arguments",
        f"from torch.cuda.amp import GradScaler\n{DEVICE}scaler = GradScaler(init_scale=4, enabled=fp16)  # fp16\n",
        f"from torch.cuda.amp import GradScaler\n{DEVICE}"
        "scaler = torch.amp.GradScaler(torch.device(device).type, init_scale=4, enabled=fp16)  # fp16\n",
    ),
    case(
        "on several lines",
        f"{DEVICE}scaler = torch.cuda.amp.GradScaler(\n    growth_interval=1,\n)\n",
        f"{DEVICE}scaler = torch.amp.GradScaler(\n    torch.device(device).type, growth_interval=1,\n)\n",
    ),
    case(
        "imported from where it is told nothing",
        f"from torch.amp import GradScaler\n{DEVICE}scaler = GradScaler()\n",
        f"from torch.amp import GradScaler\n{DEVICE}scaler = GradScaler(torch.device(device).type)\n",
    ),
    case(
        "under another name",
        f"from torch.cuda.amp import GradScaler as S\n{DEVICE}scaler = S()\n",
        f"from torch.cuda.amp import GradScaler as S\n{DEVICE}"
        "scaler = torch.amp.GradScaler(torch.device(device).type)\n",
    ),
    unlike(
        "beside others of the name, and others' parts",
        f"{DEVICE}from torch.cuda.amp import GradScaler as S\nb = GradScaler()\n"
        "self.scaler = torch.cuda.amp.GradScaler(**kwargs)\na[0], z[0], a.split(), z.split()\n"
        "pair = (torch.amp.GradScaler('cpu'), keep('cuda', torch.amp.GradScaler('cuda', **of['cuda'])))\n",
        f"{DEVICE}from torch.cuda.amp import GradScaler as S\nb = GradScaler()\n"
        "self.scaler = torch.cuda.amp.GradScaler(**kwargs)\na[0], z[0], a.split(), z.split()\n"
        "pair = (torch.amp.GradScaler('cpu'), keep('cuda', "
        "torch.amp.GradScaler(torch.device(device).type, **of['cuda'])))\n",
    ),
    *(
        unlike(
            f"a parameter: {given}",
            f"import torch as th\ndef f({given}):\n    s = th.cuda.amp.GradScaler()\n",
            f"import torch as th\ndef f({given}):\n    s = th.amp.GradScaler(th.device(device).type)\n",
        )
        for given in ("a: int, device, zzz: int = 3", "device: torch.device", "device: Any")
    ),
    *(
        unlike(
            id,
            f"import os, torch\n{code}",
            f"import os, torch\n{code}".replace("cuda.amp.GradScaler()", f"amp.GradScaler({kind}.type)"),
        )
        for id, kind, code in (
            (
                "of the arguments",
                "torch.device(args.device)",
                "def f(args, x):\n    args.device = 'npu'\n    os.environ['A'] = a\n    os.environ['Z'] = z\n"
                "    s = torch.cuda.amp.GradScaler()\n    x.to(args.device)\n    args.device = 'cpu'\n"
                "p.add_argument('--amp', default='auto')\np.add_argument('--zoom', default='auto')\n",
            ),
            (
                "of its class",
                "torch.device(self.device)",
                "class T:\n    def __init__(self, device):\n        self.device = device\n"
                "    def f(self):\n        s = torch.cuda.amp.GradScaler()\n"
                "    def g(self, x):\n        x.to(self.device)\n",
            ),
            (
                "of its class, beside a number",
                "torch.device(self.device)",
                "class T:\n    def __init__(self, card, place):\n        self.device = place\n"
                "        self.device = card\n    def f(self):\n        s = torch.cuda.amp.GradScaler()\n"
                "    def g(self, x, device=0):\n        x.to(self.device)\n",
            ),
            (
                "of accelerate",
                "accelerator.device",
                "from accelerate import Accelerator\naccelerator = Accelerator()\ns = torch.cuda.amp.GradScaler()\n",
            ),
        )
    ),
    case(
        "a name given the class, CUDA's or any",
        f"{DEVICE}cls = torch.cuda.amp.GradScaler\nmade = torch.amp.GradScaler\none, two = cls(), made('cuda')\n",
        f"{DEVICE}cls = torch.cuda.amp.GradScaler\nmade = torch.amp.GradScaler\n"
        "one, two = torch.amp.GradScaler(torch.device(device).type), made(torch.device(device).type)\n",
    ),
    unlike(
        "a name given the class in a function",
        f"{DEVICE}def f():\n    cls = torch.cuda.amp.GradScaler\n    return cls()\n",
        f"{DEVICE}def f():\n    cls = torch.cuda.amp.GradScaler\n"
        "    return torch.amp.GradScaler(torch.device(device).type)\n",
    ),
    case(
        "with its first argument by place",
        f"{DEVICE}scaler = (torch.cuda.amp.GradScaler\n    (1024.0, enabled=fp16))\n",
        f"{DEVICE}scaler = (torch.amp.GradScaler\n    (torch.device(device).type, 1024.0, enabled=fp16))\n",
    ),
    case(
        "told CUDA after another text",
        f"{DEVICE}scaler = torch.amp.GradScaler(enabled=mode != 'cuda', device='cuda')\n",
        f"{DEVICE}scaler = torch.amp.GradScaler(enabled=mode != 'cuda', device=torch.device(device).type)\n",
    ),
]
REFUSED = [
    conflict(
        "a function of that name",
        "`device` is not known to be a device",
        4,
        "import torch\ndef device():\n    return 1\nscaler = torch.cuda.amp.GradScaler()\n",
    ),
    conflict(
        "CUDA's own with an older torch",
        "`GradScaler` is CUDA's own by one import of it",
        6,
        "import torch\ntry:\n    from torch.amp import GradScaler\nexcept ImportError:\n"
        "    from torch.cuda.amp import GradScaler\ndef main(device): scaler = GradScaler()\n",
    ),
    satisfied("told of no card", "import torch\nscaler = torch.amp.GradScaler('cpu')\n"),
    satisfied("told of another", "import torch\nscaler = torch.amp.GradScaler('npu')\n"),
    satisfied("told", f"{DEVICE}scaler = torch.amp.GradScaler(device.type)\n"),
    satisfied(
        "for an older torch",
        f"{DEVICE}if hasattr(torch.amp, 'GradScaler'):\n    s = torch.amp.GradScaler(device.type)\n"
        "else:\n    s = torch.cuda.amp.GradScaler()\n",
    ),
    gone("a class's own name", f"{DEVICE}cls = Net\ndef f(cls):\n    cls('cuda')\n"),
    gone(
        "a name given a class elsewhere",
        f"{DEVICE}def f():\n    cls = torch.amp.GradScaler\ndef g(cls):\n    return cls('cuda')\n",
    ),
    gone("accelerate's", f"{DEVICE}self.scaler = torch.cuda.amp.GradScaler(**kwargs)\n"),
    conflict(
        "its class has none",
        "`device` is not bound there",
        5,
        "import torch\nclass T:\n    def f(self):\n        self.x = 1\n"
        "        self.scaler = torch.cuda.amp.GradScaler()\n",
    ),
    conflict(
        "an attribute of several",
        "`device` is not bound there",
        5,
        "import torch\nclass T:\n    def f(self, net):\n        net.to(self.device.split(',')[0])\n"
        "        s = torch.cuda.amp.GradScaler()\n",
    ),
    conflict("no device", "`device` is not bound there", 2, "import torch\nscaler = torch.cuda.amp.GradScaler()\n"),
    *(
        conflict(f"no device: {id}", f"`{name}` is not known to be a device", line, f"import torch\n{code}")
        for id, name, line, code in (
            (
                "parts of a text",
                "device",
                4,
                "def f(x, device):\n    a = device.split(',')\n    s = torch.cuda.amp.GradScaler()\n",
            ),
            (
                "a dictionary",
                "device",
                4,
                "def f(x, device):\n    a = device['name']\n    s = torch.cuda.amp.GradScaler()\n",
            ),
            (
                "a card that is chosen",
                "device",
                4,
                "def f(x):\n    with torch.cuda.device(0) as device: x.to(device)\n"
                "    s = torch.cuda.amp.GradScaler()\n",
            ),
            ("a default to be chosen", "device", 3, "def f(x, device='auto'):\n    s = torch.cuda.amp.GradScaler()\n"),
            ("to be chosen", "device", 4, "def f(x):\n    device = 'auto'\n    s = torch.cuda.amp.GradScaler()\n"),
            (
                "an option to be chosen",
                "device",
                5,
                "p.add_argument('--device', default='auto')\ndef f(args):\n    device = args.device\n"
                "    s = torch.cuda.amp.GradScaler()\n",
            ),
            (
                "an attribute to be chosen",
                "device",
                5,
                "class T:\n    def f(self, device='auto'):\n        self.device = device\n"
                "        s = torch.cuda.amp.GradScaler()\n",
            ),
            ("a number", "device", 3, "def f(x, device: int = 0):\n    s = torch.cuda.amp.GradScaler()\n"),
            ("an int", "device", 3, "def f(x, device: int):\n    s = torch.cuda.amp.GradScaler()\n"),
            ("a parameter by its value", "device", 3, "def f(x, device=0):\n    s = torch.cuda.amp.GradScaler()\n"),
            ("given a number", "device", 4, "def f(x):\n    device = 0\n    s = torch.cuda.amp.GradScaler()\n"),
            ("given parts", "device", 4, "def f(x):\n    device = x.split(',')\n    s = torch.cuda.amp.GradScaler()\n"),
            (
                "an option given what is to be chosen",
                "device",
                4,
                "def f(x, args, device='auto'):\n    args.device = device\n    s = torch.cuda.amp.GradScaler()\n"
                "    x.to(args.device)\n",
            ),
            ("a list", "device", 4, "def f(x):\n    device = [0, 1]\n    s = torch.cuda.amp.GradScaler()\n"),
        )
    ),
    conflict(
        "cards for the environment",
        "`device` is not bound there",
        4,
        "import os, torch\ndef f(args):\n    os.environ['CARDS'] = cards = args.device\n"
        "    s = torch.cuda.amp.GradScaler()\n    x.to(args.device)\n",
    ),
    *(
        conflict(f"{id} of it", "`device` is not bound there", line, f"import torch\n{code}")
        for id, line, code in (
            (
                "a later one",
                3,
                "def f(args, x):\n    s = torch.cuda.amp.GradScaler()\n    args.device = 'npu'\n"
                "    x.to(args.device)\n"
                "    args.device = 'cpu'\n",
            ),
            (
                "another function's",
                6,
                "def g(args, x):\n    x.to(args.device)\ndef f(args):\n    amp = args.amp\n"
                "    s = torch.cuda.amp.GradScaler()\n",
            ),
            (
                "a part",
                4,
                "class T:\n    def f(self, x):\n        s = torch.cuda.amp.GradScaler(), x.to(self.device['a'])\n",
            ),
        )
    ),
    conflict(
        "given on its line",
        "several statements share the line",
        3,
        "import torch\ndef f(args, x):\n    args.device = 'npu'; s = torch.cuda.amp.GradScaler()\n"
        "    x.to(args.device)\n",
    ),
    conflict(
        "no accelerator either",
        "`device` is not bound there",
        3,
        "import torch\nfrom accelerate import Accelerator\nscaler = torch.cuda.amp.GradScaler()\n",
    ),
    conflict(
        "the device comes later",
        "`device` is not bound there",
        3,
        "import torch\ndef main():\n    scaler = torch.cuda.amp.GradScaler()\n    device = 'npu'\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


class Scaler:
    """What torch's scaler does: on a device that is not there it switches itself off."""

    def __init__(self, device: str = "cuda", **kwargs: Any) -> None:
        self.enabled = device == "npu"


def test_it_scales_on_the_device_and_without_the_fix_it_does_not() -> None:
    device = SimpleNamespace(type="npu")
    amp = SimpleNamespace(GradScaler=Scaler)
    torch = SimpleNamespace(device=lambda given: device, amp=amp, cuda=SimpleNamespace(amp=amp))
    before, after = (
        run(text.partition("\n")[2], torch=torch)["scaler"]
        for text in (APPLIED[0].values[0].before, APPLIED[0].values[0].after)
    )
    assert (before.enabled, after.enabled) == (False, True)
