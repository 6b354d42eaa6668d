"""`kit diff [WORKSPACE]`: what kit changed, or with --local what was edited since."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from kit import git, lock
from kit import workspace as workspaces


def run(workspace: str | None, local: bool, stat: bool) -> int:
    style = ["--no-ext-diff", "--no-textconv", "--color=auto", "--src-prefix=a/", "--dst-prefix=b/", "--no-relative"]
    style += ["--stat"] if stat else ["--binary", "--no-renames", "--diff-algorithm=myers", "--unified=3"]
    for place in workspaces.find(Path(workspace or ".")):
        for name, upstream in lock.read(place).upstreams.items():
            repository = place / name
            if not local:
                git.show("diff", *style, upstream.pin, upstream.commit, at=repository)
                continue
            # New files belong to the diff too: they are announced in a copy of the index, not in the user's own.
            git.run("rev-parse", "HEAD", at=repository)  # it is a repository
            with tempfile.TemporaryDirectory() as scratch:
                index = Path(shutil.copy(repository / ".git" / "index", scratch))
                sparse = ["--sparse"] if (git.version() or git.FLOOR) >= (2, 34) else []  # before, it needs no word
                git.run("add", "--intent-to-add", *sparse, ".", at=repository, index=index)
                git.show("diff", *style, upstream.commit, at=repository, index=index)
    return 0
