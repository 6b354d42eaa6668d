"""Completion, as bash asks for it."""

from __future__ import annotations

import subprocess

import pytest
from support import Kit

from kit import recipes


def complete(kit: Kit, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    monkeypatch.setenv("_KIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    return [line.partition(",")[2] for line in kit().out.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kit pre", ["prepare"]),
        ("kit show de", ["demo"]),
        ("kit prepare ", recipes.names()),
        ("kit prepare demo --device c", ["cpu", "cuda"]),
        ("kit prepare demo --without pro", ["progress-print"]),
        ("kit prepare nothing --without pro", []),
        ("kit prepare --dry", ["--dry-run"]),
        ("kit doctor --device n", ["npu"]),
    ],
)
def test_completion(kit: Kit, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]) -> None:
    assert complete(kit, monkeypatch, words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(kit: Kit, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_KIT_COMPLETE", f"{shell}_source")
    done = kit()
    assert done.status == 0 and f"_KIT_COMPLETE={shell}_complete" in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, text=True, check=True)
