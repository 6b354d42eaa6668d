"""float32-rope: before and after, and what it refuses."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables, unlike

NAME = "float32-rope"

ANY = 'torch.float32 if str(torch.accelerator.current_accelerator()) in ("mps", "npu", "tpu") else torch.float64'

APPLIED = [
    case(
        "an argument, in parentheses that stay",
        """
        import torch

        def rope(pos, dim, theta):
            scale = (
                torch.arange(
                    0,
                    dim,
                    2,
                    dtype=torch.float32 if torch.backends.mps.is_available() else torch.float64,
                    device=pos.device,
                )
                / dim
            )
            return scale
        """,
        f"""
        import torch

        def rope(pos, dim, theta):
            scale = (
                torch.arange(
                    0,
                    dim,
                    2,
                    dtype={ANY},
                    device=pos.device,
                )
                / dim
            )
            return scale
        """,
    ),
    case(
        "assigned, and as the argument of a method",
        """
        import torch
        kind = torch.float32 if  torch.backends.mps.is_available() else torch.float64  # no double on a Mac
        x = x.to(torch.float32 if torch.backends.mps.is_available() else torch.float64).unflatten(3, (-1, 2))
        """,
        f"""
        import torch
        kind = {ANY.replace("if ", "if  ")}  # no double on a Mac
        x = x.to({ANY}).unflatten(3, (-1, 2))
        """,
        count=2,
    ),
    case(
        "by the tensor's own device, where that is asked for a Mac's only",
        """
        import torch

        def forward(self, ids):
            is_mps = ids.device.type == "mps"
            freqs_dtype = torch.float32 if is_mps else torch.float64
            return get(ids, freqs_dtype)
        """,
        """
        import torch

        def forward(self, ids):
            is_mps = ids.device.type == "mps"
            freqs_dtype = torch.float32 if is_mps or ids.device.type in ("npu", "tpu") else torch.float64
            return get(ids, freqs_dtype)
        """,
    ),
    unlike(
        "moved to it, torch under another name",
        """
        import torch as th
        def rope(self, pos_ids, freqs):
            self.freqs = freqs.to(th.float64)
            pos_ids = pos_ids.to(th.float64)
            freqs = freqs.view(th.float64) + freqs.to(th.float64, copy=True) + freqs.to("cpu", th.float64)
            return (freqs + 1).to(th.float64) + freqs.to(th.bfloat16)
        def score(x):
            return x.to(th.float64)
        """,
        """
        import torch as th
        def rope(self, pos_ids, freqs):
            self.freqs = freqs.to(th.float32 if freqs.device.type in ("mps", "npu", "tpu") else th.float64)
            pos_ids = pos_ids.to(th.float64)
            freqs = freqs.view(th.float64) + freqs.to(th.float64, copy=True) + freqs.to("cpu", th.float64)
            return (freqs + 1).to(th.float64) + freqs.to(th.bfloat16)
        def score(x):
            return x.to(th.float64)
        """,
    ),
]
LACKS = "torch.float32 if torch.backends.mps.is_available() else torch.float64"
APPLIED += [
    case(
        "beside one that asks for an NPU",
        f"import torch\na, b = ({LACKS}, torch.float32 if npu else torch.float64)\n",
        f"import torch\na, b = (({ANY}), torch.float32 if npu else torch.float64)\n",
    )
]
ASKED = "is_mps = ids.device.type == 'mps'"
CHOSEN = "kind = torch.float32 if is_mps else torch.float64"

REFUSED = [
    conflict(
        "float64 by a name of its own",
        "`torch` is not bound",
        3,
        "from torch import float64 as exact\ndef rope(x):\n    return x.to(exact)\n",
    ),
    *(
        gone(id, f"import torch\ndef {name}(a, ids):\n    {code}\n")
        for id, name, code in (
            ("integers", "rope", "ids = ids.to(torch.float64)"),
            ("compared", "rope", "assert torch.allclose(a.to(torch.float64), b)"),
            ("for numpy", "rope", "b = a.to(torch.float64).numpy()"),
            (
                "a tensor in it has a dtype of its own",
                "rope",
                "torch.linspace(torch.tensor(0.0, dtype=torch.float64), 1, dtype=torch.float64, device=a.device)",
            ),
            ("a loss", "loss", "t = torch.float32 if torch.backends.mps.is_available() else torch.float64"),
        )
    ),
    satisfied("so already", f"import torch\nkind = {ANY}\n"),
    satisfied(
        "by the tensor's own device", "import torch\nkind = torch.float32 if (is_mps or is_npu) else torch.float64\n"
    ),
    gone("asked elsewhere", f"import torch\ndef f(ids, is_mps):\n    {CHOSEN}\n"),
    gone("asked outside", f"import torch\n{ASKED}\ndef f():\n    {CHOSEN}\n"),
    gone("asked twice", f"import torch\ndef f(ids):\n    {ASKED}\n    {ASKED}\n    {CHOSEN}\n"),
    gone("asked for more", f"import torch\ndef f(ids):\n    {ASKED} or npu\n    {CHOSEN}\n"),
    gone("asked of something else", f"import torch\ndef f(kind):\n    is_mps = kind == 'mps'\n    {CHOSEN}\n"),
    gone(
        "another choice", "import torch\nkind = torch.float16 if torch.backends.mps.is_available() else torch.float64\n"
    ),
    conflict(
        "two, where one is expected",
        "expected 1 place to fix, found 2 (lines 2, 3)",
        2,
        "import torch\n" + "x = torch.float32 if torch.backends.mps.is_available() else torch.float64\n" * 2,
    ),
    conflict(
        "in a default",
        "it is in the head of a function",
        2,
        "import torch\ndef f(x=torch.float32 if torch.backends.mps.is_available() else torch.float64):\n    pass\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
