"""pin-memory-guard: before and after, and what it refuses."""

from __future__ import annotations

import pytest
from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "pin-memory-guard"

APPLIED = [
    case(
        "the value of an assignment",
        """
        import torch
        latent = latent.to("cpu").pin_memory()  # fast
        """,
        """
        import torch
        latent = latent.to("cpu").pin_memory() if torch.accelerator.is_available() else latent.to("cpu")  # fast
        """,
    ),
    case(
        "returned, and in a list",
        """
        import torch

        def collate(batch):
            if not torch.backends.mps.is_available():
                return [each.pin_memory() for each in batch]
            return batch[0].pin_memory()
        """,
        """
        import torch

        def collate(batch):
            if not torch.backends.mps.is_available():
                return [each.pin_memory() if torch.accelerator.is_available() else each for each in batch]
            return batch[0].pin_memory() if torch.accelerator.is_available() else batch[0]
        """,
        count=2,
    ),
    case(
        "in a header",
        """
        import torch
        if x.pin_memory().any():
            y = x.pin_memory().sum()
        """,
        """
        import torch
        if (x.pin_memory() if torch.accelerator.is_available() else x).any():
            y = (x.pin_memory() if torch.accelerator.is_available() else x).sum()
        """,
        count=2,
    ),
    case(
        "over lines, with blanks, in a text",
        """
        import torch

        def f(x, y):
            x = (x.float()
                 .pin_memory())
            y = (y
                 .float().pin_memory ( ))
            return f"{x.pin_memory()}"
        """,
        """
        import torch

        def f(x, y):
            x = (x.float()
                 .pin_memory()) if torch.accelerator.is_available() else x.float()
            y = (y
                 .float().pin_memory ( )) if torch.accelerator.is_available() else (y
                 .float())
            return f"{(x.pin_memory() if torch.accelerator.is_available() else x)}"
        """,
        count=3,
    ),
    case(
        "an operand is put in parentheses, an argument is not",
        """
        import torch

        def f(x, y):
            g(x.pin_memory(), x.pin_memory(device), n=1)
            return y.pin_memory().to("cuda", non_blocking=True)
        """,
        """
        import torch

        def f(x, y):
            g(x.pin_memory() if torch.accelerator.is_available() else x, x.pin_memory(device), n=1)
            return (y.pin_memory() if torch.accelerator.is_available() else y).to("cuda", non_blocking=True)
        """,
        count=2,
    ),
    unlike(
        "what is pinned is handed on",
        """
        import torch as th
        def f(a: Host, batch, z: Host):
            pinned = g(n=batch.pin_memory(), pin_pages=True)
        """,
        """
        import torch as th
        def f(a: Host, batch, z: Host):
            pinned = g(n=batch.pin_memory() if th.accelerator.is_available() else batch, pin_pages=True)
        """,
    ),
    case(
        "a guard outside the function does not count",
        """
        import torch
        if torch.cuda.is_available():
            def f(x):
                x = x.pin_memory()
        """,
        """
        import torch
        if torch.cuda.is_available():
            def f(x):
                x = x.pin_memory() if torch.accelerator.is_available() else x
        """,
    ),
]

REFUSED = [
    satisfied("chosen", "import torch\nx = x.pin_memory() if torch.accelerator.is_available() else x\n"),
    satisfied(
        "chosen, by another name", "import torch as th\nx = x.pin_memory() if th.accelerator.is_available() else x\n"
    ),
    satisfied("guarded", "import torch\nif torch.cuda.is_available() and a:\n    x = x.pin_memory()\n"),
    gone("its result is not used", "import torch\nself.ema_model.pin_memory()\n"),
    gone("an argument of that name", "import torch\nload(data, pin_memory=True)\nx.pin_memory(device)\n"),
    gone("with a device", "import torch\nx = x.pin_memory(device)\ny = y.pin_memory(device=device)\n"),
    gone("what belongs to settings", "import torch\nx = flags.host.pin_memory()\n"),
    gone("a name that says so", "import torch\npinned = loader.pin_memory()\n"),
    gone("a function of that name", "import torch\nx = pin_memory(x)\ny = pin_memory()\n"),
    gone("its result is a setting", "import torch\nload(data, pin_pages=loader.pin_memory())\n"),
    gone("its result is only asked", "import torch\nif not loader.pin_memory():\n    x = 1\n"),
    gone("an allocator", "import torch\nbuffer = alloc.pin_memory()\n"),
    gone("a parameter of another class", "import torch\ndef f(host: Host):\n    y = host.pin_memory()\n"),
    gone("entered", "import torch\nwith x.pin_memory() as y:\n    pass\n"),
    gone("awaited", "import torch\nasync def f(x):\n    y = await x.pin_memory()\n"),
    conflict("torch is not there", "`torch` is not bound", 1, "x = x.pin_memory()\n"),
    conflict(
        "in the other branch",
        "it also pins where that asks for no accelerator",
        2,
        "import torch\nx = y if torch.accelerator.is_available() else x.pin_memory()\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_without_an_accelerator_the_tensor_itself_is_taken() -> None:
    class Nothing:
        """torch and a tensor, on a machine without an accelerator."""

        accelerator = property(lambda self: self)

        def is_available(self) -> bool:
            return False

        def pin_memory(self) -> None:
            raise RuntimeError("Cannot access accelerator device when none is available.")

    code = "def f(torch, x):\n    return x.pin_memory()\n"
    with pytest.raises(RuntimeError):
        run(code)["f"](Nothing(), Nothing())
    tensor = Nothing()
    guarded = code.replace("x.pin_memory()", "x.pin_memory() if torch.accelerator.is_available() else x")
    assert run(guarded)["f"](Nothing(), tensor) is tensor
