"""What is imported when: `kit --help` little, and the fast path no libcst."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import Root, kit_argv

HEAVY = ("git", "libcst", "jinja2", "rich", "unidiff", "yaml", "filelock", "kit.planning", "kit.workspace")
IMPORTED = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))"


def imported(*arguments: str | Path) -> set[str]:
    subprocess.run(kit_argv(*arguments, before=IMPORTED), check=True, capture_output=True)
    return set(Path("modules").read_text().split())


def test_help_imports_little() -> None:
    assert imported("--help").isdisjoint(HEAVY)
    assert imported("list").isdisjoint({*HEAVY} - {"filelock"})


def test_the_fast_path_needs_no_libcst(root: Root) -> None:
    path = root.place / "recipes/tiny.toml"
    found = imported("prepare", path, "--device", "cpu")
    assert {"kit.series", "unidiff"} <= found and found.isdisjoint({"libcst", "rich", "yaml", "kit.codemod"})
    for patch in root.patches().iterdir():
        patch.unlink()
    assert "libcst" in imported("refresh", path)  # what is looked for would be seen
