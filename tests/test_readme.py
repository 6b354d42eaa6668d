"""README.md shows what kit prints. `python tests/test_readme.py` writes the shown output anew, in every language."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
FOLDED = re.compile(r"(?ms)^<summary>([^\n]*)</summary>\n\n```\w*\n(.*?)^```$")
BLOCK = re.compile(r"(?ms)^```console\n\$ ([^\n]*)\n(.*?)^```$")


def shown() -> dict[str, str]:
    """The commands the README shows, with their output."""
    return dict(BLOCK.findall(README.read_text("utf-8")))


def printed(command: str, folder: Path) -> str:
    """What a command of the README prints in an empty folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    # Whether the upstream came from the cache depends on who ran before.
    return re.sub(r"(?m)from the cache$", "fetched 2.6 MB", done.stdout.decode())


@pytest.mark.parametrize("command", [command for command in shown() if "prepare hidream" not in command])
def test_shown_output(command: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert printed(command, tmp_path / "empty") == shown()[command]


def test_it_opens_with_two_commands() -> None:
    text = README.read_text("utf-8")
    commands = re.findall(r"(?m)^    (python3 .*)$", text)
    assert len(commands) == 2 and commands[1].endswith("-m pytest")
    assert commands[1].split(" && ")[0] in (README.parent / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("page", sorted(README.parent.glob("README*.md")), ids=lambda page: page.name)
def test_a_folded_output_says_what_is_in_it(page: Path) -> None:
    folded = FOLDED.findall(page.read_text("utf-8"))
    assert len(folded) == page.read_text("utf-8").count("<summary>")
    wrong = [said for title, output in folded for said in re.findall("<code>(.*?)</code>", title) if said not in output]
    assert [said for said in wrong if not said.startswith("kit ")] == []


if __name__ == "__main__":

    @functools.cache
    def anew(command: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            return f"```console\n$ {command}\n{printed(command, Path(folder))}```"

    for page in README.parent.glob("README*.md"):
        page.write_text(BLOCK.sub(lambda block: anew(block[1]), page.read_text("utf-8")), encoding="utf-8")
