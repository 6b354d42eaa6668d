"""The worked example of CONTRIBUTING.md, as it is printed: outside kit, from its files to its red."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support import REPOSITORY, kit_process, write

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
FILES = dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^    kit (.+)", PAGE, re.MULTILINE)


def test_the_example_proves_itself(package_index: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, FILES))
    out = ""
    for command in COMMANDS:
        done = kit_process(*shlex.split(command))
        assert done.status == 0, (command, done.out, done.err)
        out += done.out
    assert "ok    train: " in out and "prints the steps it trained" in out
    assert "ok    without flush-at-end the failure it is for appears" in out
