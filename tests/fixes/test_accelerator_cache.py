"""accelerator-cache: before and after, and what it refuses."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables, unlike

NAME = "accelerator-cache"
USED = ("a = torch.cuda.empty_cache()", "b(torch.cuda.empty_cache())")

APPLIED = [
    unlike(
        "devices by their names, an NPU among them",
        'import torch\nif device.type in ("cuda", "npu"):\n    torch.cuda.empty_cache()\n',
        'import torch\nif device.type in ("cuda", "npu"):\n'
        "    if torch.accelerator.is_available():\n        torch.get_device_module().empty_cache()\n",
    ),
    unlike(
        "left above on another thing",
        "import torch\ndef f(free):\n    if not free:\n        return\n    full = pool.is_full()\n    if full:\n"
        "        torch.cuda.empty_cache()\n",
        "import torch\ndef f(free):\n    if not free:\n        return\n    full = pool.is_full()\n    if full:\n"
        "        if torch.accelerator.is_available():\n            torch.get_device_module().empty_cache()\n",
    ),
    unlike(
        "a branch for CUDA, asked for above",
        "import torch\nuse_cuda = torch.cuda.is_available()\nif use_cuda:\n    torch.cuda.empty_cache()\n",
        "import torch\nuse_cuda = torch.cuda.is_available()\nif use_cuda:\n    torch.cuda.empty_cache()\n"
        "elif torch.accelerator.is_available():\n    torch.get_device_module().empty_cache()\n",
    ),
    case(
        "a call of its own",
        """
        import torch
        for child in children:
            child.to(device)
            # make room
            torch.cuda.empty_cache()
        """,
        """
        import torch
        for child in children:
            child.to(device)
            # make room
            if torch.accelerator.is_available():
                torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "a branch for CUDA gets a sibling",
        """
        def reclaim():
            import gc
            import torch

            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.ipc_collect()

            if torch.backends.mps.is_available():
                torch.mps.empty_cache()
        """,
        """
        def reclaim():
            import gc
            import torch

            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.ipc_collect()
            elif torch.accelerator.is_available():
                gc.collect()
                torch.get_device_module().empty_cache()

            if torch.backends.mps.is_available():
                torch.mps.empty_cache()
        """,
    ),
    case(
        "below a question that is not of CUDA's",
        """
        import torch
        if torch.are_deterministic_algorithms_enabled():
            torch.cuda.empty_cache()
        """,
        """
        import torch
        if torch.are_deterministic_algorithms_enabled():
            if torch.accelerator.is_available():
                torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "below the question for another device",
        """
        import torch
        if torch.xpu.is_available():
            torch.cuda.empty_cache()
        """,
        """
        import torch
        if torch.xpu.is_available():
            if torch.accelerator.is_available():
                torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "in a branch of its own, below others",
        """
        import torch
        if done:
            pass
        elif torch.cuda.is_available():
            torch.cuda.empty_cache()
        """,
        """
        import torch
        if done:
            pass
        elif torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.accelerator.is_available():
            torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "below the branches of others",
        """
        import gc, torch
        if torch.cuda.is_available():
            close(); stop()
            gc.collect()
            torch.cuda.empty_cache()
        elif is_torch_npu_available():
            torch_npu.npu.empty_cache()
        """,
        """
        import gc, torch
        if torch.cuda.is_available():
            close(); stop()
            gc.collect()
            torch.cuda.empty_cache()
        elif is_torch_npu_available():
            torch_npu.npu.empty_cache()
        elif torch.accelerator.is_available():
            gc.collect()
            torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "CUDA is not the first",
        """
        import torch
        def free():
            if is_torch_npu_available():
                torch_npu.npu.empty_cache()
            elif torch.cuda.is_available():
                torch.cuda.empty_cache()
        """,
        """
        import torch
        def free():
            if is_torch_npu_available():
                torch_npu.npu.empty_cache()
            elif torch.cuda.is_available():
                torch.cuda.empty_cache()
            elif torch.accelerator.is_available():
                torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "on one line",
        "import torch\ndef free():\n    if torch.cuda.is_available(): torch.cuda.empty_cache()\n",
        "import torch\ndef free():\n    if torch.cuda.is_available(): torch.cuda.empty_cache()\n"
        "    elif torch.accelerator.is_available():\n        torch.get_device_module().empty_cache()\n",
    ),
    case(
        "in an else, too",
        """
        import torch
        if kept:
            pass
        else:
            torch.cuda.empty_cache()
        """,
        """
        import torch
        if kept:
            pass
        else:
            if torch.accelerator.is_available():
                torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "beside another's, and one that has its branch",
        """
        import torch
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.accelerator.is_available():
            torch.get_device_module().empty_cache()
        freed = pool.empty_cache()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        """,
        """
        import torch
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.accelerator.is_available():
            torch.get_device_module().empty_cache()
        freed = pool.empty_cache()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.accelerator.is_available():
            torch.get_device_module().empty_cache()
        """,
    ),
    case(
        "a guard outside the function does not count",
        """
        import torch
        if torch.cuda.is_available():
            def free():
                torch.cuda.empty_cache()
        """,
        """
        import torch
        if torch.cuda.is_available():
            def free():
                if torch.accelerator.is_available():
                    torch.get_device_module().empty_cache()
        """,
    ),
]

