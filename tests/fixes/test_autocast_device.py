"""autocast-device: switch autocast off on the device that a module's tensors are on."""

from __future__ import annotations

from fixing import case, gone, satisfied, tables

NAME = "autocast-device"
HEAD = "import torch\ndef rotate(x, angles):\n"
WORK = "        return x.float() * angles\n"

APPLIED = [
    case(
        "as in upstream's modules",
        f'{HEAD}    with torch.amp.autocast("cuda", enabled=False):\n{WORK}',
        f"{HEAD}    with torch.amp.autocast(x.device.type, enabled=False):\n{WORK}",
    ),
    case(
        "its size is asked, and it is cast",
        f'{HEAD}    a = x.shape\n    with torch.amp.autocast("cuda", enabled=False):\n        x = x.float()\n',
        f"{HEAD}    a = x.shape\n    with torch.amp.autocast(x.device.type, enabled=False):\n        x = x.float()\n",
    ),
    case(
        "by its name, with something else, in a method",
        "import torch as th\nclass Rope(th.nn.Module):\n    def forward(self, x, angles):\n"
        '        with th.no_grad(), th.autocast(device_type="cuda", enabled=False):  # exact\n    ' + WORK,
        "import torch as th\nclass Rope(th.nn.Module):\n    def forward(self, x, angles):\n"
        "        with th.no_grad(), th.autocast(device_type=x.device.type, enabled=False):  # exact\n    " + WORK,
    ),
    *(
        case(
            f"handed {given}",
            f"import torch\ndef rotate({given}):\n"
            "    with note_autocast('cuda'), torch.autocast('cuda', enabled=False):\n"
            "        return x.float() * (angles > 1)\n",
            f"import torch\ndef rotate({given}):\n"
            "    with note_autocast('cuda'), torch.autocast(x.device.type, enabled=False):\n"
            "        return x.float() * (angles > 1)\n",
        )
        for given in ("x=1, angles=2", "x=zero, angles=one")
    ),
    case(
        "twice",
        f'{HEAD}    with torch.autocast("cuda", enabled=False), torch.amp.autocast("cuda", enabled=False):\n{WORK}',
        f"{HEAD}    with torch.autocast(x.device.type, enabled=False), "
        f"torch.amp.autocast(x.device.type, enabled=False):\n{WORK}",
    ),
]
REFUSED = [
    satisfied("asked of a tensor", f"{HEAD}    with torch.autocast(x.device.type, enabled=False):\n{WORK}"),
    *(
        gone(f"another device: {kind}", f'{HEAD}    with torch.autocast("{kind}", enabled=False):\n{WORK}')
        for kind in ("npu", "cpu")
    ),
    gone("a device that is handed in", f"{HEAD}    with torch.autocast(device, enabled=False):\n{WORK}"),
    *(
        gone(f"switched by {how}", f'{HEAD}    with torch.autocast("cuda", {how}):\n{WORK}')
        for how in ("enabled=A", "enabled=x", "cache_enabled=False")
    ),
    gone("switched on", f'{HEAD}    with torch.autocast("cuda"):\n{WORK}'),
    gone(
        "no tensor in sight", 'import torch\ndef f(n):\n    with torch.autocast("cuda", enabled=False):\n        g(n)\n'
    ),
    *(
        gone(
            id,
            f'import torch\ndef f({given}):\n    with torch.autocast("cuda", enabled=False):\n        return {made}\n',
        )
        for id, given, made in (
            ("which may be None", "x=None", "x.float() * 2"),
            ("which is said to be None at times", "x: Tensor | None", "x.float() * 2"),
            ("which is asked whether it is None", "x", "x.float() * 2 if x is not None else 0"),
            ("an array", "x", "x.reshape(1, -1) * 2"),
            ("settings", "cfg", "torch.zeros(1, dtype=cfg.dtype)"),
            ("a module", "x, y", "x.float()(y)"),
            ("a module that is moved", "x, y", "x.to(y).decode(y)"),
            ("a module that is cast", "x, y", "use(x.float(), y.shape)"),
        )
    ),
    gone(
        "another is a tensor",
        "import torch\ndef f(x):\n    y = g()\n    y = y.float() * 2\n    a = g()\n    a = a.float() * 2\n"
        '    with torch.autocast("cuda", enabled=False):\n        return h(x.shape)\n',
    ),
    gone(
        "the work is on another",
        'import torch\ndef f(x, y):\n    y = y.float() * 2\n    with torch.autocast("cuda", enabled=False):\n'
        "        return y.real\n",
    ),
    gone(
        "only CUDA comes there",
        f'{HEAD}    if x.device.type == "cuda":\n        with torch.autocast("cuda", enabled=False):\n    {WORK}',
    ),
    gone(
        "a script",
        f'{HEAD}    with torch.autocast("cuda", enabled=False):\n{WORK}if __name__ == "__main__":\n    rotate(1, 2)\n',
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
