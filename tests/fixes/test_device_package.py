"""device-package: import the device's package below the other imports."""

from __future__ import annotations

import ast
import sys
from types import ModuleType

import pytest
from fixing import case, gone, run, satisfied, tables

from kit import fixes
from kit.codemod import Outcome

NAME = "device-package"
GUARD = 'if __name__ == "__main__":\n    main()\n'
LINE = "import device_package  # noqa: F401 - registers the device with torch"

APPLIED = [
    case(
        "below the imports, above what follows them",
        """
        import argparse

        import torch
        import torch.nn.functional as F
        from accelerate import Accelerator

        from diffusers.utils import (
            check_min_version,
            is_wandb_available,
        )


        # Will error if the minimal version is not installed.
        check_min_version("0.20.0")

        if __name__ == "__main__":
            main()
        """,
        f"""
        import argparse

        import torch
        import torch.nn.functional as F
        from accelerate import Accelerator

        from diffusers.utils import (
            check_min_version,
            is_wandb_available,
        )

        {LINE}


        # Will error if the minimal version is not installed.
        check_min_version("0.20.0")

        if __name__ == "__main__":
            main()
        """,
    ),
    case(
        "a package that the recipe names",
        """
        import torch

        print(torch.device("tpu:0"))
        """,
        """
        import torch

        import torch_tpu  # noqa: F401 - registers the device with torch

        print(torch.device("tpu:0"))
        """,
        package="torch_tpu",
    ),
    case(
        "two on a line",
        """
        import os, torch
        os.system("true") if __name__ == "__main__" else main()
        """.replace('os.system("true") if', "if").replace(" else main()", ":\n            main()"),
        f"""
        import os, torch

        {LINE}
        if __name__ == "__main__":
            main()
        """,
    ),
    case(
        "the imports with torch, not the ones above or below",
        """
        import os
        os.environ["A"] = "1"
        import torch  # after the variable
        if os.environ["A"]:
            import json
        import math
        args = argparse.ArgumentParser().parse_args()
        """,
        f"""
        import os
        os.environ["A"] = "1"
        import torch  # after the variable

        {LINE}
        if os.environ["A"]:
            import json
        import math
        args = argparse.ArgumentParser().parse_args()
        """,
    ),
    case(
        "others are imported by their names",
        "import torch; seed()\nimport_module('a')\nimport_module('z')\n" + GUARD,
        f"import torch; seed()\n\n{LINE}\nimport_module('a')\nimport_module('z')\n" + GUARD,
    ),
]

TYPES = """\
import torch
from typing import TYPE_CHECKING

{line}if {test}:
    import device_package
"""
APPLIED += [
    case(
        f"only for types: {test}",
        TYPES.format(test=test, line="") + GUARD,
        TYPES.format(test=test, line=f"{LINE}\n\n") + GUARD,
    )
    for test in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
]
REFUSED = [
    satisfied("imported", f"import torch\n\n{LINE}\n{GUARD}"),
    satisfied("by its name", f"import torch\nimportlib.import_module('device_package')\n{GUARD}"),
    satisfied("with others", f"import torch, device_package\n{GUARD}"),
    satisfied("before torch, which it imports itself", f"import device_package\nimport torch\n{GUARD}"),
    satisfied("among the imports", f"import torch\nimport device_package\nimport math\n{GUARD}"),
    satisfied("not only for types", TYPES.format(test="not TYPE_CHECKING", line="") + GUARD),
    satisfied("in the else of types", TYPES.format(test="TYPE_CHECKING:\n    pass\nelse", line="") + GUARD),
    gone("no torch", f"import jax\n{GUARD}"),
    gone("only a part of torch", f"import torch.nn.functional as F\nfrom torch import nn\n{GUARD}"),
    gone("torch in a function", f"def f():\n    import torch\n{GUARD}"),
    gone("torch where it may be missing", f"try:\n    import torch\nexcept ImportError:\n    torch = None\n{GUARD}"),
    gone("a module", "import torch\n"),
    gone("a module that reads for a script", "import torch\ndef read(parser):\n    return parser.parse_args()\n"),
    gone("a module with a parser for others", "import torch\ndef parser():\n    return ArgumentParser()\n"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_the_device_is_known_after_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"cpu"}

    class Package(ModuleType):
        def __init__(self) -> None:
            super().__init__("torch_tpu")

    def find(name: str, *_: object) -> ModuleType:
        if name == "torch_tpu":
            known.add("tpu:0")
            return Package()
        torch = ModuleType("torch")
        torch.device = lambda device: known.__contains__(device) or sys.exit(f"no {device}")  # type: ignore[attr-defined]
        return torch

    monkeypatch.setattr("builtins.__import__", find)
    given = APPLIED[1].values[0]
    with pytest.raises(SystemExit, match="no tpu:0"):
        run(given.before)
    run(given.after)


@pytest.mark.parametrize("above", [0, 1])
def test_the_line_is_the_one_below_the_imports(above: int) -> None:
    text = "import os\n" * above + "import torch\nfrom os import (\n    path,\n)\nx = 1\n" + GUARD
    assert [site.line for site in fixes.load(NAME).sites(ast.parse(text), {})] == [5 + above]


def test_outcomes_are_told_apart() -> None:
    assert {param.values[0].outcome for param in REFUSED} == {Outcome.satisfied, Outcome.gone}