REFUSED = [
    conflict(
        "where there is CUDA, in an else",
        "keeps other accelerators out: ask `torch.accelerator.is_available()` there instead",
        5,
        "import torch\nif not torch.cuda.is_available():\n    log()\nelse:\n    torch.cuda.empty_cache()\n",
    ),
    gone(
        "CUDA alone, in a match",
        'import torch\nmatch d.type:\n    case "cuda":\n        torch.cuda.empty_cache()\n    case _:\n        pass\n',
    ),
    conflict(
        "left above without CUDA",
        "`not torch.cuda.is_available()` leaves where there is no CUDA: ask for any accelerator there first",
        6,
        "import torch\ndef free(x):\n    if not torch.cuda.is_available():\n        return\n    if x:\n"
        "        torch.cuda.empty_cache()\n",
    ),
    conflict(
        "left above, but on devices by their names",
        "`device.type not in ('cuda', 'xpu')` leaves where there is no CUDA",
        5,
        'import torch\ndef f(device):\n    if device.type not in ("cuda", "xpu"):\n        raise ValueError\n'
        "    torch.cuda.empty_cache()\n",
    ),
    conflict(
        "left above without one card of CUDA's",
        "`torch.cuda.device_count() != 1` leaves where there is no CUDA",
        4,
        "import torch\ndef f():\n    if torch.cuda.device_count() != 1: return\n    torch.cuda.empty_cache()\n",
    ),
    gone(
        "left above on other devices",
        'import torch\ndef free(d):\n    if d.type != "cuda":\n        return\n    torch.cuda.empty_cache()\n',
    ),
    gone(
        "CUDA alone, by a parameter", "import torch\ndef free(use_cuda):\n    if use_cuda: torch.cuda.empty_cache()\n"
    ),
    satisfied(
        "any", "import torch\nif torch.accelerator.is_available():\n    torch.get_device_module().empty_cache()\n"
    ),
    satisfied(
        "any, where there is CUDA",
        "import torch\nif torch.cuda.is_available():\n    torch.get_device_module().empty_cache()\n",
    ),
    gone("none", "import torch\ntorch.mps.empty_cache()\n"),
    *(gone(f"what it gives is used: {each}", f"import torch\n{each}\n") for each in USED),
    gone(
        "other caches where there is CUDA",
        "import torch\nif torch.cuda.is_available():\n    torch.aaa.empty_cache()\n    torch.mps.empty_cache()\n",
    ),
    conflict(
        "a branch that has an else",
        "its `else` would no longer be for that accelerator",
        2,
        "import torch\nif torch.cuda.is_available():\n    torch.cuda.empty_cache()\nelse:\n    pass\n",
    ),
    conflict(
        "an else that begins with a question",
        "its `else` would no longer be for that accelerator",
        2,
        "import torch\nif torch.cuda.is_available():\n    torch.cuda.empty_cache()\n"
        "else:\n    if a:\n        b()\n    c()\n",
    ),
    conflict("no torch", "`torch` is not bound", 1, "torch.cuda.empty_cache()\n"),
    conflict(
        "two", "expected 1 place to fix, found 2 (lines 2, 3)", 2, "import torch\n" + "torch.cuda.empty_cache()\n" * 2
    ),
    conflict(
        "it asks for more",
        "`flush and torch.cuda.is_available()` keeps other accelerators out",
        3,
        "import torch\nif flush and torch.cuda.is_available():\n    torch.cuda.empty_cache()\n",
    ),
    conflict(
        "devices by their names",
        "`device.type in ('cuda', 'xpu')` keeps other accelerators out",
        3,
        'import torch\nif device.type in ("cuda", "xpu"):\n    torch.cuda.empty_cache()\n',
    ),
    conflict(
        "where CUDA has a card",
        "`torch.cuda.device_count() > 0` keeps other accelerators out",
        3,
        "import torch\nif torch.cuda.device_count() > 0:\n    torch.cuda.empty_cache()\n",
    ),
    conflict(
        "CUDA or another one",
        "`torch.cuda.is_available() or torch.xpu.is_available()` keeps other accelerators out",
        3,
        "import torch\nif torch.cuda.is_available() or torch.xpu.is_available():\n    torch.cuda.empty_cache()\n",
    ),
    gone(
        "deeper below the question",
        "import torch\nif torch.cuda.is_available():\n    for each in many:\n        torch.cuda.empty_cache()\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
